// Package memstore is an [archive.Store] in memory, for tests.
package memstore

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/walstream/walstream/archive"
)

// Store is an [archive.Store] in memory.
type Store struct {
	mu      sync.Mutex
	objects map[string]object
}

type object struct {
	body     []byte
	modified time.Time
}

// New returns an empty store.
func New() *Store { return &Store{objects: map[string]object{}} }

// String implements [archive.Store].
func (m *Store) String() string { return "memory" }

// Put implements [archive.Store].
func (m *Store) Put(ctx context.Context, name string, body io.Reader) error {
	if err := archive.CheckName(name); err != nil {
		return err
	}
	data, err := io.ReadAll(reader{ctx, body})
	if err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, taken := m.objects[name]; taken {
		return fmt.Errorf("put %s: %w", name, archive.ErrExists)
	}
	m.objects[name] = object{data, time.Now()}
	return nil
}

func (m *Store) object(ctx context.Context, op, name string) (object, error) {
	if err := archive.CheckName(name); err != nil {
		return object{}, err
	}
	if err := context.Cause(ctx); err != nil {
		return object{}, fmt.Errorf("%s %s: %w", op, name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[name]
	if !ok {
		return object{}, fmt.Errorf("%s %s: %w", op, name, archive.ErrNotExist)
	}
	return o, nil
}

// Get implements [archive.Store].
func (m *Store) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if off < 0 {
		return nil, fmt.Errorf("get %s: negative offset %d", name, off)
	}
	o, err := m.object(ctx, "get", name)
	if err != nil {
		return nil, err
	}
	body := o.body[min(off, int64(len(o.body))):]
	if n >= 0 {
		body = body[:min(n, int64(len(body)))]
	}
	return io.NopCloser(reader{ctx, bytes.NewReader(body)}), nil
}

// Stat implements [archive.Store].
func (m *Store) Stat(ctx context.Context, name string) (archive.Info, error) {
	o, err := m.object(ctx, "stat", name)
	if err != nil {
		return archive.Info{}, err
	}
	return archive.Info{Name: name, Size: int64(len(o.body)), Modified: o.modified}, nil
}

// List implements [archive.Store].
func (m *Store) List(ctx context.Context, prefix, after string) iter.Seq2[archive.Info, error] {
	return func(yield func(archive.Info, error) bool) {
		m.mu.Lock()
		objects := maps.Clone(m.objects)
		m.mu.Unlock()
		for _, name := range slices.Sorted(maps.Keys(objects)) {
			if err := context.Cause(ctx); err != nil {
				yield(archive.Info{}, fmt.Errorf("list %s: %w", prefix, err))
				return
			}
			if !strings.HasPrefix(name, prefix) || name <= after {
				continue
			}
			o := objects[name]
			if !yield(archive.Info{Name: name, Size: int64(len(o.body)), Modified: o.modified}, nil) {
				return
			}
		}
	}
}

// Swap implements [archive.Store].
func (m *Store) Swap(ctx context.Context, name string, old, body []byte) error {
	if !strings.HasPrefix(name, archive.StatePrefix) {
		return fmt.Errorf("swap %s: only objects below %s may change", name, archive.StatePrefix)
	}
	if err := archive.CheckName(name); err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("swap %s: %w", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	have, exists := m.objects[name]
	if exists != (old != nil) || !bytes.Equal(have.body, old) {
		return fmt.Errorf("swap %s: %w", name, archive.ErrChanged)
	}
	m.objects[name] = object{bytes.Clone(body), time.Now()}
	return nil
}

// Delete implements [archive.Store].
func (m *Store) Delete(ctx context.Context, name string) error {
	if err := archive.CheckName(name); err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, name)
	return nil
}

// Confirm implements [archive.Store].
func (m *Store) Confirm(ctx context.Context, name string) error {
	_, err := m.object(ctx, "confirm", name)
	return err
}

// reader stops reading when its context ends.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
