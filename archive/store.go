package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
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

// ErrChanged is returned by [Store.Swap] when the object is not what the caller
// took it for; it is untouched.
var ErrChanged = errors.New("object was changed by another process")

// StatePrefix begins the names of the only objects that may change.
const StatePrefix = "state/"

// ErrNoDirectory says that the directory of an archive is not there. Whether
// it is yet to be made or not mounted only a person can tell.
var ErrNoDirectory = errors.New("there is no such directory")

// Store keeps named objects. Names are slash-separated relative paths as
// [CheckName] accepts them; others are an error. All methods may be called
// concurrently. The conformance suite in store_test.go is this contract as a
// program.
type Store interface {
	// Put stores body under a name that is not taken. When it returns nil
	// the object is durable, whole, and seen by Get, Stat and List at once;
	// when it fails with another error than [ErrExists] the object may or
	// may not be there, but never in part: also when body fails. Of
	// concurrent Puts of one name exactly one succeeds. body may be left
	// unread when the name is taken.
	Put(ctx context.Context, name string, body io.Reader) error
	// Get reads n bytes from off on, to the end when n is negative. A range
	// that reaches beyond the end is cut there.
	Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error)
	Stat(ctx context.Context, name string) (Info, error)
	// List yields the objects whose names begin with prefix and sort
	// behind after, in byte order of their names. Neither need be a name.
	// An error ends it.
	List(ctx context.Context, prefix, after string) iter.Seq2[Info, error]
	// Delete removes an object durably; an absent one is no error.
	Delete(ctx context.Context, name string) error
	// Confirm makes sure that an object which Put found to exist is
	// durable: another writer may have died between making it visible and
	// syncing it. It fails with ErrNotExist when there is none.
	Confirm(ctx context.Context, name string) error
	// Swap gives an object below [StatePrefix] the contents body if it holds
	// old, nil standing for no object, and fails with [ErrChanged] if not.
	// When it returns nil the contents are durable, and seen at once; when it
	// fails otherwise the object holds the old ones or the new. Of
	// concurrent Swaps of the same contents exactly one succeeds. Both are
	// small.
	Swap(ctx context.Context, name string, old, body []byte) error
	// String is the location as the user wrote it.
	String() string
}

// maxName is the longest key that S3 takes.
const maxName = 1024

// CheckName says why name cannot name an object. A name is one or more
// elements separated by single slashes; an element consists of the characters
// [A-Za-z0-9._-] and does not begin with a dot.
func CheckName(name string) error {
	if len(name) > maxName {
		return fmt.Errorf("object name of %d bytes: at most %d are possible", len(name), maxName)
	}
	for elem := range strings.SplitSeq(name, "/") {
		if !validElement(elem) {
			return fmt.Errorf("%q is no object name", name)
		}
	}
	return nil
}

// checkState says why name cannot be given to Swap.
func checkState(name string) error {
	if !strings.HasPrefix(name, StatePrefix) {
		return fmt.Errorf("swap %s: only objects below %s may change", name, StatePrefix)
	}
	return CheckName(name)
}

func validElement(elem string) bool {
	if elem == "" || elem[0] == '.' || len(elem) > 255 {
		return false
	}
	for _, c := range []byte(elem) {
		switch {
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// ctxReader stops reading when its context ends.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
