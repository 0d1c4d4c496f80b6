package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// unfinishedFor is how long nothing must have been stored of a backup that was
// never complete before it is taken for abandoned.
const unfinishedFor = 24 * time.Hour

// Prune is what may be deleted of an archive, and what stays. docs/retention.md
// has the rules.
type Prune struct {
	Keep []*Commit // newest first
	Drop []*Commit // oldest first
	// Oldest is that of Keep from which on the newest timeline can be restored.
	Oldest *Commit
	// Unfinished are IDs of backups that were never complete, of which data is left.
	Unfinished []string
	// WAL is what no kept backup needs, in the order in which it is deleted.
	WAL []archive.Info
	// Notes tell what does not count or is left alone, and why.
	Notes []string

	a         *archive.Archive
	histories map[wal.Timeline]segment.History
	stored    map[string]time.Time // when the commit object of a backup was, by its ID
	all       []*Commit            // newest first
	spared    bool                 // there are timelines that histories lacks
}

// PlanPrune finds out what can be deleted so that the newest keep backups on
// the way to the newest timeline that can be restored stay restorable, and all
// that they lead to. It fails if there is none, or if it is not known whether
// something is needed.
func PlanPrune(ctx context.Context, a *archive.Archive, keep int, now time.Time) (*Prune, error) {
	p := &Prune{a: a, stored: map[string]time.Time{}}
	err := p.list(ctx)
	if err == nil {
		err = p.listTimelines(ctx)
	}
	if err == nil {
		err = p.choose(ctx, keep)
	}
	if err == nil {
		err = p.listUnfinished(ctx, now)
	}
	if err == nil {
		p.WAL, err = a.Below(ctx, p.cut(), p.pointsBefore())
	}
	if err != nil {
		return nil, fmt.Errorf("prune: %w", err)
	}
	return p, nil
}

func (p *Prune) list(ctx context.Context) error {
	for info, err := range p.a.Store().List(ctx, archive.BackupsPrefix, "") {
		if err != nil {
			return err
		}
		name := strings.TrimSuffix(info.Name, ".json")
		p.stored[name[strings.LastIndexByte(name, '-')+1:]] = info.Modified
	}
	for c, err := range List(ctx, p.a) {
		switch {
		case errors.As(err, new(*UnusableError)):
			p.Notes = append(p.Notes, err.Error()+"; it is left alone")
		case err != nil:
			return err
		default:
			p.all = append(p.all, c)
		}
	}
	slices.SortFunc(p.all, NewerFirst)
	return nil
}

// NewerFirst orders backups: those of later timelines first, then by where they
// end.
func NewerFirst(a, b *Commit) int {
	return cmp.Or(cmp.Compare(b.Timeline, a.Timeline), cmp.Compare(b.StopLSN, a.StopLSN), cmp.Compare(b.ID, a.ID))
}

// listTimelines reads the histories. Nothing of a timeline without one is
// touched; if it might be the newest, nothing at all.
func (p *Prune) listTimelines(ctx context.Context) error {
	var timelines []wal.Timeline
	for _, c := range p.all {
		timelines = append(timelines, c.StartTimeline, c.Timeline)
	}
	known, unknown, err := p.a.Histories(ctx, timelines...)
	if err != nil {
		return err
	}
	p.histories, p.spared = known, len(unknown) > 0
	for _, tli := range slices.Sorted(maps.Keys(unknown)) {
		p.Notes = append(p.Notes, fmt.Sprintf("nothing of timeline %s is deleted: %v", tli, unknown[tli]))
		if tli > p.newest() {
			err = hint.Errorf("where it is missing: walstream list timelines", "what is needed cannot be told: %w", unknown[tli])
		}
	}
	return err
}

// newest is the newest timeline whose history is known.
func (p *Prune) newest() wal.Timeline {
	return slices.Max(append(slices.Collect(maps.Keys(p.histories)), 1))
}

// choose fills in Keep and Drop.
func (p *Prune) choose(ctx context.Context, keep int) error {
	err := p.keepOn(ctx, p.newest(), keep)
	if err == nil && len(p.Keep) == 0 {
		err = hint.Errorf("take one: walstream backup", "no backup on the way to timeline %s can be restored; nothing is deleted", p.newest())
	}
	if err != nil {
		return err
	}
	p.Oldest = p.Keep[len(p.Keep)-1]
	if err := p.spareBranches(ctx); err != nil {
		return err
	}
	for _, c := range slices.Backward(p.all) {
		switch {
		case slices.Contains(p.Keep, c):
		case !p.known(c.Timeline) || !p.known(c.StartTimeline) || p.behindKept(c):
			p.Keep = append(p.Keep, c)
		default:
			p.Drop = append(p.Drop, c)
		}
	}
	slices.SortFunc(p.Keep, NewerFirst)
	return nil
}

