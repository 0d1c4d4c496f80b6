package recovery

import (
	"errors"
	"slices"

	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// candidate is a backup and the timeline to follow from it.
type candidate struct {
	backup  *backup.Commit
	history segment.History
	likely  bool // look only where a transaction is likely to be
}

// candidates lists the backups from which the target's timeline can be
// followed, the newest first. With "latest" and "current" each backup decides
// its own timeline, as PostgreSQL does from pg_control.
func candidates(f *Facts, t Target) []candidate {
	backups := make([]*backup.Commit, len(f.Backups))
	for i := range f.Backups {
		backups[i] = &f.Backups[i]
	}
	slices.SortFunc(backups, backup.NewerFirst)
	var list []candidate
	for _, b := range backups {
		if t.Backup != "" && b.ID != t.Backup {
			continue
		}
		h, ok := f.history(timelineFor(f, t.Timeline, b))
		if ok && h.Contains(b.Timeline, b.StopLSN) && (!isRead(b) || h.Contains(b.StartTimeline, b.StartLSN)) {
			list = append(list, candidate{backup: b, history: h})
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

// explain words why no backup of the list, the newest first, leads to the
// target. When even the oldest comes too late, the target is before all of
// them; otherwise the longest way on which it was looked for tells most.
func explain(f *Facts, t Target, list []candidate) (*Plan, error) {
	var m *miss
	for i, c := range slices.Backward(list) {
		p, err := c.plan(f, t)
		if !errors.As(err, &m) { // times went back so far that it was left out
			return p, err
		}
		if i == len(list)-1 && m.kind == missEarly || m.kind != missEarly && m.kind != missIncomplete {
			break
		}
	}
	return nil, m.refusal(t, list)
}

// plan plans from one backup. The error is a [*miss] when the target is not on
// the way.
func (c candidate) plan(f *Facts, t Target) (*Plan, error) {
	r, err := newRoute(f, c)
	if err != nil {
		return nil, err
	}
	s, err := r.find(t)
	if err != nil {
		return nil, err
	}
	return r.plan(t, s)
}

// tooLate says how many of the backups, beginning with the newest, need not be
// looked at for a target time, because the one behind them in time holds
// transactions past it. Where to begin the clocks in their names tell, when
// those are right; that one is too late, and the next is not, WAL does.
func tooLate(f *Facts, t Target, list []candidate) (int, error) {
	const few = 8 // are simply looked at one after the other
	if t.Kind != KindTime || len(list) <= few {
		return 0, nil
	}
	guess := slices.IndexFunc(list, func(c candidate) bool { return !t.past(c.backup.Started) })
	if guess < 0 {
		guess = len(list) - 1
	}
	low, high := -1, len(list) // low is too late, high is not
	for low+1 < high {
		at := (low + high) / 2
		switch {
		case low < guess && guess < high:
			at = guess
		case high == guess:
			at = guess - 1
		case low == guess:
			at = guess + 1
		}
		r, err := newRoute(f, list[at])
		if err != nil {
			return 0, err
		}
		late, err := r.startsPast(t)
		switch {
		case err != nil:
			return 0, err
		case late:
			low = at
		default:
			high = at
		}
	}
	return min(high, len(list)-1), nil
}

// notBehind says that the target does not lie behind the first backup of the
// list, without reading that. Of a list that is gone through it may want to
// know the same of as many more as there were before.
func notBehind(f *Facts, t Target, list []candidate, n int) (skip bool, err error) {
	switch t.Kind {
	case KindLSN:
		return t.LSN < list[0].backup.StopLSN, nil
	case KindXID, KindName:
	default:
		return false, nil
	}
	var wants lacking
	for i, c := range list[:min(n, len(list))] {
		last, err := f.last(c.history)
		if err != nil {
			return false, err
		}
		hit, err := f.first(c, t, uint64(c.backup.StopLSN)/uint64(f.Identity.SegmentSize), last)
		if i == 0 && err == nil {
			return hit == NoSegment, nil
		}
		if more := wanted(err); len(more) > 0 && !slices.Contains(wants, more[0]) {
			wants = append(more, wants...) // the older one's answer helps with the newer one's
		}
	}
	return false, lack(wants...)
}
