package recovery

import (
	"cmp"
	"slices"

	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// route is the WAL from a backup's redo along a history, as far as it was
// followed and is without a hole.
type route struct {
	candidate
	facts *Facts
	first uint64       // number of the redo's segment
	last  uint64       // of the last segment that there must be
	ids   []segment.ID // whole, but for the last of all
	// done says that it ends there: at the hole, or where all WAL ends.
	done bool
	// hole is why it ends although there must be more.
	hole *hole
}

// hole is a stretch of segments on a route that cannot be had.
type hole struct {
	first, last segment.ID // both included; last has first's timeline or a later one
	count       uint64
	fork        bool // the first segment of a timeline is missing
	damaged     string
}

// newRoute begins at a backup's redo.
func newRoute(f *Facts, c candidate) (*route, error) {
	if !isRead(c.backup) {
		return nil, lack(Want{Kind: WantBackup, Backup: c.backup.ID})
	}
	last, err := f.last(c.history)
	return &route{candidate: c, facts: f, first: uint64(c.backup.StartLSN) / uint64(f.Identity.SegmentSize), last: last}, err
}

// extend follows WAL up to segment number to, if it gets there. A segment that
// holds a fork must exist on the timeline that begins in it: PostgreSQL would
// fall back to the old timeline's file, replay the abandoned branch and go live.
func (r *route) extend(to uint64) error {
	for no := r.next(); !r.done && no <= to; no++ {
		id := r.at(no)
		if !r.facts.listed(id) {
			return r.list(no, min(to, r.last))
		}
		s := r.facts.Segments[id]
		switch {
		case s.whole():
			r.ids = append(r.ids, id)
			continue
		case no > r.last:
		case no == r.last && s.best() != pieceNone:
			r.ids = append(r.ids, id)
			if s.best() == pieceTail && s.Cut != "" {
				r.hole = r.holeAt(no)
			}
		default:
			r.hole = r.holeAt(no)
		}
		r.done = true
	}
	return nil
}

// toEnd follows WAL as far as it goes, more of it in each step.
func (r *route) toEnd() error {
	for n := r.facts.Span; !r.done; n *= 2 {
		if err := r.extend(r.first + n - 1); err != nil {
			return err
		}
	}
	_, _, err := r.endOf(len(r.ids))
	return err
}

// next is the number of the segment behind those of the route.
func (r *route) next() uint64 { return r.first + uint64(len(r.ids)) }

// list wants to know what there is of the segments numbered from to to.
func (r *route) list(from, to uint64) error {
	var wants []Want
	var before segment.ID
	for no := from; no <= to; no++ {
		id := r.at(no)
		if b := r.facts.block(id); b != before && !r.facts.listed(id) {
			wants = append(wants, Want{Kind: WantBlock, Segment: b})
			before = b
		}
	}
	return lack(wants...)
}

// at is the segment numbered no on the route.
func (r *route) at(no uint64) segment.ID {
	size := r.facts.Identity.SegmentSize
	return r.history.SegmentAt(wal.LSN(no*uint64(size)), size)
}

func (r *route) holeAt(no uint64) *hole {
	id := r.at(no)
	start, _ := r.history.StartOf(id.Timeline)
	return &hole{
		first:   id,
		fork:    start > 0 && uint64(start)/uint64(r.facts.Identity.SegmentSize) == no,
		damaged: cmp.Or(r.facts.Segments[id].Damaged, r.facts.Segments[id].Cut),
	}
}

// measure finds out how far the hole reaches.
func (r *route) measure() error {
	h := r.hole
	h.count = 0
	for no := h.first.No; no <= r.last; no++ {
		id := r.at(no)
		if !r.facts.listed(id) {
			return r.list(no, min(r.last, no+h.count))
		}
		if r.facts.Segments[id].whole() {
			break
		}
		h.last = id
		h.count++
	}
	return nil
}

// summary is that of the i-th segment. If it is not known yet the error asks for
// it, and when it is the n-th that is looked at one after the other, in the
// direction of step, for as many more.
func (r *route) summary(i, step, n int) (wal.Summary, error) {
	var wants []Want
	s, ok := r.facts.Summaries[r.ids[i]]
	for k := 0; !ok && k < min(n, 16) && i >= 0 && i < len(r.ids); k++ {
		if _, known := r.facts.Summaries[r.ids[i]]; !known && (k == 0 || r.facts.Segments[r.ids[i]].best() == pieceArchived) {
			wants = append(wants, Want{Kind: WantSummary, Segment: r.ids[i]})
		}
		i += step
	}
	return s, lack(wants...)
}

// points gives what recovery can stop at in the i-th segment, without what
// lies before the backup's redo.
func (r *route) points(i int) (wal.Points, error) {
	known, ok := r.facts.Points[r.ids[i]]
	if !ok {
		return known, lack(Want{Kind: WantPoints, Segment: r.ids[i]})
	}
	redo := r.backup.StartLSN
	return wal.Points{
		Finishes:      slices.DeleteFunc(slices.Clone(known.Finishes), func(f wal.Finish) bool { return f.LSN < redo }),
		RestorePoints: slices.DeleteFunc(slices.Clone(known.RestorePoints), func(p wal.RestorePoint) bool { return p.LSN < redo }),
	}, nil
}

// skipped says that the summary of the i-th segment lacks a record of the
// route: the one whose beginning its reader had not seen. In the first segment
// that record lies before the redo.
func (r *route) skipped(i int) bool {
	return i > 0 && r.facts.Summaries[r.ids[i]].UnknownCarry
}

// endOf is the end of the last record in the first n segments, and that record's
// start; zero when no record ended in them.
func (r *route) endOf(n int) (end, last wal.LSN, err error) {
	for i := n - 1; i >= 0; i-- {
		s, err := r.summary(i, -1, n-i)
		if err != nil || s.ValidEnd > 0 {
			return s.ValidEnd, s.LastRecord, err
		}
	}
	return 0, 0, nil
}

// end is the end of the last record of a route that is done, and that record's
// start.
func (r *route) end() (end, last wal.LSN) {
	end, last, _ = r.endOf(len(r.ids))
	return end, last
}
