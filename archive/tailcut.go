package archive

import (
	"context"
	"errors"
	"io/fs"

	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// cut makes what has come the next piece of the tail; nil when there is
// nothing to be stored. next says which piece of the source holds that.
func (u *Uploader) cut(ctx context.Context, next func() (segment.Sealed, bool)) (j *job, err error) {
	select {
	case u.tail.turn <- struct{}{}:
		defer func() { <-u.tail.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	var tli wal.Timeline
	err = u.retry(ctx, func() error {
		p, ok := next()
		if tli = p.ID.Timeline; !ok {
			return nil
		}
		if err := u.Status().Stopped[tli]; err != nil {
			return err
		}
		j, err = u.cutFrom(ctx, p)
		return err
	})
	if err != nil && permanent(err) && !errors.As(err, new(*segment.DeletedError)) && !u.stopped(tli) {
		u.stop(tli, err)
	}
	return j, err
}

// nextTail is the piece of the source that holds what the tail lacks. A sealed
// segment that was not begun is left to those who store it whole, and so is
// the rest of one that lies behind others which are not stored yet.
func (u *Uploader) nextTail(start startAt) (segment.Sealed, bool) {
	t, size := &u.tail, u.a.identity.SegmentSize
	for pos := u.tailEnd(); ; {
		p, ok := u.cfg.Source.After(pos)
		switch {
		case !ok:
			return p, false
		case p.Growing && start == whenNext:
			return p, t.goesOn(p.ID, size) || u.nothingBefore(startOf(p.ID, size))
		case p.Growing:
			return p, start == always
		case p.Complete && t.read != nil && p.ID == t.id && u.nothingBefore(t.begin):
			return p, true
		}
		pos = endOf(p, size)
	}
}

// tailEnd is up to where pieces were cut.
func (u *Uploader) tailEnd() segment.Position {
	t := &u.tail
	if t.read == nil {
		return segment.Position{}
	}
	return segment.Position{Timeline: t.id.Timeline, LSN: t.id.Start(u.a.identity.SegmentSize) + wal.LSN(t.read.at)}
}

func endOf(p segment.Sealed, size segment.Size) segment.Position {
	return segment.Position{Timeline: p.ID.Timeline, LSN: p.ID.Start(size) + wal.LSN(p.To)}
}

// goesOn says whether the tail goes on with a segment, without a hole.
func (t *tail) goesOn(id segment.ID, size segment.Size) bool {
	return t.read != nil && (id == t.id || id == t.id.Next() && t.read.at == int64(size))
}

// nothingBefore says whether all before a position is in the archive.
func (u *Uploader) nothingBefore(pos segment.Position) bool {
	first, ok := u.cfg.Source.After(segment.Position{})
	return !ok || !startOf(first.ID, u.a.identity.SegmentSize).Before(pos)
}

func startOf(id segment.ID, size segment.Size) segment.Position {
	return segment.Position{Timeline: id.Timeline, LSN: id.Start(size)}
}

// cutFrom cuts the next piece out of p.
func (u *Uploader) cutFrom(ctx context.Context, p segment.Sealed) (*job, error) {
	t, size := &u.tail, u.a.identity.SegmentSize
	data, err := p.Open()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // sealed at this moment: that wakes us
	}
	if err != nil {
		return nil, err
	}
	j := &job{sealed: p, data: data, done: make(chan struct{})}
	if err = u.readOn(ctx, p.ID, j); err == nil {
		block := max(minTailBlock, int64(size)/tailBlocks)
		j.piece = Piece{ID: p.ID, Tail: true, From: t.read.at - t.read.at%block, To: p.To}
		if j.header, err = t.read.describe(j.piece, data); err != nil {
			t.read = nil
		}
	}
	if err != nil {
		return nil, errors.Join(err, data.Close())
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	t.last = j
	u.tails[p.ID] = append(u.tails[p.ID], j.piece)
	if j.prev == nil {
		t.begin, t.end = startOf(p.ID, size), segment.Position{}
	}
	j.begin = t.begin
	return j, nil
}

// readOn makes t.read the reading of a segment. If the run goes on with it, j
// follows the last piece.
func (u *Uploader) readOn(ctx context.Context, id segment.ID, j *job) error {
	t := &u.tail
	onward := t.goesOn(id, u.a.identity.SegmentSize)
	if onward {
		j.prev = t.last
	}
	if onward && id == t.id {
		return nil
	}
	t.read = nil
	if err := u.arrive(ctx, id); err != nil {
		return err
	}
	var before *Header
	var err error
	if onward {
		before = t.last.header
	} else if before, err = u.before(ctx, id); err != nil {
		return err
	}
	t.read, t.id = u.a.startReading(id, before), id
	return nil
}
