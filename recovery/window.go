package recovery

import (
	"context"
	"slices"
	"time"

	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// Window is a stretch of WAL without a hole behind a backup: every moment in
// it can be restored.
type Window struct {
	Timeline wal.Timeline `json:"timeline"` // the one that it leads to
	Backups  int          `json:"backups"`
	// From is when its first backup was finished, by the clock of whoever
	// took it, and FromLSN where that is consistent.
	From    time.Time `json:"from"`
	FromLSN wal.LSN   `json:"from_lsn"`
	// To is the last commit or abort in it, by the server's clock; zero when
	// there is none since the backups began. WAL reaches to ToLSN.
	To    time.Time `json:"to,omitzero"`
	ToLSN wal.LSN   `json:"to_lsn"`
	// Open says that it ends where all WAL of the timeline ends, not at a
	// hole.
	Open bool `json:"open"`
}

// Windows lists what can be restored along the newest timeline, in the order
// of LSNs. It lists all WAL behind the oldest backup, and reads few headers; the WAL itself it takes for what
// the headers say.
func (s Source) Windows(ctx context.Context) ([]Window, error) {
	return whileMoving(ctx, func() ([]Window, error) {
		g, err := s.gather(ctx)
		if err != nil {
			return nil, err
		}
		for {
			windows, wants := findWindows(&g.facts)
			if wants == nil {
				return windows, nil
			}
			if err := g.answer(ctx, wants); err != nil {
				return nil, err
			}
		}
	})
}

// findWindows is pure, as [MakePlan] is: it returns the windows, or the facts
// that it still wants.
func findWindows(f *Facts) ([]Window, []Want) {
	var list []Window
	var wants []Want
	all := candidates(f, Target{})
	for i, c := range slices.Backward(all) {
		r, more := newRoute(f, c)
		if more == nil && i == len(all)-1 {
			more = r.list(r.first, r.last) // of the oldest: all of it at once
		}
		wants = append(wants, more...)
	}
	if len(wants) > 0 {
		return nil, wants
	}
	var newer *route // leads to the end of the list's last window
	for _, c := range all {
		r, _ := newRoute(f, c)
		if newer != nil && newer.history.Timeline == c.history.Timeline {
			if wants = r.extend(newer.first); wants != nil {
				return nil, wants
			}
		}
		if newer == nil || newer.history.Timeline != c.history.Timeline || r.next() <= newer.first {
			if wants = r.extend(r.last + 1); wants != nil {
				return nil, wants
			}
			if len(r.ids) == 0 || r.reach() < c.backup.StopLSN {
				continue // its own WAL is not complete
			}
			list = append(list, Window{Timeline: c.history.Timeline, ToLSN: r.reach(), Open: r.hole == nil})
		}
		newer = r
		w := &list[len(list)-1] // the backups come from the newest to the oldest
		w.Backups++
		w.From, w.FromLSN = c.backup.Finished, c.backup.StopLSN
		if w.To.IsZero() {
			if w.To, wants = r.lastFinish(); wants != nil {
				return nil, wants
			}
		}
	}
	slices.Reverse(list)
	return list, nil
}

// reach is how far there are bytes on the route, whatever they hold.
func (r *route) reach() wal.LSN { return r.reachOf(r.ids[len(r.ids)-1]) }

// reachOf is how far there are bytes of a segment.
func (r *route) reachOf(id segment.ID) wal.LSN {
	if s := r.facts.Segments[id]; !s.whole() {
		return max(s.Tail, s.Partial)
	}
	return id.End(r.facts.Identity.SegmentSize)
}

// lastFinish is the time of the last commit or abort on the route, read from
// the end, so that of a long route few segments are looked at.
func (r *route) lastFinish() (time.Time, []Want) {
	for i := len(r.ids) - 1; i >= 0; i-- {
		s, wants := r.summary(i, -1, len(r.ids)-i)
		switch {
		case wants != nil:
			return time.Time{}, wants
		case s.Last != nil && s.Last.LSN >= r.backup.StartLSN:
			return s.Last.Time, nil
		}
	}
	return time.Time{}, nil
}
