package archive

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"
)

// Info describes one stored object.
type Info struct {
	Name     string
	Size     int64
	Modified time.Time
}

// ErrExists is returned by [Store.Put] for a name that is taken; what was
// there is untouched.
var ErrExists = errors.New("object exists already")

// ErrNotExist is a store's definite answer that there is no such object. Any
// other error means "unknown", never "absent".
var ErrNotExist = errors.New("no such object")

// Store keeps named objects. Names are slash-separated paths of the
// characters [A-Za-z0-9._-], relative, without "." and ".." elements. All
// methods may be called concurrently. The conformance suite in storetest is
// this contract as a program.
type Store interface {
	// Put stores body under a name that is not taken. When it returns nil
	// the object is durable, whole, and seen by Get, Stat and List at once;
	// when it fails with another error than [ErrExists] the object may or
	// may not be there, but never in part. Of concurrent Puts of one name
	// exactly one succeeds.
	Put(ctx context.Context, name string, body io.Reader) error
	// Get reads n bytes from off on, to the end when n is negative. A range
	// that reaches beyond the end is cut there.
	Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error)
	Stat(ctx context.Context, name string) (Info, error)
	// List yields the objects whose names begin with prefix and sort
	// behind after, in byte order of their names. An error ends it.
	List(ctx context.Context, prefix, after string) iter.Seq2[Info, error]
	// Delete removes an object durably; an absent one is no error.
	Delete(ctx context.Context, name string) error
	// Confirm makes sure that an object which Put found to exist is
	// durable: another writer may have died between making it visible and
	// syncing it. It fails with ErrNotExist when there is none.
	Confirm(ctx context.Context, name string) error
	// String is the location as the user wrote it.
	String() string
}
