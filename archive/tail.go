package archive

import (
	"cmp"
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/walstream/walstream/internal/crashpoint"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// TailConfig says how the tail is stored: durable WAL that is in no complete
// object yet.
type TailConfig struct {
	// Interval is how often what has come is stored; zero is never, but
	// for [Uploader.StoreTail].
	Interval time.Duration
	// Now, when set, asks for it at once.
	Now <-chan struct{}
	// Window is how many objects are stored at the same time; 0 means 1.
	Window int
	// OnStored, when set, is called whenever there is more without a hole in
	// the archive, tails included, with the end of that. It is called from one
	// goroutine at a time and must not block.
	OnStored func(segment.Position)
}

// tailBlocks is how many blocks a segment has for its tail objects. Each
// begins with a block, and takes the place of those that began there before:
// so there are never more than that, and those on their way.
const (
	tailBlocks   = 32
	minTailBlock = 256 << 10
)

// tail is a run of WAL of which pieces are stored as it comes, in the order of
// its positions and without a hole. An uploader has one at a time.
type tail struct {
	wake chan struct{} // a segment was sealed or released

	turn chan struct{} // taken by who cuts a piece; it guards what follows
	read *reading      // of the segment to which the run has come, nil before it begins
	id   segment.ID    // that one
	last *job          // the last piece

	// The uploader's mutex guards these.
	begin  segment.Position // of the run
	end    segment.Position // of what is stored of it
	whole  segment.Position // end of the last complete segment that is
	stored segment.Position // what OnStored was told

	telling sync.Mutex // OnStored
}

// startAt says when a run may begin with the segment that is being written.
type startAt int

const (
	never    startAt = iota // only what was begun is stored, once it is sealed
	whenNext                // if all before it is in the archive, or on its way as tail
	always
)

// runTail stores the tail until ctx ends. The interval begins anew with each
// segment: those that fill faster are stored whole as soon, and only once.
func (u *Uploader) runTail(ctx context.Context) error {
	cfg := u.cfg.Tail
	interval := cmp.Or(cfg.Interval, math.MaxInt64)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var (
		start startAt
		open  segment.ID // was being written at the last look; zero if none was
	)
	next := func() (segment.Sealed, bool) {
		p, ok := u.nextTail(start)
		if ok && !p.Growing {
			return p, true
		}
		due := p.ID == open || open == segment.ID{}
		if p.ID != open {
			open = p.ID
			tick.Reset(interval)
		}
		return p, ok && (due || start != always)
	}
	var puts errgroup.Group
	defer func() { _ = puts.Wait() }()
	free := make(chan struct{}, max(1, cfg.Window))
	for {
		start = whenNext
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
			start = always
		case <-cfg.Now:
		case <-u.tail.wake:
			if cfg.Now == nil {
				start = never
			}
		}
		for more := true; more; {
			select { // first, so that the piece has all that came while it had to wait
			case free <- struct{}{}:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			j, err := u.cut(ctx, next)
			if errors.As(err, new(*segment.DeletedError)) {
				return err // it is to be received again
			}
			if j == nil || err != nil {
				<-free
				break
			}
			more = !j.sealed.Growing // what comes from now on has to wait
			puts.Go(func() error {
				_ = u.putTail(ctx, j) // it is repeated until ctx ends, or the timeline is stopped
				<-free
				return nil
			})
		}
	}
}

// StoreTail stores what there is of the segment that is being written, as the
// last piece before a shutdown, retrying until ctx ends. The source keeps it. An
// error that is no conflict means only that it is not known to be stored. Of a
// stopped timeline it stores nothing and returns why.
func (u *Uploader) StoreTail(ctx context.Context, open segment.Sealed) error {
	next := func() (segment.Sealed, bool) {
		if p, ok := u.nextTail(always); ok {
			return p, true
		}
		// What is only now known to be durable.
		return open, u.tailEnd().Before(endOf(open, u.a.identity.SegmentSize))
	}
	for more := true; more; {
		j, err := u.cut(ctx, next)
		if err == nil && j != nil {
			err = u.putTail(ctx, j)
		}
		if err != nil {
			return err
		}
		more = j != nil
	}
	u.sweep(ctx)
	u.mu.Lock()
	last := u.tail.last
	u.mu.Unlock()
	if last == nil {
		return nil
	}
	select {
	case <-last.done:
		return last.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// putTail stores a piece of the tail, after which the ones that it takes the
// place of are needless. The pieces are confirmed in their order.
func (u *Uploader) putTail(ctx context.Context, j *job) error {
	defer close(j.done)
	defer func() { _ = j.data.Close() }() // opened for reading
	end := j.piece.ID.Start(u.a.identity.SegmentSize) + wal.LSN(j.piece.To)
	j.err = u.retry(ctx, func() error {
		if u.Status().Confirmed[j.piece.ID.Timeline] >= end {
			return nil // the whole segment is stored meanwhile
		}
		return u.a.PutSegment(ctx, j.piece, j.header, j.data, u.cfg.Level)
	})
	crashpoint.Hit(crashpoint.TailPut)
	if j.prev != nil {
		select {
		case <-j.prev.done:
		case <-ctx.Done():
			j.err = errors.Join(j.err, context.Cause(ctx))
		}
		if j.err == nil && j.prev.err != nil {
			j.err = errNotBefore
		}
		j.prev = nil
	}
	if j.err != nil {
		if permanent(j.err) && !u.stopped(j.piece.ID.Timeline) {
			u.stop(j.piece.ID.Timeline, j.err)
		}
		return j.err
	}
	u.confirmed(j)
	u.mu.Lock()
	if j.begin == u.tail.begin {
		u.tail.end = segment.Position{Timeline: j.piece.ID.Timeline, LSN: end}
	}
	u.mu.Unlock()
	u.advance()
	crashpoint.Hit(crashpoint.TailStored)
	u.tidy(ctx, j.piece, j.data)
	return nil
}

// advance works out how far the archive holds WAL without a hole, tails
// included, and tells it.
func (u *Uploader) advance() {
	t := &u.tail
	t.telling.Lock()
	defer t.telling.Unlock()
	u.mu.Lock()
	runs := [...]struct{ begin, end segment.Position }{{t.begin, t.end}, {t.whole, t.whole}}
	best := t.stored
	u.mu.Unlock()
	for _, r := range runs {
		if best.Before(r.end) && u.nothingBefore(r.begin) {
			best = r.end
		}
	}
	if best == t.stored {
		return
	}
	u.mu.Lock()
	t.stored = best
	u.mu.Unlock()
	if u.cfg.Tail.OnStored != nil {
		u.cfg.Tail.OnStored(best)
	}
}
