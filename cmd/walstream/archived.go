package main

import (
	"context"
	"slices"
	"sync"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// archivedEnd follows how far the archive holds WAL without a hole, along the
// server's history. The slot may move there and no further.
type archivedEnd struct {
	size segment.Size

	mu    sync.Mutex
	tli   wal.Timeline
	start wal.LSN          // what the archive held when the process began
	since wal.LSN          // where what this process confirmed begins
	end   wal.LSN          // and where it ends, zero before the first
	tail  segment.Position // end of what is archived without a hole, tails and gaps included
}

// begin notes what the archive held before this process confirmed anything.
// It is for show only: segments before it may be missing still.
func (e *archivedEnd) begin(pos segment.Position) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tli, e.start = pos.Timeline, pos.LSN
}

// confirm takes a complete segment of timeline tli that ends at end. It
// returns the WAL that is archived without a hole as far as this process
// knows, and false when that has not changed: the segment is not on the way of
// the history, or there is a hole before it.
func (e *archivedEnd) confirm(h segment.History, tli wal.Timeline, end wal.LSN) (since, to wal.LSN, ok bool) {
	start := end - wal.LSN(e.size)
	id := segment.At(tli, start, e.size)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.follow(h, tli)
	if h.SegmentAt(start, e.size) != id || e.end != 0 && start > e.end || end <= e.end {
		return 0, 0, false
	}
	if e.end == 0 {
		e.since = start
	}
	e.end = end
	return e.since, end, true
}

// behind says from where on WAL is not known to be archived, when that is
// before the segment of timeline tli that ends at end.
func (e *archivedEnd) behind(h segment.History, tli wal.Timeline, end wal.LSN) (segment.Position, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.follow(h, tli)
	return segment.Position{Timeline: h.TimelineAt(e.end), LSN: e.end}, e.end != 0 && end-wal.LSN(e.size) > e.end
}

// extend says that the archive holds everything before lsn that there is.
func (e *archivedEnd) extend(lsn wal.LSN) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.end = max(e.end, e.size.Floor(lsn))
}

// follow forgets what lies behind the fork when the history goes on with
// another timeline there: the archive holds it, but not as part of the way.
func (e *archivedEnd) follow(h segment.History, tli wal.Timeline) {
	if fork, ok := h.EndOf(e.tli); ok && tli > e.tli {
		fork = e.size.Floor(fork)
		e.start, e.since, e.end = min(e.start, fork), min(e.since, fork), min(e.end, fork)
	}
	if _, onTheWay := h.StartOf(tli); onTheWay {
		e.tli = max(e.tli, tli)
	}
}

// reach takes the end of what is archived without a hole, tails and recorded
// gaps included. The slot never moves for those.
func (e *archivedEnd) reach(end segment.Position) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.tail.Before(end) {
		e.tail = end
	}
}

// known is the earlier of where the slot is and where the archive ended when
// the process began, and the end of what reach was told of. Either is zero if
// it is not known.
func (e *archivedEnd) known(slot wal.LSN) (begin wal.LSN, stored segment.Position) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.start != 0 && (slot == 0 || e.start < slot) {
		slot = e.start
	}
	return slot, e.tail
}

// lsn is the end as status shows it, segments that of complete segments.
func (e *archivedEnd) lsn() (end, segments wal.LSN) {
	e.mu.Lock()
	defer e.mu.Unlock()
	segments = max(e.start, e.end)
	if e.tail.Timeline >= e.tli {
		return max(segments, e.tail.LSN), segments
	}
	return segments, segments
}

// archiveEnd is the end of the last complete segment that the archive holds on
// the way of history h; false when it holds none. If from is not zero it is
// the end of the segments without a hole from there on, and false when the
// archive holds only what lies behind.
func archiveEnd(ctx context.Context, a *archive.Archive, h segment.History, from wal.LSN) (segment.Position, bool, error) {
	size := a.Identity().SegmentSize
	if from != 0 {
		start := size.Floor(from)
		end, err := covered(ctx, a, h, segment.Position{Timeline: h.SegmentAt(start, size).Timeline, LSN: start})
		if end = size.Floor(end); err != nil || end > start {
			return segment.Position{Timeline: h.SegmentAt(end, size).Timeline, LSN: end}, err == nil, err
		}
	}
	for _, sw := range slices.Backward(append(slices.Clone(h.Ancestors), segment.Switch{Timeline: h.Timeline})) {
		last, err := lastSegment(ctx, a, h, sw.Timeline)
		if err != nil {
			return segment.Position{}, false, err
		}
		if last.Timeline != 0 && from != 0 && last.End(size) > from {
			break
		}
		if last.Timeline != 0 {
			return segment.Position{Timeline: last.Timeline, LSN: last.End(size)}, true, nil
		}
	}
	return segment.Position{}, false, nil
}

// lastSegment is the last complete segment of a timeline that the archive holds
// on the way of history h. It searches: there may be a million.
func lastSegment(ctx context.Context, a *archive.Archive, h segment.History, tli wal.Timeline) (last segment.ID, err error) {
	size := a.Identity().SegmentSize
	next := func(from uint64) (segment.ID, error) {
		for p, err := range a.Pieces(ctx, tli, from) {
			at := h.SegmentAt(p.ID.Start(size), size)
			switch {
			case err != nil || !p.Tail && at == p.ID:
				return p.ID, err
			case at.Timeline > tli: // the fork lies before
				return segment.ID{}, nil
			}
		}
		return segment.ID{}, nil
	}
	last, err = next(0)
	grow := true
	for step := uint64(1); err == nil && last.Timeline != 0 && step > 0; {
		var further segment.ID
		if further, err = next(last.No + step); further.Timeline != 0 {
			last = further
		}
		if grow = grow && further.Timeline != 0; grow {
			step *= 2
		} else {
			step /= 2
		}
	}
	return last, err
}
