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

	last segment.ID
}

// Windows lists what can be restored along the newest timeline, in the order
// of LSNs. It reads listings and few headers; the WAL itself it takes for what
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
			for _, w := range wants {
				if err := g.answer(ctx, w); err != nil {
					return nil, err
				}
			}
		}
	})
}

// findWindows is pure, as [MakePlan] is: it returns the windows, or the facts
// that it still wants.
func findWindows(f *Facts) ([]Window, []Want) {
	var list []Window
	for _, c := range candidates(f, Target{}) {
		r := newRoute(f, c)
		if len(r.ids) == 0 || r.reach() < c.backup.StopLSN {
			continue // its own WAL is not complete
		}
		last := r.ids[len(r.ids)-1]
		i := slices.IndexFunc(list, func(w Window) bool { return w.last == last })
		if i < 0 {
			i = len(list)
			list = append(list, Window{Timeline: c.history.Timeline, ToLSN: r.reach(), Open: r.hole == nil, last: last})
		}
		w := &list[i] // the backups come from the newest to the oldest
		w.Backups++
		w.From, w.FromLSN = c.backup.Finished, c.backup.StopLSN
		if w.To.IsZero() {
			var want *Want
			if w.To, want = r.lastFinish(); want != nil {
				return nil, []Want{*want}
			}
		}
	}
	slices.Reverse(list)
	return list, nil
}

// reach is how far there are bytes on the route, whatever they hold.
func (r *route) reach() wal.LSN {
	last := r.ids[len(r.ids)-1]
	if s := r.facts.Segments[last]; !s.whole() {
		return max(s.Tail, s.Partial)
	}
	return last.End(r.facts.Identity.SegmentSize)
}

// lastFinish is the time of the last commit or abort on the route, read from
// the end, so that of a long route few segments are looked at.
func (r *route) lastFinish() (time.Time, *Want) {
	for _, id := range slices.Backward(r.ids) {
		s, ok := r.facts.Summaries[id]
		switch {
		case !ok:
			return time.Time{}, &Want{Kind: WantSummary, Segment: id}
		case s.Last != nil && s.Last.LSN >= r.backup.StartLSN:
			return s.Last.Time, nil
		}
	}
	return time.Time{}, nil
}
