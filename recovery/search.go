package recovery

import (
	"slices"
	"time"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// stop is where a recovery along a route ends.
type stop struct {
	end    wal.LSN // what ends at or before it is replayed
	need   wal.LSN // WAL must be readable up to here for PostgreSQL to notice
	finish *wal.Finish
	point  *wal.RestorePoint
	quiet  *archive.Heartbeat // proves that the target time lies behind all WAL
}

// find looks for the target on the route by PostgreSQL's own rules
// (recoveryStopsBefore and recoveryStopsAfter of xlogrecovery.c). Of the three
// results one is set: where it stops, what must be known first, or why the
// target is not on this route.
func (r *route) find(t Target) (*stop, []Want, *miss) {
	if t.Kind == KindLSN && t.LSN < r.backup.StopLSN {
		return nil, nil, &miss{kind: missEarly, route: r}
	}
	if wants, ok := r.consistent(); wants != nil {
		return nil, wants, nil
	} else if !ok {
		return nil, nil, &miss{kind: missIncomplete, route: r}
	}
	switch t.Kind {
	case KindTime:
		return r.findTime(t)
	case KindLSN:
		return r.findLSN(t)
	case KindXID:
		return r.findXID(t)
	case KindName:
		return r.findName(t)
	case KindImmediate:
		return &stop{end: r.backup.StopLSN, need: r.backup.StopLSN}, nil, nil
	default:
		wants, m := r.notFound()
		if wants != nil || m.kind == missHole {
			return nil, wants, m
		}
		end, _ := r.end()
		return &stop{end: end, need: end}, nil, nil
	}
}

// consistent says whether there is the WAL that the backup itself needs.
func (r *route) consistent() ([]Want, bool) {
	no := uint64(r.backup.StopLSN-1) / uint64(r.facts.Identity.SegmentSize)
	if wants := r.extend(no); wants != nil || r.next() <= no {
		return wants, false
	}
	wants, end, _ := r.endOf(int(no - r.first + 1))
	return wants, end >= r.backup.StopLSN
}

// hits passes what is in the segments that may hold what t looks for to use,
// from segment number no on as far as the route goes, until that returns true.
func (r *route) hits(t Target, no uint64, use func(wal.Points) bool) []Want {
	for {
		hit, wants := r.facts.first(r.candidate, t, no, r.last)
		if wants != nil || hit == NoSegment {
			return wants
		}
		if wants := r.extend(hit); wants != nil || r.next() <= hit {
			return wants
		}
		points, ok := r.pointsIn(int(hit - r.first))
		if !ok {
			return []Want{{Kind: WantPoints, Segment: r.at(hit)}}
		}
		if use(points) {
			return nil
		}
		no = hit + 1
	}
}

// first is the number of the first segment from no to last on the way from c
// that may hold what t looks for.
func (f *Facts) first(c candidate, t Target, no, last uint64) (uint64, []Want) {
	want := Want{Kind: WantFirst, Timeline: c.history.Timeline, From: no, To: last, Likely: c.likely}
	want.Target = Target{Kind: t.Kind, Time: t.Time, XID: t.XID, Name: t.Name, Exclusive: t.Exclusive}
	hit, ok := f.First[want]
	switch {
	case no > last:
		return NoSegment, nil
	case !ok:
		return 0, []Want{want}
	}
	return hit, nil
}

// mayBeIn says whether a stretch of WAL with this summary may hold what t looks
// for; for an empty name any restore point. A record whose beginning was not
// seen may be anything.
func (t Target) mayBeIn(s *wal.Summary) bool {
	switch {
	case s.UnknownCarry:
		return true
	case t.Kind == KindTime:
		return t.past(s.MaxTime)
	case t.Kind == KindXID:
		return s.Commits+s.Aborts > 0 && !s.Excludes(t.XID)
	}
	return slices.ContainsFunc(s.RestorePoints, func(p wal.RestorePoint) bool { return t.Name == "" || p.Name == t.Name })
}

// past is the comparison at which PostgreSQL stops before a commit or abort.
// The times of records are not monotonic: the first one past the target
// decides, whatever comes behind it.
func (t Target) past(at time.Time) bool {
	return at.After(t.Time) || t.Exclusive && at.Equal(t.Time)
}

func (r *route) findTime(t Target) (*stop, []Want, *miss) {
	if early, wants := r.startsPast(t); wants != nil {
		return nil, wants, nil
	} else if early {
		return nil, nil, &miss{kind: missEarly, route: r}
	}
	return r.findFinish(t, func(f wal.Finish) *stop {
		if !t.past(f.Time) {
			return nil
		}
		return &stop{end: f.LSN, need: f.End, finish: &f}
	})
}

func (r *route) findXID(t Target) (*stop, []Want, *miss) {
	return r.findFinish(t, func(f wal.Finish) *stop {
		switch {
		case f.XID != t.XID:
			return nil
		case t.Exclusive:
			return &stop{end: f.LSN, need: f.End, finish: &f}
		}
		return &stop{end: f.End, need: f.End, finish: &f}
	})
}

// findFinish stops at the first commit or abort for which at gives a stop,
// unless that lies before the cluster is consistent: PostgreSQL would end in
// FATAL.
func (r *route) findFinish(t Target, at func(wal.Finish) *stop) (s *stop, wants []Want, m *miss) {
	wants = r.hits(t, r.first, func(points wal.Points) bool {
		for _, f := range points.Finishes {
			if s = at(f); s != nil {
				return true
			}
		}
		return false
	})
	switch {
	case wants != nil:
		return nil, wants, nil
	case s != nil && s.finish.LSN < r.backup.StopLSN:
		return nil, nil, &miss{kind: missEarly, route: r}
	case s == nil:
		wants, m = r.notFound()
		if wants == nil && t.Kind == KindTime {
			if s = r.quietUntil(t); s != nil {
				m = nil
			}
		}
	}
	return s, wants, m
}

// startsPast says whether the backup holds transactions that finished past
// the target time. PostgreSQL does not see those: on a quiet server it would
// accept a time long before the backup and restore the backup's own state. The
// nearest segment with a commit or abort before the redo tells. One segment,
// not one record: times are out of order by a little all the time. Not all
// there is: a clock that was wrong for a while must not rule out every backup
// since. Where there is no WAL from before the backup, its start decides.
func (r *route) startsPast(t Target) (bool, []Want) {
	redo := r.backup.StartLSN
	for no := r.first; ; no-- {
		id := r.at(no)
		s, ok := r.facts.Summaries[id]
		switch {
		case !ok && !r.mayHave(id):
			return t.past(r.backup.Started), nil
		case !ok:
			return false, r.summariesBefore(no)
		case (s.First == nil || s.First.LSN >= redo) && no > 0:
			continue
		case !t.past(s.MaxTime) || s.Last.LSN < redo:
			return t.past(s.MaxTime), nil
		}
		points, ok := r.facts.Points[id]
		if !ok {
			return false, []Want{{Kind: WantPoints, Segment: id}}
		}
		for _, f := range points.Finishes {
			if f.LSN < redo && t.past(f.Time) {
				return true, nil
			}
		}
		return false, nil
	}
}

// mayHave says whether the summary of a segment up to the redo's can be had.
func (r *route) mayHave(id segment.ID) bool {
	s := r.facts.Segments[id]
	return id.No > 0 && (r.facts.Indexed[r.facts.block(id)] || !r.facts.listed(id) || s.whole() || id.No == r.first && s.best() != pieceNone)
}

// summariesBefore wants to know the summaries of segment number no and of those
// before it, as many as there were from the redo to it.
func (r *route) summariesBefore(no uint64) (wants []Want) {
	for n := min(r.first-no+1, 16); n > 0 && no > 0; n, no = n-1, no-1 {
		if _, ok := r.facts.Summaries[r.at(no)]; !ok && r.mayHave(r.at(no)) {
			wants = append(wants, Want{Kind: WantSummary, Segment: r.at(no)})
		}
	}
	return wants
}

// findLSN needs a record that starts at the target or behind it: that is where
// PostgreSQL stops.
func (r *route) findLSN(t Target) (*stop, []Want, *miss) {
	no := uint64(t.LSN) / uint64(r.facts.Identity.SegmentSize)
	if wants := r.extend(no); wants != nil {
		return nil, wants, nil
	}
	if r.next() > no {
		want := Want{Kind: WantRecordAt, Timeline: r.history.Timeline, LSN: t.LSN}
		span, ok := r.facts.RecordAt[want]
		if !ok {
			return nil, []Want{want}, nil
		}
		no = uint64(span.End-1) / uint64(r.facts.Identity.SegmentSize)
		if span.Start == 0 {
			no = NoSegment
		} else if wants := r.extend(no); wants != nil {
			return nil, wants, nil
		}
		switch {
		case r.next() <= no:
		case t.Exclusive:
			return &stop{end: span.Start, need: span.End}, nil, nil
		default:
			return &stop{end: span.End, need: span.End}, nil, nil
		}
	}
	wants, m := r.notFound()
	return nil, wants, m
}

func (r *route) findName(t Target) (*stop, []Want, *miss) {
	found, wants := r.points(t)
	switch {
	case wants != nil:
		return nil, wants, nil
	case len(found) == 0:
		wants, m := r.notFound()
		return nil, wants, m
	case found[0].LSN < r.backup.StopLSN:
		return nil, nil, &miss{kind: missEarly, route: r}
	case len(found) > 1:
		return nil, nil, &miss{kind: missAmbiguous, route: r, found: found}
	}
	return &stop{end: found[0].End, need: found[0].End, point: &found[0]}, nil, nil
}

// points lists the restore points on the route that have the name of t, or all
// if that is empty.
func (r *route) points(t Target) (found []wal.RestorePoint, wants []Want) {
	wants = r.hits(Target{Kind: KindName, Name: t.Name}, r.first, func(points wal.Points) bool {
		for _, p := range points.RestorePoints {
			if t.Name == "" || p.Name == t.Name {
				found = append(found, p)
			}
		}
		return false
	})
	return found, wants
}

// before finds the last commit or abort that is replayed when recovery ends at
// end; nil when there is none since the backup's redo.
func (r *route) before(end wal.LSN) (*wal.Finish, []Want) {
	from := len(r.ids) - 1
	if no := uint64(end-1) / uint64(r.facts.Identity.SegmentSize); no < r.next() {
		from = int(no - r.first)
	}
	for i := from; i >= 0; i-- {
		s, wants := r.summary(i, -1, from-i+1)
		if wants != nil {
			return nil, wants
		}
		if s.Last == nil && !r.skipped(i) || s.First != nil && s.First.End > end && !r.skipped(i) {
			continue
		}
		if i > 0 && s.Last != nil && s.Last.End <= end {
			return s.Last, nil
		}
		points, ok := r.pointsIn(i)
		if !ok {
			return nil, []Want{{Kind: WantPoints, Segment: r.ids[i]}}
		}
		for j := len(points.Finishes) - 1; j >= 0; j-- {
			if points.Finishes[j].End <= end {
				return &points.Finishes[j], nil
			}
		}
	}
	return nil, nil
}

// after finds the first commit or abort that is not replayed when recovery
// ends at end; nil when none is in sight.
func (r *route) after(end wal.LSN) (*wal.Finish, []Want) {
	from := int(uint64(end)/uint64(r.facts.Identity.SegmentSize) - r.first)
	for i := from; i < len(r.ids); i++ {
		s, wants := r.summary(i, 1, i-from+1)
		if wants != nil && !r.inSight(i, i-from) {
			return nil, nil
		}
		if wants != nil {
			return nil, wants
		}
		if s.Last == nil && !r.skipped(i) || s.Last != nil && s.Last.End <= end {
			continue
		}
		if i > 0 && s.First != nil && s.First.End > end && !r.skipped(i) {
			return s.First, nil
		}
		points, ok := r.pointsIn(i)
		if !ok {
			return nil, []Want{{Kind: WantPoints, Segment: r.ids[i]}}
		}
		for j := range points.Finishes {
			if points.Finishes[j].End > end {
				return &points.Finishes[j], nil
			}
		}
	}
	return nil, nil
}
