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
// (recoveryStopsBefore and recoveryStopsAfter of xlogrecovery.c). The error is a
// [*miss] when the target is not on this route.
func (r *route) find(t Target) (*stop, error) {
	if t.Kind == KindLSN && t.LSN < r.backup.StopLSN {
		return nil, &miss{kind: missEarly, route: r}
	}
	if err := r.consistent(); err != nil {
		return nil, err
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
		return &stop{end: r.backup.StopLSN, need: r.backup.StopLSN}, nil
	}
	if err := r.toEnd(); err != nil {
		return nil, err
	}
	if r.hole != nil {
		return nil, r.notFound()
	}
	end, _ := r.end()
	return &stop{end: end, need: end}, nil
}

// consistent fails unless there is the WAL that the backup itself needs.
func (r *route) consistent() error {
	no := uint64(r.backup.StopLSN-1) / uint64(r.facts.Identity.SegmentSize)
	if err := r.extend(no); err != nil {
		return err
	}
	if r.next() > no {
		end, _, err := r.endOf(int(no - r.first + 1))
		if err != nil || end >= r.backup.StopLSN {
			return err
		}
	}
	return &miss{kind: missIncomplete, route: r}
}

// hits passes what is in the segments that may hold what t looks for to use,
// as far as the route goes, until that returns true.
func (r *route) hits(t Target, use func(wal.Points) bool) error {
	for no := r.first; ; no++ {
		var err error
		no, err = r.facts.first(r.candidate, t, no, r.last)
		if err != nil || no == NoSegment {
			return err
		}
		if err := r.extend(no); err != nil || r.next() <= no {
			return err
		}
		points, err := r.points(int(no - r.first))
		if err != nil || use(points) {
			return err
		}
	}
}

// first is the number of the first segment from no to last on the way from c
// that may hold what t looks for.
func (f *Facts) first(c candidate, t Target, no, last uint64) (uint64, error) {
	want := Want{Kind: WantFirst, Timeline: c.history.Timeline, From: no, To: last, Likely: c.likely}
	want.Target = Target{Kind: t.Kind, Time: t.Time, XID: t.XID, Name: t.Name, Exclusive: t.Exclusive}
	hit, ok := f.First[want]
	switch {
	case no > last:
		return NoSegment, nil
	case !ok:
		return 0, lack(want)
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

func (r *route) findTime(t Target) (*stop, error) {
	if early, err := r.startsPast(t); err != nil {
		return nil, err
	} else if early {
		return nil, &miss{kind: missEarly, route: r}
	}
	return r.findFinish(t, func(f wal.Finish) *stop {
		if !t.past(f.Time) {
			return nil
		}
		return &stop{end: f.LSN, need: f.End, finish: &f}
	})
}

func (r *route) findXID(t Target) (*stop, error) {
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
func (r *route) findFinish(t Target, at func(wal.Finish) *stop) (s *stop, err error) {
	err = r.hits(t, func(points wal.Points) bool {
		for _, f := range points.Finishes {
			if s = at(f); s != nil {
				return true
			}
		}
		return false
	})
	switch {
	case err != nil:
		return nil, err
	case s == nil:
		return r.quietUntil(t)
	case s.finish.LSN < r.backup.StopLSN:
		return nil, &miss{kind: missEarly, route: r}
	}
	return s, nil
}

// startsPast says whether the backup holds transactions that finished past
// the target time. PostgreSQL does not see those: on a quiet server it would
// accept a time long before the backup and restore the backup's own state. The
// nearest segment with a commit or abort before the redo tells. One segment,
// not one record: times are out of order by a little all the time. Not all
// there is: a clock that was wrong for a while must not rule out every backup
// since. Where there is no WAL from before the backup, its start decides.
func (r *route) startsPast(t Target) (bool, error) {
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
			return false, lack(Want{Kind: WantPoints, Segment: id})
		}
		return slices.ContainsFunc(points.Finishes, func(f wal.Finish) bool { return f.LSN < redo && t.past(f.Time) }), nil
	}
}

// mayHave says whether the summary of a segment up to the redo's can be had.
func (r *route) mayHave(id segment.ID) bool {
	s := r.facts.Segments[id]
	return id.No > 0 && (r.facts.Indexed[r.facts.block(id)] || !r.facts.listed(id) || s.whole() || id.No == r.first && s.best() != pieceNone)
}

// summariesBefore wants to know the summaries of segment number no and of those
// before it, as many as there were from the redo to it.
func (r *route) summariesBefore(no uint64) error {
	var wants []Want
	for n := min(r.first-no+1, 16); n > 0 && no > 0; n, no = n-1, no-1 {
		if _, ok := r.facts.Summaries[r.at(no)]; !ok && r.mayHave(r.at(no)) {
			wants = append(wants, Want{Kind: WantSummary, Segment: r.at(no)})
		}
	}
	return lack(wants...)
}

// findLSN needs a record that starts at the target or behind it: that is where
// PostgreSQL stops.
func (r *route) findLSN(t Target) (*stop, error) {
	size := uint64(r.facts.Identity.SegmentSize)
	no := uint64(t.LSN) / size
	if err := r.extend(no); err != nil {
		return nil, err
	}
	if r.next() <= no {
		return nil, r.notFound()
	}
	want := Want{Kind: WantRecordAt, Timeline: r.history.Timeline, LSN: t.LSN}
	span, ok := r.facts.RecordAt[want]
	if !ok {
		return nil, lack(want)
	}
	if span.Start == 0 {
		return nil, r.notFound()
	}
	no = uint64(span.End-1) / size
	if err := r.extend(no); err != nil {
		return nil, err
	}
	switch {
	case r.next() <= no:
		return nil, r.notFound()
	case t.Exclusive:
		return &stop{end: span.Start, need: span.End}, nil
	}
	return &stop{end: span.End, need: span.End}, nil
}

func (r *route) findName(t Target) (*stop, error) {
	found, err := r.restorePoints(t.Name)
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0:
		return nil, r.notFound()
	case found[0].LSN < r.backup.StopLSN:
		return nil, &miss{kind: missEarly, route: r}
	case len(found) > 1:
		return nil, &miss{kind: missAmbiguous, route: r, found: found}
	}
	return &stop{end: found[0].End, need: found[0].End, point: &found[0]}, nil
}

