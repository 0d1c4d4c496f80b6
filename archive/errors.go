package archive

import (
	"fmt"

	"github.com/walstream/walstream/wal"
)

// CorruptError says that an object is there but is not what was stored. The
// object is only reported, never changed.
type CorruptError struct {
	Object string // name in the store
	What   string // the part or property that is wrong
	Have   string // empty: What says it all
	Want   string
}

func (e *CorruptError) Error() string {
	if e.Have == "" {
		return fmt.Sprintf("%s is damaged: %s", e.Object, e.What)
	}
	return fmt.Sprintf("%s is damaged: %s is %s, not %s", e.Object, e.What, e.Have, e.Want)
}

// ConflictError says that the archive holds other contents under a name that
// was to be stored: two servers wrote WAL of the same timeline. Nothing was
// changed.
type ConflictError struct {
	Object string
	Have   string // SHA-256 of the plain contents in the archive, hexadecimal
	Want   string // of what was to be stored
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%s is in the archive with other contents (sha256 %s) than here (%s): two servers wrote this timeline", e.Object, e.Have, e.Want)
}

// BrokenError says that the bytes that were to be stored as WAL are no
// unbroken chain of WAL records of this cluster. Nothing was stored.
type BrokenError struct {
	Object string  // name that they would have had
	LSN    wal.LSN // where they stop making sense
	Err    error
}

func (e *BrokenError) Error() string {
	return fmt.Sprintf("%s is not stored: no valid WAL at %s: %v", e.Object, e.LSN, e.Err)
}

func (e *BrokenError) Unwrap() error { return e.Err }
