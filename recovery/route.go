package recovery

import (
	"cmp"
	"slices"

	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// candidate is a backup and the timeline to follow from it.
type candidate struct {
	backup  *backup.Commit
	history segment.History
}

// route is the WAL from a backup's redo along a history, as far as it is
// without a hole.
type route struct {
	candidate
	facts *Facts
	ids   []segment.ID // whole, but for the last when partial is set
	// hole is why the route ends although there must be more; nil when it
	// ends where all WAL ends.
	hole *hole
}

// hole is a stretch of segments on a route that cannot be had.
type hole struct {
	first, last segment.ID // both included; last has first's timeline or a later one
	count       uint64
	fork        bool // the first segment of a timeline is missing
	damaged     string
}

// candidates lists the backups from which the target's timeline can be
// followed, the newest first. With "latest" and "current" each backup decides
// its own timeline, as PostgreSQL does from pg_control.
func candidates(f *Facts, t Target) []candidate {
	backups := make([]*backup.Commit, len(f.Backups))
	for i := range f.Backups {
		backups[i] = &f.Backups[i]
	}
	slices.SortFunc(backups, func(a, b *backup.Commit) int {
		return cmp.Or(cmp.Compare(b.Timeline, a.Timeline), cmp.Compare(b.StopLSN, a.StopLSN), cmp.Compare(b.ID, a.ID))
	})
	var list []candidate
	for _, b := range backups {
		if t.Backup != "" && b.ID != t.Backup {
			continue
		}
		h, ok := f.history(timelineFor(f, t.Timeline, b))
		if ok && h.Contains(b.StartTimeline, b.StartLSN) && h.Contains(b.Timeline, b.StopLSN) {
			list = append(list, candidate{b, h})
		}
	}
	return list
}

func timelineFor(f *Facts, choice TargetTimeline, b *backup.Commit) wal.Timeline {
	switch {
	case choice.Number != 0:
		return choice.Number
	case choice.Current:
		return b.StartTimeline
	default:
		return f.latest(b.StartTimeline)
	}
}

// newRoute walks from the backup's redo segment on. A segment that holds a
// fork must exist on the timeline that begins in it: PostgreSQL would fall
// back to the old timeline's file, replay the abandoned branch and go live.
func newRoute(f *Facts, c candidate) *route {
	r := &route{candidate: c, facts: f}
	size := f.Identity.SegmentSize
	end := r.lastNo()
	for no := uint64(c.backup.StartLSN) / uint64(size); ; no++ {
		id := r.at(no)
		s := f.Segments[id]
		if s.whole() {
			r.ids = append(r.ids, id)
			continue
		}
		if no > end {
			return r
		}
		if no == end && s.best() != pieceNone {
			r.ids = append(r.ids, id)
			if s.best() == pieceTail && s.Cut != "" {
				r.hole = r.holeFrom(no, end)
			}
			return r
		}
		r.hole = r.holeFrom(no, end)
		return r
	}
}

// at is the segment numbered no on the route.
func (r *route) at(no uint64) segment.ID {
	size := r.facts.Identity.SegmentSize
	return r.history.SegmentAt(wal.LSN(no*uint64(size)), size)
}

// lastNo is the number of the last segment that there must be: the last one
// that exists on the route, or the one in which its last timeline begins.
func (r *route) lastNo() uint64 {
	size := r.facts.Identity.SegmentSize
	start, _ := r.history.StartOf(r.history.Timeline)
	last := uint64(start) / uint64(size)
	for id, s := range r.facts.Segments {
		if id.No > last && (s.best() != pieceNone || s.Damaged != "") && r.at(id.No) == id {
			last = id.No
		}
	}
	return last
}

func (r *route) holeFrom(no, end uint64) *hole {
	id := r.at(no)
	start, _ := r.history.StartOf(id.Timeline)
	h := &hole{
		first:   id,
		fork:    start > 0 && uint64(start)/uint64(r.facts.Identity.SegmentSize) == no,
		damaged: cmp.Or(r.facts.Segments[id].Damaged, r.facts.Segments[id].Cut),
	}
	for ; no <= end && !r.facts.Segments[r.at(no)].whole(); no++ {
		h.last = r.at(no)
		h.count++
	}
	return h
}

// wants lists the summaries of the route that are not known yet.
func (r *route) wants() []Want {
	var wants []Want
	for _, id := range r.ids {
		if _, ok := r.facts.Summaries[id]; !ok {
			wants = append(wants, Want{Kind: WantSummary, Segment: id})
		}
	}
	return wants
}

// pointsIn gives what recovery can stop at in the i-th segment, without what
// lies before the backup's redo; false when it is not known yet.
func (r *route) pointsIn(i int) (wal.Points, bool) {
	known, ok := r.facts.Points[r.ids[i]]
	redo := r.backup.StartLSN
	return wal.Points{
		Finishes:      slices.DeleteFunc(slices.Clone(known.Finishes), func(f wal.Finish) bool { return f.LSN < redo }),
		RestorePoints: slices.DeleteFunc(slices.Clone(known.RestorePoints), func(p wal.RestorePoint) bool { return p.LSN < redo }),
	}, ok
}

// skipped says that the summary of the i-th segment lacks a record of the
// route: the one whose beginning its reader had not seen. In the first segment
// that record lies before the redo.
func (r *route) skipped(i int) bool {
	return i > 0 && r.facts.Summaries[r.ids[i]].UnknownCarry
}

// end is the end of the last record on the route and that record's start;
// zero when no record ended on it.
func (r *route) end() (end, last wal.LSN) {
	for _, id := range slices.Backward(r.ids) {
		if s := r.facts.Summaries[id]; s.ValidEnd > 0 {
			return s.ValidEnd, s.LastRecord
		}
	}
	return 0, 0
}
