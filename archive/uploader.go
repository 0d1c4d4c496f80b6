package archive

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/walstream/walstream/internal/crashpoint"
	"github.com/walstream/walstream/internal/mutant"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// Source hands out sealed WAL; [segment.Spool] is one.
type Source interface {
	// Next waits for the next piece: the oldest timeline first, within it
	// in LSN order, each once.
	Next(ctx context.Context) (segment.Sealed, error)
	// After is the first piece with durable WAL behind a position that is not
	// released, the one that is still being written included; false when there
	// is none.
	After(segment.Position) (segment.Sealed, bool)
	// Release says that a piece is safe in the archive, or was deleted.
	Release(segment.Sealed) error
	// Histories are the history files of timelines; it must not be changed.
	Histories() map[wal.Timeline][]byte
}

// UploaderConfig says what is stored where.
type UploaderConfig struct {
	Archive *Archive
	Source  Source
	Level   zstd.EncoderLevel // zero means the fastest
	Workers int               // segments stored at the same time; 0 means 2
	// OnConfirmed, when set, is called with the end of each complete
	// segment that is durable in the archive, when all that Source handed
	// out before on this timeline is too. Tails are never reported. It is
	// called from one goroutine and holds up the uploader.
	OnConfirmed func(wal.Timeline, wal.LSN)
	// OnLost, when set, is told that somebody has deleted a piece before it
	// was stored. What Tail.OnStored is told from then on may lie behind it.
	OnLost func()
	Tail   TailConfig
	Log    zerolog.Logger
	Now    func() time.Time // nil: time.Now
}

// Uploader moves WAL from a [Source] to an archive. It needs no state of its
// own: what was not released is handed out again by the next process, and what
// is stored already is compared and confirmed.
//
// Errors are retried for ever. WAL that is damaged, or that differs from what
// the archive holds, stops its timeline: nothing of it is stored, confirmed or
// released any more, while other timelines go on.
type Uploader struct {
	cfg UploaderConfig
	a   *Archive

	mu     sync.Mutex
	status UploaderStatus
	last   map[wal.Timeline]described
	stored map[wal.Timeline]bool // history files

	roller roller
	rolls  chan roll // to be indexed; what comes while one is goes without

	tail tail
	// What there is of tail objects: those of this process, the segments of
	// which others may have left some, and those that are to be deleted.
	tails   map[segment.ID][]Piece
	strays  map[segment.ID]bool
	looked  map[wal.Timeline]bool // for strays
	doomed  []Piece
	doomedC chan struct{}
}

// described is a complete segment that was read.
type described struct {
	id     segment.ID
	header *Header
}

