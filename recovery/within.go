package recovery

import (
	"cmp"
	"context"
	"slices"
	"sort"

	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/segment"
)

// within is stretches of WAL by the numbers of their segments. Nil is all.
type within []stretch

type stretch struct{ first, last uint64 }

// next is the first segment from number no on that is in one of them,
// [NoSegment] if there is none.
func (w within) next(no uint64) uint64 {
	if w == nil {
		return no
	}
	next := NoSegment
	for _, s := range w {
		if no <= s.last {
			next = min(next, max(no, s.first))
		}
	}
	return next
}

// finishing is where on the way of a history a transaction may have finished
// by what its backups tell, of which a few are read. IDs are used again: each
// use has a stretch of its own, from a backup before which it was not assigned
// to one behind which it is not active.
func (g *gatherer) finishing(ctx context.Context, h segment.History, xid uint32) (w within, err error) {
	on := slices.DeleteFunc(slices.Clone(g.facts.Backups), func(b backup.Commit) bool { return !h.Contains(b.Timeline, b.StopLSN) })
	slices.SortFunc(on, func(a, b backup.Commit) int { return backup.NewerFirst(&b, &a) })
	// What is searched for may be unknown of some, or out of order: the first
	// backup that has it has it all the same, and the one before has not.
	first := func(has func(*backup.Commit) bool) int {
		return sort.Search(len(on), func(i int) bool {
			err = cmp.Or(err, g.readBackup(ctx, &on[i]))
			return has(&on[i])
		})
	}
	if len(on) == 0 {
		return nil, nil
	}
	newest := &on[len(on)-1]
	if err := g.readBackup(ctx, newest); err != nil || newest.NextXID == 0 {
		return nil, err
	}
	size := uint64(g.facts.Identity.SegmentSize)
	w = within{{uint64(newest.StartLSN) / size, NoSegment - 1}}
	last := newest.NextXID - 1
	for back := uint64(uint32(last) - xid); last >= back; last -= 1 << 32 {
		use, s := last-back, stretch{0, NoSegment - 1}
		if i := first(func(c *backup.Commit) bool { return c.NextXID == 0 || c.NextXID > use }); i > 0 {
			s.first = uint64(on[i-1].StartLSN) / size
		}
		end := first(func(c *backup.Commit) bool { return c.OldestActiveXID > use })
		if end < len(on) {
			s.last = uint64(on[end].StopLSN) / size
		}
		w = append(w, s)
		if end == 0 || last < 1<<32 {
			break
		}
	}
	return w, err
}

// readBackup reads the rest of a backup. It stays as it is when that cannot be
// used.
func (g *gatherer) readBackup(ctx context.Context, b *backup.Commit) error {
	is := func(c backup.Commit) bool { return c.ID == b.ID }
	if isRead(b) || !slices.ContainsFunc(g.facts.Backups, is) {
		return nil
	}
	err := g.answer(ctx, []Want{{Kind: WantBackup, Backup: b.ID}})
	if i := slices.IndexFunc(g.facts.Backups, is); i >= 0 {
		*b = g.facts.Backups[i]
	}
	return err
}
