package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
)

// rehearsal is a store that is written to only in appearance.
type rehearsal struct {
	Store
	wrote *Mem
}

// Rehearse wraps a store for a dry run: what is put or deleted seems to be, as
// far as listings, small objects and the headers of segments show, but store
// is not changed. It takes memory for those headers.
func Rehearse(store Store) Store { return &rehearsal{store, NewMem()} }

// Put implements [Store]. It reads body to its end, so that its errors show.
func (r *rehearsal) Put(ctx context.Context, name string, body io.Reader) error {
	_, err := r.Store.Stat(ctx, name)
	if err == nil {
		return fmt.Errorf("put %s: %w", name, ErrExists)
	}
	if !errors.Is(err, ErrNotExist) {
		return err
	}
	kept, err := io.ReadAll(io.LimitReader(body, maxSmall))
	if err == nil {
		_, err = io.Copy(io.Discard, body)
	}
	if err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	if size, err := headerSize(name, kept); err == nil {
		kept = bytes.Clone(kept[:min(size, int64(len(kept)))])
	}
	return r.wrote.Put(ctx, name, bytes.NewReader(kept))
}

// of is where an object is.
func (r *rehearsal) of(ctx context.Context, name string) Store {
	if _, err := r.wrote.Stat(ctx, name); err == nil {
		return r.wrote
	}
	return r.Store
}

// Get implements [Store].
func (r *rehearsal) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	return r.of(ctx, name).Get(ctx, name, off, n)
}

// Stat implements [Store].
func (r *rehearsal) Stat(ctx context.Context, name string) (Info, error) {
	return r.of(ctx, name).Stat(ctx, name)
}

// List implements [Store].
func (r *rehearsal) List(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		var wrote []Info
		for info, err := range r.wrote.List(ctx, prefix, after) {
			if err != nil {
				yield(Info{}, err)
				return
			}
			wrote = append(wrote, info)
		}
		for info, err := range r.Store.List(ctx, prefix, after) {
			for err == nil && len(wrote) > 0 && wrote[0].Name < info.Name {
				if !yield(wrote[0], nil) {
					return
				}
				wrote = wrote[1:]
			}
			if !yield(info, err) || err != nil {
				return
			}
		}
		for _, info := range wrote {
			if !yield(info, nil) {
				return
			}
		}
	}
}

// Delete implements [Store]. What is stored stays, and seems to.
func (r *rehearsal) Delete(ctx context.Context, name string) error {
	return r.wrote.Delete(ctx, name)
}

// Confirm implements [Store].
func (r *rehearsal) Confirm(ctx context.Context, name string) error {
	_, err := r.Stat(ctx, name)
	return err
}
