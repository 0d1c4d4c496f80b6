package receiver

import (
	"errors"
	"fmt"
	"strings"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// WALRemovedError says that the server has recycled the WAL with which a stream
// would have gone on.
type WALRemovedError struct {
	Timeline wal.Timeline
	LSN      wal.LSN // where the stream would have gone on
	Err      error   // the server's own words, with the segment's name
}

func (e *WALRemovedError) Error() string {
	return fmt.Sprintf("the server no longer has the WAL of timeline %s from %s on: %v", e.Timeline, e.LSN, e.Err)
}

func (e *WALRemovedError) Unwrap() error { return e.Err }

// BehindError says that the server has less WAL of a timeline than is durable
// here: it lost some, or it is an older copy. Nothing is acknowledged to it.
type BehindError struct {
	Timeline wal.Timeline
	Server   wal.LSN // the server's flush position
	Ours     wal.LSN
}

func (e *BehindError) Error() string {
	return fmt.Sprintf("the server is at %s of timeline %s, behind what was received from it, %s: it lost WAL, or it is an old copy", e.Server, e.Timeline, e.Ours)
}

// BranchError says that the server's history does not contain the timeline
// that is being received: it is an older primary that came back, or one that
// was promoted elsewhere. Nothing is acknowledged to it.
type BranchError struct {
	Server wal.Timeline
	Ours   wal.Timeline
}

func (e *BranchError) Error() string {
	if e.Server < e.Ours {
		return fmt.Sprintf("the server is on timeline %s, older than %s, which was received already: an old primary that came back", e.Server, e.Ours)
	}
	if e.Server == e.Ours {
		return fmt.Sprintf("the server's timeline %s forked off elsewhere than the one that was received", e.Server)
	}
	return fmt.Sprintf("the server is on timeline %s, which does not descend from %s", e.Server, e.Ours)
}

// alarming says whether err is a state of the server, or of the sink's disk,
// that somebody should look at, rather than a connection that failed.
func alarming(err error) bool {
	return errors.As(err, new(*BehindError)) || errors.As(err, new(*BranchError)) || errors.As(err, new(*pg.SupersededError))
}

var errServerShutdown = errors.New("the server has shut down")

// sinkError marks an error of the sink, which is final.
type sinkError struct{ error }

func (e *sinkError) Unwrap() error { return e.error }

func fromSink(err error) error {
	if err == nil || errors.As(err, new(*segment.FullError)) {
		return err
	}
	return &sinkError{err}
}

// refusal marks what only a person can mend: definite at the first
// connection.
type refusal struct{ error }

func (e *refusal) Unwrap() error { return e.error }

// explainStream names what a server's error within the stream means. The text
// is compared because walsender derives the SQLSTATE of "already been removed"
// from a stale errno when the file goes away while it is read.
func explainStream(err error, tli wal.Timeline, at wal.LSN) error {
	if err == nil {
		return nil
	}
	if pg.Code(err) == pg.CodeObjectInUse {
		err = hint.With(err, "%s", "give each receiver a slot of its own with --slot, or let them share it: slot_mode: hold")
	}
	if pg.Code(err) != pg.CodeUndefinedFile && !strings.Contains(err.Error(), "has already been removed") {
		return fmt.Errorf("stream of timeline %s at %s: %w", tli, at, err)
	}
	return &WALRemovedError{Timeline: tli, LSN: at, Err: err}
}
