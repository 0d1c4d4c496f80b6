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
// of LSNs. It lists all WAL behind the oldest backup, and reads few headers; the
// WAL itself it takes for what the headers say.
func (s Source) Windows(ctx context.Context) ([]Window, error) {
	return whileMoving(ctx, func() ([]Window, error) {
		g, err := s.gather(ctx)
		if err != nil {
			return nil, err
		}
		return settled(ctx, g, func() ([]Window, error) { return findWindows(&g.facts) })
	})
}

// findWindows is pure, as [MakePlan] is: the error asks for the facts that it
// still wants.
func findWindows(f *Facts) ([]Window, error) {
	var list []Window
	var wants []Want
	all := candidates(f, Target{})
	for i, c := range slices.Backward(all) {
		r, err := newRoute(f, c)
		if err == nil && i == len(all)-1 {
			err = r.list(r.first, r.last) // of the oldest: all of it at once
		}
		wants = append(wants, wanted(err)...)
	}
	if len(wants) > 0 {
		return nil, lack(wants...)
	}
	var newer *route // leads to the end of the list's last window
	for _, c := range all {
		r, _ := newRoute(f, c)
		joins := newer != nil && newer.history.Timeline == c.history.Timeline
		if joins {
			if err := r.extend(newer.first); err != nil {
				return nil, err
			}
			joins = r.next() > newer.first
		}
		if !joins {
			if err := r.extend(r.last + 1); err != nil {
				return nil, err
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
			last, err := r.before(^wal.LSN(0))
			if err != nil {
				return nil, err
			}
			if last != nil {
				w.To = last.Time
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
