package archive

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
)

// Mem is a [Store] in memory, for tests and dry runs.
type Mem struct {
	mu      sync.Mutex
	objects map[string]memObject
}

type memObject struct {
	body     []byte
	modified time.Time
}

// NewMem returns an empty store.
func NewMem() *Mem { return &Mem{objects: map[string]memObject{}} }

// String implements [Store].
func (m *Mem) String() string { return "memory" }

// Put implements [Store].
func (m *Mem) Put(ctx context.Context, name string, body io.Reader) error {
	if err := CheckName(name); err != nil {
		return err
	}
	data, err := io.ReadAll(ctxReader{ctx, body})
	if err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, taken := m.objects[name]; taken {
		return fmt.Errorf("put %s: %w", name, ErrExists)
	}
	m.objects[name] = memObject{data, time.Now()}
	return nil
}

func (m *Mem) object(ctx context.Context, op, name string) (memObject, error) {
	if err := CheckName(name); err != nil {
		return memObject{}, err
	}
	if err := context.Cause(ctx); err != nil {
		return memObject{}, fmt.Errorf("%s %s: %w", op, name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[name]
	if !ok {
		return memObject{}, fmt.Errorf("%s %s: %w", op, name, ErrNotExist)
	}
	return o, nil
}

// Get implements [Store].
func (m *Mem) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
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
	return io.NopCloser(ctxReader{ctx, bytes.NewReader(body)}), nil
}

// Stat implements [Store].
func (m *Mem) Stat(ctx context.Context, name string) (Info, error) {
	o, err := m.object(ctx, "stat", name)
	if err != nil {
		return Info{}, err
	}
	return Info{Name: name, Size: int64(len(o.body)), Modified: o.modified}, nil
}

// List implements [Store].
func (m *Mem) List(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		m.mu.Lock()
		objects := maps.Clone(m.objects)
		m.mu.Unlock()
		for _, name := range slices.Sorted(maps.Keys(objects)) {
			if err := context.Cause(ctx); err != nil {
				yield(Info{}, fmt.Errorf("list %s: %w", prefix, err))
				return
			}
			if !strings.HasPrefix(name, prefix) || name <= after {
				continue
			}
			o := objects[name]
			if !yield(Info{Name: name, Size: int64(len(o.body)), Modified: o.modified}, nil) {
				return
			}
		}
	}
}

// Swap implements [Store].
func (m *Mem) Swap(ctx context.Context, name string, old, body []byte) error {
	err := checkState(name)
	if err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("swap %s: %w", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	have, exists := m.objects[name]
	if exists != (old != nil) || !bytes.Equal(have.body, old) {
		return fmt.Errorf("swap %s: %w", name, ErrChanged)
	}
	m.objects[name] = memObject{bytes.Clone(body), time.Now()}
	return nil
}

// Delete implements [Store].
func (m *Mem) Delete(ctx context.Context, name string) error {
	if err := CheckName(name); err != nil {
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

// Confirm implements [Store].
func (m *Mem) Confirm(ctx context.Context, name string) error {
	_, err := m.object(ctx, "confirm", name)
	return err
}
