package archive

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"time"

	"github.com/walstream/walstream/internal/hint"
)

// Probe tries whether a store does what an archive rests on: it refuses to put
// an object again, lists an object as soon as it is put, and deletes it. It
// leaves nothing behind, costs about six requests, and returns when that was by
// the store's clock.
func Probe(ctx context.Context, store Store) (stored time.Time, err error) {
	name := StatePrefix + "probe-" + rand.Text()
	if err := store.Put(ctx, name, strings.NewReader("first")); err != nil {
		return stored, err
	}
	stored, err = probe(ctx, store, name)
	if err = errors.Join(err, store.Delete(ctx, name)); err != nil {
		return stored, err
	}
	if _, err := store.Stat(ctx, name); !errors.Is(err, ErrNotExist) {
		return stored, hint.Errorf("grant the right to delete, and turn off what retains objects (docs/s3.md)", "%s is still in %s after it was deleted (%v)", name, store, err)
	}
	return stored, nil
}

func probe(ctx context.Context, store Store, name string) (stored time.Time, err error) {
	err = store.Put(ctx, name, strings.NewReader("again"))
	if err == nil {
		return stored, hint.Errorf("use a store that knows If-None-Match, or if there will only ever be one single receiver: s3.unsafe_no_conditional_put: true",
			"%s overwrites an object that was to be created only", store)
	}
	if !errors.Is(err, ErrExists) {
		return stored, err
	}
	for info, err := range store.List(ctx, name, "") {
		if err != nil {
			return stored, err
		}
		if info.Name == name {
			return info.Modified, nil
		}
	}
	return stored, hint.Errorf("use a store whose listings are consistent", "%s does not list %s although it was put a moment ago", store, name)
}
