package recovery

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/internal/testkit/memstore"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// TestPruneAgainstPlanner prunes made-up clusters with several timelines, holes
// and backups. Behind the oldest backup that is kept on the way to a timeline
// every target that could be reached still can be, at the same end; a branch
// that is in use keeps its end; and nothing else is left than what that takes.
func TestPruneAgainstPlanner(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		inUse := rapid.Bool().Draw(t, "WAL came after the backups")
		a := w.store(t, inUse)
		keep := rapid.IntRange(1, 3).Draw(t, "keep")
		p, err := backup.PlanPrune(t.Context(), a, keep, time.Now())
		if err != nil {
			if strings.Contains(err.Error(), "nothing is deleted") {
				return
			}
			t.Fatal(err)
		}
		if err := p.Run(t.Context(), func(int64) {}); err != nil {
			t.Fatal(err)
		}
		after := w.left(t, a)
		w.checkKept(t, after, p, inUse)
		again, err := backup.PlanPrune(t.Context(), a, keep, time.Now())
		if err != nil || len(again.Drop)+len(again.Unfinished)+len(again.WAL) > 0 {
			t.Fatalf("a second prune deletes %d backups and %d objects: %v", len(again.Drop), len(again.WAL), err)
		}
		for range 5 {
			w.compare(t, after, p, drawTarget(t, w))
		}
		for tli := wal.Timeline(1); int(tli) <= len(w.facts.Histories)+1; tli++ {
			for _, r := range w.along(w.history(tli)) {
				if r.kind != 0 {
					w.compare(t, after, p, Target{Kind: KindLSN, LSN: r.start, Timeline: TargetTimeline{Number: tli}})
				}
			}
		}
	})
}

// compare plans a target before and after a prune.
func (w *world) compare(t *rapid.T, after *world, p *backup.Prune, target Target) {
	before, _, err := w.plan(t, target)
	if err != nil {
		return
	}
	oldest := oldestOn(w.history(before.Timeline), p.Keep)
	if oldest == nil || before.End < oldest.StopLSN || target.Kind == KindLSN && target.LSN < oldest.StopLSN {
		return
	}
	if target.Kind == KindTime && !target.Time.After(oldest.Started) {
		return // by the clock it lies before that backup, wherever such commits are in WAL
	}
	now, _, err := after.plan(t, target)
	if err != nil || now.End != before.End || now.Timeline != before.Timeline {
		t.Fatalf("%s: reached %s on timeline %s from backup %s before; now %+v, %v", target, before.End, before.Timeline, before.Backup.ID, now, err)
	}
}

func oldestOn(h segment.History, kept []*backup.Commit) (oldest *backup.Commit) {
	for _, c := range kept {
		if h.Contains(c.StartTimeline, c.StartLSN) && h.Contains(c.Timeline, c.StopLSN) && (oldest == nil || c.StopLSN < oldest.StopLSN) {
			oldest = c
		}
	}
	return oldest
}

// checkKept compares what is left with what has to be: no more backups than
// were asked for where branches are not in use, no WAL before the first that is
// needed, every branch in use, and all of what is needed.
func (w *world) checkKept(t *rapid.T, after *world, p *backup.Prune, inUse bool) {
	if len(after.facts.Backups) != len(p.Keep) || len(p.Keep)+len(p.Drop) != len(w.facts.Backups) || len(p.Keep) == 0 {
		t.Fatalf("%d of %d backups are left, %d were to be kept, %d dropped", len(after.facts.Backups), len(w.facts.Backups), len(p.Keep), len(p.Drop))
	}
	for id, s := range w.facts.Segments {
		if !s.Archived && s.Tail == 0 {
			continue // not in the archive
		}
		h := w.history(id.Timeline)
		needed := slices.ContainsFunc(p.Keep, func(c *backup.Commit) bool {
			return h.Contains(c.StartTimeline, c.StartLSN) && id.End(testSize) > c.StartLSN
		})
		have := after.facts.Segments[id]
		if stays := have.Archived || have.Tail > 0; needed && !stays || stays && !needed && !inUse {
			t.Fatalf("segment %s: needed %v, left %v", id.Name(testSize), needed, stays)
		}
	}
	for tli := wal.Timeline(1); inUse && int(tli) <= len(w.facts.Histories)+1; tli++ {
		target := Target{Kind: KindEnd, Timeline: TargetTimeline{Number: tli}}
		before, _, err := w.plan(t, target)
		if oldest := oldestOn(w.history(tli), p.Keep); err == nil && w.archived(tli) && (oldest == nil || before.End >= oldest.StopLSN) {
			if now, _, err := after.plan(t, target); err != nil || now.End != before.End {
				t.Fatalf("timeline %s is in use, but its end is lost: %v", tli, err)
			}
		}
	}
}

