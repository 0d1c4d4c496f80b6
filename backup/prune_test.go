package backup

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/testkit/memstore"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// agedStore is a store that fails on demand, and whose objects are as old as
// their age says.
type agedStore struct {
	archive.Store
	mu       sync.Mutex
	age      map[string]time.Duration // by the beginning of names
	deletes  int                      // that still succeed, when it is not negative
	listFail string                   // beginning of a prefix
}

func (s *agedStore) List(ctx context.Context, prefix, after string) iter.Seq2[archive.Info, error] {
	return func(yield func(archive.Info, error) bool) {
		if s.listFail != "" && strings.HasPrefix(prefix, s.listFail) {
			yield(archive.Info{}, errors.New("no answer"))
			return
		}
		for info, err := range s.Store.List(ctx, prefix, after) {
			for start, age := range s.age {
				if strings.HasPrefix(info.Name, start) {
					info.Modified = time.Now().Add(-age)
				}
			}
			if !yield(info, err) {
				return
			}
		}
	}
}

func (s *agedStore) Delete(ctx context.Context, name string) error {
	s.mu.Lock()
	left := s.deletes
	s.deletes = max(left-1, min(left, 0)) // negative is for ever
	s.mu.Unlock()
	if left == 0 {
		return errors.New("no answer")
	}
	return s.Store.Delete(ctx, name)
}

// pruneArchive holds backups A, B and C at segments 2, 4 and 6 of timeline 1 and
// what belongs to them: WAL to segment 7, a gap in 3, an index, restore points.
func pruneArchive(t *testing.T) (*agedStore, *archive.Archive) {
	t.Helper()
	store := &agedStore{Store: memstore.New(), deletes: -1}
	a, err := archive.Pin(t.Context(), store, testIdentity)
	if err != nil {
		t.Fatal(err)
	}
	addWAL(t, a, 1, 1, 7)
	addBackup(t, a, "20261122T010000Z", 1, 2)
	addBackup(t, a, "20261122T020000Z", 1, 4)
	addBackup(t, a, "20261122T030000Z", 1, 6)
	err = errors.Join(
		store.Put(t.Context(), archive.TailName(segment.ID{Timeline: 1, No: 1}, 1<<20, 0, 512), strings.NewReader("tail")),
		a.PutGap(t.Context(), archive.Gap{Timeline: 1, From: 0x200100, To: 0x300000}),
		a.PutGap(t.Context(), archive.Gap{Timeline: 1, From: 0x700100, To: 0x800000}),
		a.PutRestorePoint(t.Context(), archive.RestorePoint{Name: "old", LSN: 0x250000, Timeline: 1}),
		a.PutRestorePoint(t.Context(), archive.RestorePoint{Name: "new", LSN: 0x650000, Timeline: 1}),
		store.Put(t.Context(), "index/00000001/000000010000000000000000-0000000100000000000003E7.zst", strings.NewReader("index")),
	)
	if err != nil {
		t.Fatal(err)
	}
	return store, a
}

func addWAL(t *testing.T, a *archive.Archive, tli wal.Timeline, first, last uint64) {
	t.Helper()
	for no := first; no <= last; no++ {
		if err := a.Store().Put(t.Context(), archive.SegmentName(segment.ID{Timeline: tli, No: no}, 1<<20), strings.NewReader("WAL")); err != nil {
			t.Fatal(err)
		}
	}
}

