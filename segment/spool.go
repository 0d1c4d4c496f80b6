package segment

import (
	"errors"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/rs/zerolog"

	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/wal"
)

// SpoolConfig says where a spool lives and whose WAL it holds.
type SpoolConfig struct {
	Dir      string
	FS       fsx.FS // nil means the operating system's
	Identity Identity
	// MaxSize is the bytes that Room keeps to; zero is no limit.
	MaxSize int64
	// OnFlush, if set, is told how long each fdatasync of received WAL took.
	// It is called by Sync and Append, and holds them up.
	OnFlush func(time.Duration)
	Log     zerolog.Logger
}

// Position is a place in the WAL: everything of Timeline before LSN.
type Position struct {
	Timeline wal.Timeline
	LSN      wal.LSN
}

// Before orders positions: the older timeline first.
func (p Position) Before(q Position) bool {
	return p.Timeline < q.Timeline || p.Timeline == q.Timeline && p.LSN < q.LSN
}

// Usage is what a spool occupies.
type Usage struct {
	Bytes   int64 // of all segment files
	Waiting int   // sealed segments and remainders that are not released
	// FullSince is since when Room waits; zero when it does not.
	FullSince time.Time
}

// Spool is a directory in which received WAL is made durable before it is
// acknowledged, and from which it is archived.
//
// Three parties use it at once: one goroutine that appends (Begin, Append,
// SaveHistory, EndTimeline, Skip), one or more that call Sync and Prepare, and
// any number that take and release sealed pieces (Next, Release). All other
// methods may be called from anywhere.
//
// The first error of a write or fsync is final: every later Begin, Append,
// Sync, SaveHistory and EndTimeline returns it, because the kernel may call a
// retried fsync a success although the data is gone. A new process recovers.
// Next and Release go on working.
type Spool struct {
	dir     string
	fsys    fsx.FS
	id      Identity
	size    Size
	log     zerolog.Logger
	onFlush func(time.Duration)
	lock    *flock.Flock // nil on another file system than the OS's

	zeros []byte // to fill new files with; never written to

	// Only the appending goroutine uses these.
	begun bool
	next  wal.LSN // where the next Append has to start

	// syncMu is held during an fsync of the full or open segment and while
	// these change, so that no file is closed under an fsync, and none is
	// fsynced again after a failure. spareMu is held while the spare one is
	// made and changes, sweepMu while files are removed. They are taken in this
	// order, and before mu.
	syncMu  sync.Mutex
	spareMu sync.Mutex
	sweepMu sync.Mutex

	mu       sync.Mutex
	err      error // final, see fail
	tli      wal.Timeline
	full     *openSegment // the one before open, while it is not sealed; durable lies in it
	open     *openSegment // nil between segments; begins at or before durable if full is nil
	spare    *openSegment // the one after open, if it is prepared
	durable  wal.LSN      // on tli
	appended wal.LSN      // written; not below durable
	pieces   []*piece     // by timeline and LSN
	saved    map[wal.Timeline]savedHistory
	ended    map[wal.Timeline]wal.LSN // by EndTimeline
	changed  chan struct{}            // closed when a piece is added or released

	limit     int64     // of the usage, zero is none
	fullSince time.Time // zero while Room does not wait
}

// openSegment is an unfinished segment: the file <SEGMENT>.partial.
type openSegment struct {
	id ID
	f  fsx.File
	// unsure says that recovery found WAL in it that it could not check from
	// the first byte on. The server will send it again; if it does not, that
	// WAL is all there is.
	unsure bool
}

type savedHistory struct {
	body   []byte
	parsed History
}

// Resume is the newest timeline that the spool holds WAL of and its durable
// end; false when it holds none. Streaming starts at the segment's start. The
// end may lie before what was acknowledged by an earlier process by less than
// one record.
func (s *Spool) Resume() (Position, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tli := s.newest()
	end, ok := s.held(tli)
	return Position{tli, end}, ok
}