// restorePoints lists those on the route that have this name, or all if it is
// empty.
func (r *route) restorePoints(name string) (found []wal.RestorePoint, err error) {
	err = r.hits(Target{Kind: KindName, Name: name}, func(points wal.Points) bool {
		for _, p := range points.RestorePoints {
			if name == "" || p.Name == name {
				found = append(found, p)
			}
		}
		return false
	})
	return found, err
}

// before finds the last commit or abort that is replayed when recovery ends at
// end; nil when there is none since the backup's redo.
func (r *route) before(end wal.LSN) (*wal.Finish, error) {
	from := len(r.ids) - 1
	if no := uint64(end-1) / uint64(r.facts.Identity.SegmentSize); no < r.next() {
		from = int(no - r.first)
	}
	for i := from; i >= 0; i-- {
		s, err := r.summary(i, -1, from-i+1)
		if err != nil {
			return nil, err
		}
		redo := r.backup.StartLSN
		if !r.skipped(i) && (s.Last == nil || s.First.End > end || s.Last.LSN < redo) {
			continue
		}
		if s.Last != nil && s.Last.End <= end && s.Last.LSN >= redo {
			return s.Last, nil
		}
		points, err := r.points(i)
		if err != nil {
			return nil, err
		}
		for _, f := range slices.Backward(points.Finishes) {
			if f.End <= end {
				return &f, nil
			}
		}
	}
	return nil, nil
}

// after finds the first commit or abort that is not replayed when recovery
// ends at end; nil when none is in sight.
func (r *route) after(end wal.LSN) (*wal.Finish, error) {
	from := int(uint64(end)/uint64(r.facts.Identity.SegmentSize) - r.first)
	for i := from; i < len(r.ids); i++ {
		s, err := r.summary(i, 1, i-from+1)
		if err != nil && !r.inSight(i, i-from) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if s.Last == nil && !r.skipped(i) || s.Last != nil && s.Last.End <= end {
			continue
		}
		if s.First != nil && s.First.End > end && !r.skipped(i) {
			return s.First, nil
		}
		points, err := r.points(i)
		if err != nil {
			return nil, err
		}
		for _, f := range points.Finishes {
			if f.End > end {
				return &f, nil
			}
		}
	}
	return nil, nil
}
