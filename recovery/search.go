package recovery

import (
	"time"

	"github.com/walstream/walstream/archive"
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
	if wants := r.wants(); len(wants) > 0 {
		return nil, wants, nil
	}
	if end, _ := r.end(); end < r.backup.StopLSN {
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
		if r.hole != nil {
			return nil, nil, r.notFound()
		}
		end, _ := r.end()
		return &stop{end: end, need: end}, nil, nil
	}
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
	for i, id := range r.ids {
		if s := r.facts.Summaries[id]; !t.past(s.MaxTime) && !r.skipped(i) {
			continue
		}
		points, ok := r.pointsIn(i)
		if !ok {
			return nil, []Want{{Kind: WantPoints, Segment: id}}, nil
		}
		for _, f := range points.Finishes {
			if t.past(f.Time) {
				return r.stopAt(&stop{end: f.LSN, need: f.End, finish: &f}, f.LSN)
			}
		}
	}
	if s := r.quietUntil(t); s != nil {
		return s, nil, nil
	}
	return nil, nil, r.notFound()
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
	for no := r.ids[0].No; ; no-- {
		id := r.at(no)
		if !r.facts.Segments[id].whole() && id != r.ids[0] {
			return t.past(r.backup.Started), nil
		}
		s, ok := r.facts.Summaries[id]
		switch {
		case !ok:
			return false, []Want{{Kind: WantSummary, Segment: id}}
		case s.First == nil || s.First.LSN >= redo:
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

func (r *route) findXID(t Target) (*stop, []Want, *miss) {
	for i, id := range r.ids {
		if s := r.facts.Summaries[id]; (s.Commits+s.Aborts == 0 || s.Excludes(t.XID)) && !r.skipped(i) {
			continue
		}
		points, ok := r.pointsIn(i)
		if !ok {
			return nil, []Want{{Kind: WantPoints, Segment: id}}, nil
		}
		for _, f := range points.Finishes {
			if f.XID != t.XID {
				continue
			}
			s := &stop{end: f.End, need: f.End, finish: &f}
			if t.Exclusive {
				s.end = f.LSN
			}
			return r.stopAt(s, f.LSN)
		}
	}
	return nil, nil, r.notFound()
}

// stopAt accepts a stop at the record that starts at lsn, unless it lies
// before the cluster is consistent: PostgreSQL would end in FATAL.
func (r *route) stopAt(s *stop, lsn wal.LSN) (*stop, []Want, *miss) {
	if lsn < r.backup.StopLSN {
		return nil, nil, &miss{kind: missEarly, route: r}
	}
	return s, nil, nil
}

// findLSN needs a record that starts at the target or behind it: that is where
// PostgreSQL stops.
func (r *route) findLSN(t Target) (*stop, []Want, *miss) {
	if _, last := r.end(); t.LSN > last {
		return nil, nil, r.notFound()
	}
	want := Want{Kind: WantRecordAt, Timeline: r.history.Timeline, LSN: t.LSN}
	span, ok := r.facts.RecordAt[want]
	switch {
	case !ok:
		return nil, []Want{want}, nil
	case span.Start == 0:
		return nil, nil, r.notFound()
	case t.Exclusive:
		return &stop{end: span.Start, need: span.End}, nil, nil
	default:
		return &stop{end: span.End, need: span.End}, nil, nil
	}
}

func (r *route) findName(t Target) (*stop, []Want, *miss) {
	points, wants := r.points()
	if wants != nil {
		return nil, wants, nil
	}
	var found []wal.RestorePoint
	for _, p := range points {
		if p.Name == t.Name {
			found = append(found, p)
		}
	}
	switch {
	case len(found) == 0:
		return nil, nil, r.notFound()
	case found[0].LSN < r.backup.StopLSN:
		return nil, nil, &miss{kind: missEarly, route: r}
	case len(found) > 1:
		return nil, nil, &miss{kind: missAmbiguous, route: r, found: found}
	}
	return &stop{end: found[0].End, need: found[0].End, point: &found[0]}, nil, nil
}

// points lists the restore points on the route.
func (r *route) points() ([]wal.RestorePoint, []Want) {
	var points []wal.RestorePoint
	for i, id := range r.ids {
		found := r.facts.Summaries[id].RestorePoints
		if r.skipped(i) {
			known, ok := r.pointsIn(i)
			if !ok {
				return nil, []Want{{Kind: WantPoints, Segment: id}}
			}
			found = known.RestorePoints
		}
		for _, p := range found {
			if p.LSN >= r.backup.StartLSN {
				points = append(points, p)
			}
		}
	}
	return points, nil
}

// before finds the last commit or abort that is replayed when recovery ends at
// end; nil when there is none since the backup's redo.
func (r *route) before(end wal.LSN) (*wal.Finish, []Want) {
	for i := len(r.ids) - 1; i >= 0; i-- {
		s := r.facts.Summaries[r.ids[i]]
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
// ends at end; nil when there is none on the route.
func (r *route) after(end wal.LSN) (*wal.Finish, []Want) {
	for i, id := range r.ids {
		s := r.facts.Summaries[id]
		if s.Last == nil && !r.skipped(i) || s.Last != nil && s.Last.End <= end {
			continue
		}
		if i > 0 && s.First != nil && s.First.End > end && !r.skipped(i) {
			return s.First, nil
		}
		points, ok := r.pointsIn(i)
		if !ok {
			return nil, []Want{{Kind: WantPoints, Segment: id}}
		}
		for j := range points.Finishes {
			if points.Finishes[j].End > end {
				return &points.Finishes[j], nil
			}
		}
	}
	return nil, nil
}