// current is the segment in which the durable end lies, nil between two.
func (s *Spool) current() *openSegment {
	if s.full != nil {
		return s.full
	}
	return s.open
}

// newest is the newest timeline that is held; zero when there is none.
func (s *Spool) newest() (newest wal.Timeline) {
	if current := s.current(); current != nil {
		newest = current.id.Timeline
	}
	for _, p := range s.pieces {
		newest = max(newest, p.ID.Timeline)
	}
	return newest
}

// held is the end of what the spool can vouch for on tli; false when it holds
// nothing of it.
func (s *Spool) held(tli wal.Timeline) (end wal.LSN, ok bool) {
	if current := s.current(); current != nil && current.id.Timeline == tli {
		return s.durable, true
	}
	for _, p := range s.pieces {
		if p.ID.Timeline == tli {
			end, ok = max(end, p.end(s.size)), true
		}
	}
	return end, ok
}

// unbroken is the start of the complete segments of tli that are held without
// a hole up to the segment in which end lies.
func (s *Spool) unbroken(tli wal.Timeline, end wal.LSN) wal.LSN {
	start := s.size.Floor(end)
	for _, p := range slices.Backward(s.pieces) {
		if p.Complete && p.ID.Timeline == tli && p.end(s.size) == start {
			start = p.ID.Start(s.size)
		}
	}
	return start
}

// OpenSegment is the durable part of the segment that is being written; false
// when there is none. It is for the last look, when nothing is appended any
// more: WAL that recovery could not check from its first byte on counts as far
// as its records are valid, for the server has not sent it again.
func (s *Spool) OpenSegment() (Sealed, bool) {
	s.mu.Lock()
	current, end := s.current(), s.durable
	s.mu.Unlock()
	if current == nil {
		return Sealed{}, false
	}
	end, err := s.heldEnd(current, end)
	if err != nil {
		s.log.Warn().Err(err).Str("segment", current.id.Name(s.size)).Msg("what recovery found in the open segment cannot be read")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.openPart(current, end)
}

// After is the first piece with durable WAL behind a position that is not
// released, the oldest timeline first; false when there is none. At the end it
// is the durable part of the segment that is being written, whose file has
// another name once it is sealed.
func (s *Spool) After(pos Position) (Sealed, bool) {
	behind := func(p Sealed) bool {
		return pos.Before(Position{p.ID.Timeline, p.end(s.size)})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pieces {
		if !p.released && behind(p.Sealed) {
			return p.Sealed, true
		}
	}
	p, ok := s.openPart(s.current(), s.durable)
	return p, ok && behind(p)
}

// openPart needs mu.
func (s *Spool) openPart(current *openSegment, end wal.LSN) (Sealed, bool) {
	if current == nil || end <= current.id.Start(s.size) {
		return Sealed{}, false
	}
	p := Sealed{ID: current.id, Path: s.partialPath(current.id), To: int64(end - current.id.Start(s.size)), Growing: true, fsys: s.fsys, spool: s}
	p.Ahead = s.ahead(p)
	return p, true
}

// Usage is what the spool occupies now.
func (s *Spool) Usage() Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.usage()
}

// usage needs mu.
func (s *Spool) usage() Usage {
	u := Usage{FullSince: s.fullSince}
	for _, p := range s.pieces {
		u.Bytes += int64(s.size)
		if !p.released {
			u.Waiting++
		}
	}
	u.Bytes += int64(len(s.unfinished())) * int64(s.size)
	return u
}

// unfinished is the files that are not sealed. It needs mu.
func (s *Spool) unfinished() []*openSegment {
	return slices.DeleteFunc([]*openSegment{s.full, s.open, s.spare}, func(o *openSegment) bool { return o == nil })
}

// Close gives up the files and the lock; it does not sync. The other methods
// must have returned.
func (s *Spool) Close() error {
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = fs.ErrClosed
	}
	var err error
	for _, o := range s.unfinished() {
		err = errors.Join(err, o.f.Close())
	}
	s.full, s.open, s.spare = nil, nil, nil
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
		s.lock = nil
	}
	return err
}