func (w *world) archived(tli wal.Timeline) bool {
	for id, s := range w.facts.Segments {
		if id.Timeline == tli && (s.Archived || s.Tail > 0) {
			return true
		}
	}
	return false
}

// store puts what the world's archive holds into one. Damage is what no listing
// tells: such segments are taken for missing.
func (w *world) store(t *rapid.T, walLast bool) *archive.Archive {
	store := memstore.New()
	a, err := archive.Pin(t.Context(), store, w.facts.Identity)
	put := func(name string, body []byte) {
		err = errors.Join(err, store.Put(t.Context(), name, bytes.NewReader(body)))
	}
	for tli, h := range w.facts.Histories {
		put(archive.HistoryName(tli), h.Format())
	}
	commits := func() {
		for i := range w.facts.Backups {
			b := &w.facts.Backups[i]
			b.ID, b.FormatVersion = fmt.Sprintf("20261122T1000%02dZ", i), 1
			b.Parts = []backup.Part{{Name: backup.PartName(b.ID, 1), StoredSize: 4, Control: true}}
			body, jerr := json.Marshal(b)
			err = errors.Join(err, jerr)
			put(b.CommitName(), body)
			put(b.Parts[0].Name, []byte("part"))
			put(backup.ManifestName(b.ID), []byte("{}"))
		}
	}
	if walLast {
		commits()
		time.Sleep(time.Microsecond)
	}
	for id, s := range w.facts.Segments {
		switch {
		case s.Damaged != "":
			delete(w.facts.Segments, id)
			continue
		case s.Archived:
			put(archive.SegmentName(id, testSize), nil)
		}
		if start := id.Start(testSize); s.Tail > start {
			put(archive.TailName(id, testSize, 0, int64(s.Tail-start)), nil)
		}
	}
	if !walLast {
		time.Sleep(time.Microsecond)
		commits()
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// left is the world with what the archive still holds of it.
func (w *world) left(t *rapid.T, a *archive.Archive) *world {
	after := *w
	after.facts.Segments, after.facts.Backups = map[segment.ID]Segment{}, nil
	for c, err := range backup.List(t.Context(), a) {
		if err != nil {
			t.Fatal(err)
		}
		after.facts.Backups = append(after.facts.Backups, *c)
	}
	for id, s := range w.facts.Segments {
		s.Archived, s.Tail = false, 0
		after.facts.Segments[id] = s
	}
	for tli := wal.Timeline(1); int(tli) <= len(w.facts.Histories)+1; tli++ {
		for p, err := range a.Pieces(t.Context(), tli, 0) {
			if err != nil {
				t.Fatal(err)
			}
			s := after.facts.Segments[p.ID]
			if p.Tail {
				s.Tail = p.ID.Start(testSize) + wal.LSN(p.To)
			} else {
				s.Archived = true
			}
			after.facts.Segments[p.ID] = s
		}
	}
	for id, s := range after.facts.Segments {
		if s == (Segment{Stored: s.Stored}) {
			delete(after.facts.Segments, id)
		}
	}
	return &after
}