// NewUploader makes an uploader.
func NewUploader(cfg UploaderConfig) *Uploader {
	if cfg.Workers <= 0 {
		cfg.Workers = 2
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Uploader{
		cfg: cfg, a: cfg.Archive, last: map[wal.Timeline]described{}, stored: map[wal.Timeline]bool{}, roller: roller{},
		tail:  tail{wake: make(chan struct{}, 1), turn: make(chan struct{}, 1)},
		tails: map[segment.ID][]Piece{}, strays: map[segment.ID]bool{}, looked: map[wal.Timeline]bool{}, doomedC: make(chan struct{}, 1),
		status: UploaderStatus{Confirmed: map[wal.Timeline]wal.LSN{}, Stopped: map[wal.Timeline]error{}},
	}
}

// job is a piece on its way.
type job struct {
	sealed segment.Sealed
	piece  Piece
	data   segment.Reader
	header *Header
	begin  segment.Position // of the tail that it is part of
	prev   *job             // the piece before on this timeline, nil once this one is done
	done   chan struct{}    // closed when err is set
	err    error
}

// errDeleted is why a piece is not stored that the source should have.
var errDeleted = errors.New("somebody has deleted the file")

// errNotBefore is why a piece is not stored when the one before could not be.
var errNotBefore = errors.New("the piece before on this timeline is not stored")

// ReadAt implements [io.ReaderAt] for the put. It gives out the last bytes
// only once the piece before is stored: puts run beside each other, but where
// another server's WAL is met nothing of ours comes to lie behind it.
func (j *job) ReadAt(p []byte, off int64) (int, error) {
	if j.prev != nil && off+int64(len(p)) >= j.piece.To {
		<-j.prev.done
		if j.prev.err != nil {
			return 0, errNotBefore
		}
	}
	return j.data.ReadAt(p, off)
}

func pieceOf(s segment.Sealed) Piece {
	return Piece{ID: s.ID, Tail: !s.Complete, To: s.To}
}

// Run uploads until ctx ends or the source fails, and returns why: that is a
// [*segment.DeletedError] when it has lost what was being written. It must not
// be called twice at the same time.
func (u *Uploader) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	var (
		todo     = make(chan *job)                // to the workers
		inOrder  = make(chan *job, u.cfg.Workers) // to be confirmed
		inFlight sync.WaitGroup
	)
	u.rolls = make(chan roll, 1)
	g.Go(func() error { return u.index(ctx) })
	g.Go(func() error {
		defer close(todo)
		defer close(inOrder)
		return u.read(ctx, &inFlight, todo, inOrder)
	})
	for range u.cfg.Workers {
		g.Go(func() error {
			for j := range todo {
				j.err = u.retry(ctx, func() error {
					return u.a.putAndNote(ctx, j.piece, j.header, j, u.cfg.Level)
				})
				j.prev = nil
				close(j.done)
			}
			return nil
		})
	}
	g.Go(func() error {
		for j := range inOrder {
			if mutant.SlotEarly {
				u.report(j)
			}
			<-j.done
			u.finish(ctx, j)
			j.data.Close() // opened for reading
			inFlight.Done()
		}
		return nil
	})
	g.Go(func() error { return u.runTail(ctx) })
	g.Go(func() error {
		for {
			select {
			case <-u.doomedC:
				u.sweep(ctx)
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	})
	return g.Wait()
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it has been told already
	}
}

// read takes pieces from the source, describes them one after the other,
// because each header continues the one before, and passes them on.
func (u *Uploader) read(ctx context.Context, inFlight *sync.WaitGroup, todo, inOrder chan<- *job) error {
	newest := map[wal.Timeline]*job{}
	for {
		sealed, err := u.cfg.Source.Next(ctx)
		if err != nil {
			return err
		}
		wake(u.tail.wake)
		if u.stopped(sealed.ID.Timeline) {
			continue
		}
		if !u.follows(sealed.ID) {
			inFlight.Wait() // what it follows may be on its way to the archive
		}
		j, err := u.prepare(ctx, sealed)
		if cerr := context.Cause(ctx); cerr != nil {
			if err == nil {
				j.data.Close()
			}
			return cerr
		}
		if err != nil {
			inFlight.Wait() // what comes before it is still confirmed
			if errors.Is(err, errDeleted) {
				u.lost(sealed, err)
				continue
			}
			u.stop(sealed.ID.Timeline, err)
			continue
		}
		j.prev, newest[sealed.ID.Timeline] = newest[sealed.ID.Timeline], j
		crashpoint.Hit(crashpoint.UploadRead)
		inFlight.Add(1)
		inOrder <- j
		todo <- j
	}
}

// finish confirms a piece that was stored, or stops its timeline.
func (u *Uploader) finish(ctx context.Context, j *job) {
	tli := j.piece.ID.Timeline
	if u.stopped(tli) || context.Cause(ctx) != nil && j.err != nil {
		return
	}
	if j.err != nil {
		u.stop(tli, j.err)
		return
	}
	crashpoint.Hit(crashpoint.UploadPut)
	u.confirmed(j)
	u.report(j)
	crashpoint.Hit(crashpoint.UploadConfirmed)
	if j.sealed.Complete {
		if r, ok := u.roller.add(j.piece.ID, j.header); ok {
			select {
			case u.rolls <- r:
			default:
			}
		}
	}
	u.tidy(ctx, j.piece, j.data)
	u.release(j.sealed)
	crashpoint.Hit(crashpoint.UploadReleased)
	u.mu.Lock()
	if j.sealed.Complete {
		u.tail.whole = segment.Position{Timeline: tli, LSN: j.piece.ID.End(u.a.identity.SegmentSize)}
	}
	u.mu.Unlock()
	u.advance()
	wake(u.tail.wake)
}

func (u *Uploader) release(s segment.Sealed) {
	if err := u.cfg.Source.Release(s); err != nil {
		u.cfg.Log.Warn().Err(err).Str("segment", u.a.name(pieceOf(s))).Msg("cannot remove archived WAL from the spool")
	}
}

// lost gives up a piece whose file was deleted. What follows it is stored.
func (u *Uploader) lost(s segment.Sealed, err error) {
	u.cfg.Log.Error().Err(err).Str("segment", u.a.name(pieceOf(s))).Msg("WAL was lost from the spool before it was archived")
	if u.cfg.OnLost != nil {
		u.cfg.OnLost()
	}
	u.release(s)
}

// report says that a complete segment is durable.
func (u *Uploader) report(j *job) {
	if !j.piece.Tail && u.cfg.OnConfirmed != nil {
		u.cfg.OnConfirmed(j.piece.ID.Timeline, j.piece.ID.End(u.a.identity.SegmentSize))
	}
}

// index rolls up what was stored. Nothing waits for it: an index only saves
// time.
func (u *Uploader) index(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-u.rolls:
			if err := u.a.rollUp(ctx, r); err != nil && ctx.Err() == nil {
				u.cfg.Log.Warn().Err(err).Msg(noIndex)
			}
		}
	}
}
