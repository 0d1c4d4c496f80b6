package segment

import (
	"fmt"

	"github.com/walstream/walstream/wal"
)

// LockedError says that another process works on the spool.
type LockedError struct{ Path string }

func (e *LockedError) Error() string { return "spool lock " + e.Path + " is held by another process" }

// DeletedError says that somebody has deleted the file of the segment that is
// being written.
type DeletedError struct{ Name string }

func (e *DeletedError) Error() string { return e.Name + " was deleted while it was written" }

// GapError says that WAL is missing between what the spool holds of a
// timeline and what it was given.
type GapError struct {
	Timeline wal.Timeline
	Have     wal.LSN // first byte that is missing
	Got      wal.LSN // first byte that was given
}

func (e *GapError) Error() string {
	return fmt.Sprintf("timeline %s: WAL from %s to %s is missing", e.Timeline, e.Have, e.Got)
}

// OrderError says that bytes came for another position than the next one, or
// that a stream was begun within a segment.
type OrderError struct {
	Timeline wal.Timeline
	Want     wal.LSN
	Got      wal.LSN
}

func (e *OrderError) Error() string {
	return fmt.Sprintf("timeline %s: got WAL at %s, want %s", e.Timeline, e.Got, e.Want)
}

// TimelineError says that WAL of timeline Got does not fit: Have is being
// received, or is newer than Got, or is not among its ancestors.
type TimelineError struct {
	Have   wal.Timeline
	Got    wal.Timeline
	Reason string
}

func (e *TimelineError) Error() string {
	return fmt.Sprintf("WAL of timeline %s after timeline %s: %s", e.Got, e.Have, e.Reason)
}

// DivergenceError says that the server sent other bytes than the spool holds
// durably: two servers wrote the same timeline. Nothing was overwritten.
type DivergenceError struct {
	Object   string // the file that the bytes were compared with
	Timeline wal.Timeline
	LSN      wal.LSN // of the first byte that differs; zero for a history
}

func (e *DivergenceError) Error() string {
	if e.LSN == 0 {
		return fmt.Sprintf("%s: the server has another history of timeline %s", e.Object, e.Timeline)
	}
	return fmt.Sprintf("%s: the server sent other WAL of timeline %s at %s", e.Object, e.Timeline, e.LSN)
}
