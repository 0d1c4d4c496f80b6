package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// rehearsal is a store that is written to only in appearance.
type rehearsal struct {
	Store
	mu    sync.Mutex
	wrote map[string][]byte
}

// Rehearse wraps a store for a dry run: what is put or deleted seems to be, as
// far as listings, small objects and the headers of segments show, but store
// is not changed. It takes memory for those headers.
func Rehearse(store Store) Store { return &rehearsal{Store: store, wrote: map[string][]byte{}} }

// Absent is a store that is yet to be made at location, to be rehearsed only.
func Absent(location string) Store { return absent{location: location} }

type absent struct {
	Store    // nil: what changes something is never asked of it
	location string
}

func (a absent) String() string { return a.location }

func (absent) Get(context.Context, string, int64, int64) (io.ReadCloser, error) {
	return nil, ErrNotExist
}

func (absent) Stat(context.Context, string) (Info, error) { return Info{}, ErrNotExist }

func (absent) List(context.Context, string, string) iter.Seq2[Info, error] {
	return func(func(Info, error) bool) {}
}

// Put implements [Store]. It reads body to its end, so that its errors show.
func (r *rehearsal) Put(ctx context.Context, name string, body io.Reader) error {
	_, err := r.Stat(ctx, name)
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
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wrote[name] = kept
	return nil
}

// object is what was put under a name.
func (r *rehearsal) object(name string) (body []byte, info Info, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	body, ok = r.wrote[name]
	return body, Info{Name: name, Size: int64(len(body)), Modified: time.Now()}, ok
}

// Get implements [Store].
func (r *rehearsal) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	body, info, ok := r.object(name)
	if !ok {
		return r.Store.Get(ctx, name, off, n)
	}
	if n < 0 {
		n = info.Size
	}
	return io.NopCloser(io.NewSectionReader(bytes.NewReader(body), off, n)), nil
}

// Stat implements [Store].
func (r *rehearsal) Stat(ctx context.Context, name string) (Info, error) {
	if _, info, ok := r.object(name); ok {
		return info, nil
	}
	return r.Store.Stat(ctx, name)
}

// List implements [Store].
func (r *rehearsal) List(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		r.mu.Lock()
		wrote := slices.Sorted(maps.Keys(r.wrote))
		r.mu.Unlock()
		wrote = slices.DeleteFunc(wrote, func(name string) bool { return !strings.HasPrefix(name, prefix) || name <= after })
		yieldBefore := func(name string) bool {
			for len(wrote) > 0 && (name == "" || wrote[0] < name) {
				_, info, _ := r.object(wrote[0])
				if wrote = wrote[1:]; !yield(info, nil) {
					return false
				}
			}
			return true
		}
		for info, err := range r.Store.List(ctx, prefix, after) {
			if err == nil && !yieldBefore(info.Name) || !yield(info, err) || err != nil {
				return
			}
		}
		yieldBefore("")
	}
}

// Delete implements [Store]. What is stored stays, and seems to.
func (r *rehearsal) Delete(_ context.Context, name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.wrote, name)
	return nil
}

// Confirm implements [Store].
func (r *rehearsal) Confirm(ctx context.Context, name string) error {
	_, err := r.Stat(ctx, name)
	return err
}

// Swap implements [Store]. No dry run needs it.
func (r *rehearsal) Swap(context.Context, string, []byte, []byte) error { return errors.ErrUnsupported }
