package archive

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// Source hands out sealed WAL; [segment.Spool] is one.
type Source interface {
	// Next waits for the next piece: the oldest timeline first, within it
	// in LSN order, each once.
	Next(ctx context.Context) (segment.Sealed, error)
	// Release says that a piece is safe in the archive.
	Release(segment.Sealed) error
	// Histories lists the timelines of which History has the file.
	Histories() []wal.Timeline
	History(wal.Timeline) ([]byte, error)
}

// UploaderConfig says what is stored where.
type UploaderConfig struct {
	Archive *Archive
	Source  Source
	Level   Level
	Workers int // segments stored at the same time; 0 means 2
	// OnConfirmed, when set, is called with the end of each complete
	// segment that is durable in the archive, when all that Source handed
	// out before on this timeline is too. Tails are never reported. It is
	// called from one goroutine and holds up the uploader.
	OnConfirmed func(wal.Timeline, wal.LSN)
	Log         zerolog.Logger
	Now         func() time.Time // nil: time.Now
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
		cfg: cfg, a: cfg.Archive, last: map[wal.Timeline]described{}, stored: map[wal.Timeline]bool{},
		status: UploaderStatus{Confirmed: map[wal.Timeline]wal.LSN{}, Stopped: map[wal.Timeline]error{}},
	}
}

// job is a piece on its way.
type job struct {
	sealed segment.Sealed
	piece  Piece
	data   segment.Reader
	header *Header
	done   chan struct{} // closed when err is set
	err    error
}

func pieceOf(s segment.Sealed) Piece {
	return Piece{ID: s.ID, Tail: !s.Complete, From: s.From, To: s.To}
}

// Run uploads until ctx ends or the source fails, and returns why. It must not
// be called twice at the same time.
func (u *Uploader) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	var (
		todo     = make(chan *job)                // to the workers
		inOrder  = make(chan *job, u.cfg.Workers) // to be confirmed
		inFlight sync.WaitGroup
	)
	g.Go(func() error {
		defer close(todo)
		defer close(inOrder)
		return u.read(ctx, &inFlight, todo, inOrder)
	})
	for range u.cfg.Workers {
		g.Go(func() error {
			for j := range todo {
				j.err = u.retry(ctx, func() error {
					return u.a.PutSegment(ctx, j.piece, j.header, j.data, u.cfg.Level)
				})
				close(j.done)
			}
			return nil
		})
	}
	g.Go(func() error {
		for j := range inOrder {
			<-j.done
			u.finish(ctx, j)
			j.data.Close() // opened for reading
			inFlight.Done()
		}
		return nil
	})
	return g.Wait()
}

// read takes pieces from the source, describes them one after the other,
// because each header continues the one before, and passes them on.
func (u *Uploader) read(ctx context.Context, inFlight *sync.WaitGroup, todo, inOrder chan<- *job) error {
	for {
		sealed, err := u.cfg.Source.Next(ctx)
		if err != nil {
			return err
		}
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
			u.stop(sealed.ID.Timeline, err)
			continue
		}
		inFlight.Add(1)
		inOrder <- j
		todo <- j
	}
}

// prepare makes everything ready for a piece's put. It fails only for good, or
// when ctx ends.
func (u *Uploader) prepare(ctx context.Context, sealed segment.Sealed) (j *job, err error) {
	j = &job{sealed: sealed, piece: pieceOf(sealed), done: make(chan struct{})}
	err = u.retry(ctx, func() error {
		if err := u.putHistories(ctx, sealed.ID.Timeline); err != nil {
			return err
		}
		before, err := u.before(ctx, sealed.ID)
		if err != nil {
			return err
		}
		if j.data, err = sealed.Open(); err != nil {
			return err
		}
		if j.header, err = u.a.Describe(j.piece, j.data, before); err != nil {
			j.data.Close()
		}
		return err
	})
	if err == nil && sealed.Complete {
		u.mu.Lock()
		u.last[sealed.ID.Timeline] = described{sealed.ID, j.header}
		u.mu.Unlock()
	}
	return j, err
}

// putHistories stores the history files that the source has, and makes sure
// that tli's is in the archive. Another timeline's conflict stops only that.
func (u *Uploader) putHistories(ctx context.Context, tli wal.Timeline) error {
	for _, other := range u.cfg.Source.Histories() {
		u.mu.Lock()
		done := u.stored[other] || u.status.Stopped[other] != nil
		u.mu.Unlock()
		if done {
			continue
		}
		body, err := u.cfg.Source.History(other)
		if err == nil {
			err = u.a.PutHistory(ctx, other, body)
		}
		if err != nil && other != tli && permanent(err) {
			u.stop(other, err)
			continue
		}
		if err != nil {
			return err
		}
		u.mu.Lock()
		u.stored[other] = true
		u.mu.Unlock()
	}
	u.mu.Lock()
	done := tli == 1 || u.stored[tli]
	u.mu.Unlock()
	if done {
		return nil
	}
	_, _, err := u.a.History(ctx, tli)
	return err
}

// follows says whether the header before id is at hand.
func (u *Uploader) follows(id segment.ID) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.last[id.Timeline].id.Next() == id
}

func (u *Uploader) before(ctx context.Context, id segment.ID) (*Header, error) {
	if u.follows(id) {
		u.mu.Lock()
		defer u.mu.Unlock()
		return u.last[id.Timeline].header, nil
	}
	h, err := u.a.Before(ctx, id)
	var corrupt *CorruptError
	if errors.As(err, &corrupt) {
		// What is damaged there is no reason not to store what is whole here.
		u.cfg.Log.Error().Err(err).Msg("the segment before is damaged in the archive; its successor is stored without a carry")
		return nil, nil
	}
	return h, err
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
	u.confirmed(j)
	if j.sealed.Complete && u.cfg.OnConfirmed != nil {
		u.cfg.OnConfirmed(tli, j.piece.ID.End(u.a.identity.SegmentSize))
	}
	u.tidy(ctx, j.piece, j.data)
	if err := u.cfg.Source.Release(j.sealed); err != nil {
		u.cfg.Log.Warn().Err(err).Str("segment", j.piece.Name(u.a.identity.SegmentSize)).Msg("cannot remove archived WAL from the spool")
	}
}

// tidy removes tails that a stored piece made needless. What goes wrong with
// that costs room only, except for a tail that differs: that is a branch of
// the timeline that another server wrote, and stays.
func (u *Uploader) tidy(ctx context.Context, p Piece, data segment.Reader) {
	err := u.a.dropTails(ctx, p, data)
	var conflict *ConflictError
	switch {
	case errors.As(err, &conflict):
		u.cfg.Log.Error().Err(err).Msg("a stored tail differs from its segment; it is kept")
	case err != nil && context.Cause(ctx) == nil:
		u.cfg.Log.Warn().Err(err).Msg("cannot remove needless tail objects")
	}
}

// StoreTail stores what there is of a segment that is not complete, as a tail
// object, retrying until ctx ends. It is for the last piece before a shutdown:
// the source keeps it. An error that is no conflict means only that it is not
// known to be stored.
func (u *Uploader) StoreTail(ctx context.Context, sealed segment.Sealed) error {
	j, err := u.prepare(ctx, sealed)
	if err != nil {
		return err
	}
	defer j.data.Close()
	err = u.retry(ctx, func() error { return u.a.PutSegment(ctx, j.piece, j.header, j.data, u.cfg.Level) })
	if err != nil {
		return err
	}
	u.tidy(ctx, j.piece, j.data)
	return nil
}
