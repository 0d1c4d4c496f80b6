package segment

import (
	"context"
	"errors"

	"github.com/rs/zerolog"

	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/wal"
)

// SpoolConfig says where a spool lives and whose WAL it holds.
type SpoolConfig struct {
	Dir      string
	FS       fsx.FS // nil means the operating system's
	Identity Identity
	Log      zerolog.Logger
}

// Position is a place in the WAL: everything of Timeline before LSN.
type Position struct {
	Timeline wal.Timeline
	LSN      wal.LSN
}

// Usage is what a spool occupies.
type Usage struct {
	Bytes   int64 // of all segment files
	Waiting int   // sealed segments and remainders that are not released
}

// Spool is a directory in which received WAL is made durable before it is
// acknowledged, and from which it is archived.
//
// Three parties use it at once: one goroutine that appends (Begin, Append,
// SaveHistory, EndTimeline, Skip), one or more that call Sync, and any number
// that take and release sealed pieces (Next, Release). All other methods may
// be called from anywhere.
//
// The first error of a write or fsync is final: every later Begin, Append,
// Sync, SaveHistory and EndTimeline returns it, because the kernel may call a
// retried fsync a success although the data is gone. A new process recovers.
// Next and Release go on working.
type Spool struct{}

var errTODO = errors.New("spool: not written yet")

// OpenSpool makes the directory if it is missing, locks it, pins or checks its
// identity (a difference is a [*ForeignError]) and recovers what an earlier
// process left. The lock is a file lock and is taken on the operating
// system's file system only; a held one is a [*LockedError].
func OpenSpool(cfg SpoolConfig) (*Spool, error) { return nil, errTODO }

// Resume is the newest timeline that the spool holds WAL of and its durable
// end; false when it holds none. Streaming starts at the segment's start. The
// end may lie before what was acknowledged by an earlier process by less than
// one record.
func (s *Spool) Resume() (Position, bool) { return Position{}, false }

// Begin starts a stream of timeline tli at lsn, the start of a segment. WAL
// that arrives again is compared with what the spool holds durably, what lies
// behind that is replaced. It fails with a [*GapError] when WAL between the
// spool's end and lsn is missing (see [Spool.Skip]), with a [*TimelineError]
// when the spool holds WAL of a newer timeline, of one that is no ancestor of
// tli, or when another timeline is still open. A timeline above 1 needs its
// history saved.
func (s *Spool) Begin(tli wal.Timeline, lsn wal.LSN) error { return errTODO }

// Skip is [Spool.Begin] for a caller that has recorded the gap: WAL that the
// server no longer has, or that the archive already holds. What the open
// segment holds becomes a remainder.
func (s *Spool) Skip(tli wal.Timeline, lsn wal.LSN) error { return errTODO }

// Append takes the bytes p of timeline tli at lsn; the position must be the
// one where the last call ended ([*GapError], [*OrderError], [*TimelineError]
// otherwise). The bytes are durable when a Sync that begins afterwards has
// returned. Bytes that differ from what is durable already are a
// [*DivergenceError]; the stream has to be begun anew then.
func (s *Spool) Append(tli wal.Timeline, lsn wal.LSN, p []byte) error { return errTODO }

// Sync makes all bytes durable that were appended before the call and returns
// the durable end of the timeline that is being received. It may run beside
// Append. After an error nothing more may be acknowledged.
func (s *Spool) Sync() (wal.LSN, error) { return 0, errTODO }

// SaveHistory stores the history file of timeline tli durably. The same body
// again is fine, a different one is a [*DivergenceError].
func (s *Spool) SaveHistory(tli wal.Timeline, body []byte) error { return errTODO }

// Histories lists the timelines whose history files are saved, in order.
func (s *Spool) Histories() []wal.Timeline { return nil }

// History is the saved history file of timeline tli; fs.ErrNotExist when there
// is none.
func (s *Spool) History(tli wal.Timeline) ([]byte, error) { return nil, errTODO }

// EndTimeline says that the server ended timeline tli at end. What the open
// segment holds becomes a remainder, which Next hands out, bytes beyond end
// included ([Sealed.Ahead]).
func (s *Spool) EndTimeline(tli wal.Timeline, end wal.LSN) error { return errTODO }

// Next waits for the next sealed segment or remainder and returns each once in
// the life of the process: the oldest timeline first, within it in LSN order.
// What is not released is handed out again by the next process.
func (s *Spool) Next(ctx context.Context) (Sealed, error) { return Sealed{}, errTODO }

// OpenSegment is the durable part of the segment that is being written; false
// when there is none.
func (s *Spool) OpenSegment() (Sealed, bool) { return Sealed{}, false }

// Release says that the archive has confirmed p. Its file is removed as soon
// as recovery of the open segment does not need it any more.
func (s *Spool) Release(p Sealed) error { return errTODO }

// Usage is what the spool occupies now.
func (s *Spool) Usage() Usage { return Usage{} }

// Close releases the files and the lock. It does not sync.
func (s *Spool) Close() error { return nil }