// spareBranches keeps a way into every branch of which the archive got something
// after the oldest kept backup was complete: it is in use, though that backup
// does not lead there. Without a way nothing of the branch is touched.
func (p *Prune) spareBranches(ctx context.Context) error {
	for _, tli := range slices.Backward(slices.Sorted(maps.Keys(p.histories))) {
		if slices.ContainsFunc(p.Keep, func(c *Commit) bool { return p.lies(tli, c) }) {
			continue
		}
		last, err := p.a.LastStored(ctx, tli)
		if err != nil {
			return err
		}
		if !last.After(p.stored[p.Oldest.ID]) {
			continue
		}
		before := len(p.Keep)
		if err := p.keepOn(ctx, tli, 1); err != nil {
			return err
		}
		text := "nothing of it is deleted"
		if len(p.Keep) > before {
			text = "backup " + p.Keep[before].ID + ", which leads there, is kept"
		} else {
			delete(p.histories, tli)
			p.spared = true
		}
		p.Notes = append(p.Notes, fmt.Sprintf("timeline %s got WAL after backup %s; %s", tli, p.Oldest.ID, text))
	}
	return nil
}

// keepOn keeps the newest n backups on the way to a timeline that can be restored.
func (p *Prune) keepOn(ctx context.Context, tli wal.Timeline, n int) error {
	for _, c := range p.all {
		if n == 0 || !p.lies(tli, c) {
			continue
		}
		if !slices.Contains(p.Keep, c) {
			err := Whole(ctx, p.a, c, p.histories[tli])
			if errors.As(err, new(*UnusableError)) {
				p.Notes = append(p.Notes, err.Error()+"; it does not count")
				continue
			}
			if err != nil {
				return err
			}
			p.Keep = append(p.Keep, c)
		}
		n--
	}
	return nil
}

func (p *Prune) known(tli wal.Timeline) bool { return p.histories[tli].Timeline != 0 }

// lies says whether a backup is on the way to a timeline.
func (p *Prune) lies(tli wal.Timeline, c *Commit) bool {
	h := p.histories[tli]
	return h.Contains(c.StartTimeline, c.StartLSN) && h.Contains(c.Timeline, c.StopLSN)
}

// behindKept says whether a backup comes after one that is kept. With a hole
// between the two it may lead to what that one does not.
func (p *Prune) behindKept(c *Commit) bool {
	for tli := range p.histories {
		if p.lies(tli, c) && slices.ContainsFunc(p.Keep, func(k *Commit) bool { return k.StopLSN <= c.StopLSN && p.lies(tli, k) }) {
			return true
		}
	}
	return false
}

// cut lets the WAL stay that a kept backup leads through, on whatever timeline.
func (p *Prune) cut() archive.Cut {
	cut := archive.Cut{}
	for tli, h := range p.histories {
		cut[tli] = archive.Nothing
		for _, c := range p.Keep {
			if h.Contains(c.StartTimeline, c.StartLSN) {
				cut[tli] = min(cut[tli], segment.At(tli, c.StartLSN, c.SegmentSize).No)
			}
		}
	}
	return cut
}

// pointsBefore is where the oldest WAL begins that stays: restore points, whose
// timelines their names do not tell, are of no use before it.
func (p *Prune) pointsBefore() wal.LSN {
	if p.spared {
		return 0
	}
	return slices.MinFunc(p.Keep, func(a, b *Commit) int { return cmp.Compare(a.StartLSN, b.StartLSN) }).StartLSN
}

// listUnfinished finds the data of backups without a commit object.
func (p *Prune) listUnfinished(ctx context.Context, now time.Time) error {
	last := map[string]time.Time{}
	for info, err := range p.a.Store().List(ctx, archive.BackupPrefix, "") {
		if err != nil {
			return err
		}
		id, _, _ := strings.Cut(strings.TrimPrefix(info.Name, archive.BackupPrefix), "/")
		if _, complete := p.stored[id]; !complete && !info.Modified.Before(last[id]) {
			last[id] = info.Modified
		}
	}
	for _, id := range slices.Sorted(maps.Keys(last)) {
		if now.Sub(last[id]) > unfinishedFor {
			p.Unfinished = append(p.Unfinished, id)
		}
	}
	return nil
}

// Run deletes what was found: of each backup first the commit object, so that it
// does not count any more. It can be repeated after an error: what is left of a
// backup then counts as never complete. progress is told the bytes of WAL that
// are deleted so far, from several goroutines.
func (p *Prune) Run(ctx context.Context, progress func(bytes int64)) error {
	store := p.a.Store()
	for _, c := range p.Drop {
		err := store.Delete(ctx, c.CommitName())
		if err == nil {
			err = deleteAll(ctx, store, DataPrefix(c.ID))
		}
		if err != nil {
			return fmt.Errorf("prune: delete backup %s: %w", c.ID, err)
		}
	}
	for _, id := range p.Unfinished {
		if err := deleteAll(ctx, store, DataPrefix(id)); err != nil {
			return fmt.Errorf("prune: delete what is left of backup %s: %w", id, err)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	var done atomic.Int64
	for _, info := range p.WAL {
		g.Go(func() error {
			if err := store.Delete(ctx, info.Name); err != nil {
				return fmt.Errorf("prune: %w", err)
			}
			progress(done.Add(info.Size))
			return nil
		})
	}
	return g.Wait()
}