// addBackup adds one that lies within segment no.
func addBackup(t *testing.T, a *archive.Archive, id string, tli wal.Timeline, no uint64) *Commit {
	t.Helper()
	c := testCommit(id, tli, wal.LSN(no<<20+0x200))
	put(t, a, c)
	for _, name := range []string{startedName(id), ManifestName(id), c.Parts[0].Name, c.Parts[1].Name} {
		body := ""
		if name == ManifestName(id) {
			body = "{}"
		}
		if err := a.Store().Put(t.Context(), name, strings.NewReader(body)); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func planned(t *testing.T, a *archive.Archive, keep int) *Prune {
	t.Helper()
	p, err := PlanPrune(t.Context(), a, keep, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *Prune) ids() (kept, dropped string) {
	for _, c := range p.Keep {
		kept += c.ID[9:11] + " "
	}
	for _, c := range p.Drop {
		dropped += c.ID[9:11] + " "
	}
	return kept, dropped
}

// What no kept backup needs goes, and nothing else.
func TestPrune(t *testing.T) {
	store, a := pruneArchive(t)
	if kept, dropped := planned(t, a, 3).ids(); kept != "03 02 01 " || dropped != "" {
		t.Errorf("of three, three: kept %s, dropped %s", kept, dropped)
	}
	p := planned(t, a, 2)
	if kept, dropped := p.ids(); kept != "03 02 " || dropped != "01 " {
		t.Errorf("kept %s, dropped %s", kept, dropped)
	}
	before := objects(t, store, "")
	if err := p.Run(t.Context(), func(int64) {}); err != nil {
		t.Fatal(err)
	}
	gone := map[string]bool{}
	for _, name := range before {
		gone[name] = true
	}
	for _, name := range objects(t, store, "") {
		delete(gone, name)
	}
	want := map[string]bool{}
	for _, name := range []string{
		"backups/00000001-0000000000200200-20261122T010000Z.json",
		"backup/20261122T010000Z/started.json", "backup/20261122T010000Z/backup_manifest",
		"backup/20261122T010000Z/data/000001.tar.zst", "backup/20261122T010000Z/data/000002.tar.zst",
		"wal/00000001/000000010000000000000001.tail/00000000-00000200.zst",
		"wal/00000001/000000010000000000000001.zst", "wal/00000001/000000010000000000000002.zst", "wal/00000001/000000010000000000000003.zst",
		"gaps/00000001-0000000000200100-0000000000300000.json", "points/0000000000250000-old.json",
	} {
		want[name] = true
	}
	if diff := cmp.Diff(want, gone); diff != "" {
		t.Errorf("deleted (-want +got):\n%s", diff)
	}
}

// A backup that cannot be restored does not count; one that cannot be judged is
// left alone; without a good one nothing is deleted.
func TestPruneCountsWhatCanBeRestored(t *testing.T) {
	store, a := pruneArchive(t)
	addBackup(t, a, "20261122T040000Z", 1, 20) // without its WAL
	if err := store.Put(t.Context(), "backups/00000001-0000000000100000-20261121T010000Z.json", strings.NewReader("damaged")); err != nil {
		t.Fatal(err)
	}
	if err := store.Put(t.Context(), "backup/20261121T010000Z/data/000001.tar.zst", strings.NewReader("part")); err != nil {
		t.Fatal(err)
	}
	store.age = map[string]time.Duration{"backup/20261121": 48 * time.Hour}
	if err := store.Delete(t.Context(), PartName("20261122T030000Z", 2)); err != nil {
		t.Fatal(err)
	}
	p := planned(t, a, 1)
	if kept, dropped := p.ids(); kept != "04 03 02 " || dropped != "01 " || p.Oldest.ID != "20261122T020000Z" || len(p.Unfinished) > 0 || len(p.Notes) != 3 {
		t.Errorf("kept %s, dropped %s, oldest %s, unfinished %s, notes %q", kept, dropped, p.Oldest.ID, p.Unfinished, p.Notes)
	}
	for _, id := range []string{"20261122T010000Z", "20261122T020000Z"} {
		if err := store.Delete(t.Context(), ManifestName(id)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := PlanPrune(t.Context(), a, 1, time.Now()); err == nil || !strings.Contains(err.Error(), "nothing is deleted") {
		t.Error(err)
	}
}

// What was begun and never complete goes once nothing was stored for a day.
func TestPruneUnfinished(t *testing.T) {
	store, a := pruneArchive(t)
	for _, name := range []string{"backup/20261101T000000Z/started.json", "backup/20261102T000000Z/started.json", "backup/20261102T000000Z/data/000001.tar.zst"} {
		if err := store.Put(t.Context(), name, strings.NewReader("{}")); err != nil {
			t.Fatal(err)
		}
	}
	store.age = map[string]time.Duration{"backup/20261101": 25 * time.Hour, "backup/20261102T000000Z/started": 25 * time.Hour}
	p := planned(t, a, 3)
	if diff := cmp.Diff([]string{"20261101T000000Z"}, p.Unfinished); diff != "" {
		t.Error(diff)
	}
	if err := p.Run(t.Context(), func(int64) {}); err != nil {
		t.Fatal(err)
	}
	if names := objects(t, store, "backup/202611"); len(names) != 14 { // of three backups, and what may be under way
		t.Errorf("left: %s", names)
	}
}

// A prune that is interrupted anywhere can be repeated, and at no moment a
// backup counts of which something is missing.
func TestPruneInterrupted(t *testing.T) {
	for n := range 20 {
		store, a := pruneArchive(t)
		store.deletes = n
		p := planned(t, a, 1)
		if err := p.Run(t.Context(), func(int64) {}); (err == nil) != (n >= 18) {
			t.Fatalf("after %d deletions: %v", n, err)
		}
		for c, err := range List(t.Context(), a) {
			if err == nil {
				err = Whole(t.Context(), a, c, segment.History{Timeline: 1})
			}
			if err != nil {
				t.Fatalf("after %d deletions: %v", n, err)
			}
		}
		store.deletes = -1
		store.age = map[string]time.Duration{"backup/": 25 * time.Hour}
		if err := planned(t, a, 1).Run(t.Context(), func(int64) {}); err != nil {
			t.Fatal(err)
		}
		if left := len(objects(t, store, "backup")) + len(objects(t, store, "wal/")); left != 5+2 {
			t.Fatalf("after %d deletions: %d objects are left", n, left)
		}
	}
}

// What is not known is not deleted.
func TestPruneUnknown(t *testing.T) {
	for _, prefix := range []string{"backups/", "backup/", "wal/", "index/", "gaps/", "points/"} {
		store, a := pruneArchive(t)
		store.listFail = prefix
		if _, err := PlanPrune(t.Context(), a, 1, time.Now()); err == nil || !strings.Contains(err.Error(), "no answer") {
			t.Errorf("listing %s fails: %v", prefix, err)
		}
	}

	_, a := pruneArchive(t)
	addWAL(t, a, 2, 1, 3)
	addBackup(t, a, "20261122T000000Z", 2, 2)
	if _, err := PlanPrune(t.Context(), a, 1, time.Now()); err == nil || !strings.Contains(err.Error(), "00000002.history is missing") {
		t.Error(err)
	}
	h := segment.History{Timeline: 3, Ancestors: []segment.Switch{{Timeline: 1, End: 0x750000}}}
	if err := a.Store().Put(t.Context(), archive.HistoryName(3), bytes.NewReader(h.Format())); err != nil {
		t.Fatal(err)
	}
	p := planned(t, a, 1)
	if kept, dropped := p.ids(); kept != "00 03 " || dropped != "01 02 " || len(p.Notes) != 1 {
		t.Errorf("kept %s, dropped %s, notes %q", kept, dropped, p.Notes)
	}
	for _, info := range p.WAL {
		if strings.Contains(info.Name, "/00000002") || strings.HasPrefix(info.Name, "points/") {
			t.Errorf("%s would be deleted", info.Name)
		}
	}
}

// A branch that is in use keeps the backup that leads there, and without one all
// of its WAL.
func TestPruneSparesBranchInUse(t *testing.T) {
	store, a := pruneArchive(t)
	for tli, fork := range map[wal.Timeline]wal.LSN{2: 0x380000, 3: 0x180000, 4: 0x780000} {
		h := segment.History{Timeline: tli, Ancestors: []segment.Switch{{Timeline: 1, End: fork}}}
		if err := store.Put(t.Context(), archive.HistoryName(tli), bytes.NewReader(h.Format())); err != nil {
			t.Fatal(err)
		}
	}
	addWAL(t, a, 2, 3, 5)
	addWAL(t, a, 3, 1, 2)
	for _, tc := range []struct {
		age           map[string]time.Duration
		kept, dropped string
		objects       int // of WAL: segments of timelines 1, 2 and 3, a tail, a gap, a point
	}{
		{map[string]time.Duration{"wal/": time.Hour}, "03 ", "01 02 ", 5 + 1 + 3 + 2 + 2},
		{map[string]time.Duration{"wal/00000001/": time.Hour, "wal/00000003/": time.Hour}, "03 02 01 ", "", 1 + 1 + 2},
		{map[string]time.Duration{"wal/00000001/": time.Hour, "wal/00000002/": time.Hour}, "03 ", "01 02 ", 5 + 1 + 3 + 1},
	} {
		store.age = tc.age
		p := planned(t, a, 1)
		if kept, dropped := p.ids(); kept != tc.kept || dropped != tc.dropped || len(p.WAL) != tc.objects {
			t.Errorf("%v: kept %s, dropped %s, %d objects, notes %q: %v", tc.age, kept, dropped, len(p.WAL), p.Notes, p.WAL)
		}
	}
}
