package archive_test

import (
	"context"
	"errors"
	"io"
	"iter"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/testkit/memstore"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

func TestPin(t *testing.T) {
	ctx, store := t.Context(), memstore.New()
	if _, err := archive.Open(ctx, store); !errors.Is(err, archive.ErrNotPinned) || errors.Is(err, archive.ErrNotExist) || len(hint.Of(err)) == 0 {
		t.Fatalf("Open of an empty store: %v, want ErrNotPinned with a hint", err)
	}
	for range 2 {
		a, err := archive.Pin(ctx, store, testCluster)
		if err != nil {
			t.Fatal(err)
		}
		want := archive.Identity{FormatVersion: 1, Identity: testCluster}
		if a.Identity() != want {
			t.Errorf("identity %+v, want %+v", a.Identity(), want)
		}
	}
	for _, change := range []func(*segment.Identity){
		func(id *segment.Identity) { id.SystemIdentifier++ },
		func(id *segment.Identity) { id.MajorVersion = 16 },
		func(id *segment.Identity) { id.SegmentSize *= 2 },
	} {
		other := testCluster
		change(&other)
		var foreign *segment.ForeignError
		if _, err := archive.Pin(ctx, store, other); !errors.As(err, &foreign) || len(hint.Of(err)) == 0 {
			t.Errorf("Pin for %+v: %v, want a *ForeignError with a hint", other, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, body := range map[string]string{
		"a newer version":    `{"format_version":2,"system_identifier":"7","major_version":15,"segment_size":16777216}`,
		"no segment size":    `{"format_version":1,"system_identifier":"7","major_version":15}`,
		"no version":         `{"system_identifier":"7","major_version":15,"segment_size":16777216}`,
		"no JSON":            `half a fi`,
		"nothing":            ``,
		"a very long object": strings.Repeat(" ", 2<<20) + "{}",
	} {
		store := memstore.New()
		if err := store.Put(t.Context(), "walstream.json", strings.NewReader(body)); err != nil {
			t.Fatal(err)
		}
		for _, open := range []func() (*archive.Archive, error){
			func() (*archive.Archive, error) { return archive.Open(t.Context(), store) },
			func() (*archive.Archive, error) { return archive.Pin(t.Context(), store, testCluster) },
		} {
			if _, err := open(); err == nil || errors.Is(err, archive.ErrNotPinned) || errors.Is(err, archive.ErrNotExist) {
				t.Errorf("%s: %v, want a refusal", name, err)
			}
		}
	}
}

func TestHistories(t *testing.T) {
	ctx, a := t.Context(), newArchive(t)
	body := []byte("1\t0/3000000\tno recovery target specified\n\n2\t0/5000000\tbefore 2026-11-22\n")
	for range 2 {
		if err := a.PutHistory(ctx, 3, body); err != nil {
			t.Fatal(err)
		}
	}
	h, got, err := a.History(ctx, 3)
	if err != nil || string(got) != string(body) || len(h.Ancestors) != 2 || h.Ancestors[1].End != 0x5000000 {
		t.Errorf("History: %+v, %q, %v", h, got, err)
	}
	var conflict *archive.ConflictError
	if err := a.PutHistory(ctx, 3, []byte("1\t0/3000000\tother\n")); !errors.As(err, &conflict) {
		t.Errorf("another history: %v, want a *ConflictError", err)
	}
	if err := a.PutHistory(ctx, 2, []byte("5\t0/3000000\tnonsense\n")); err == nil {
		t.Error("a history that is none is stored")
	}
	if h, body, err := a.History(ctx, 1); err != nil || body != nil || h.Timeline != 1 {
		t.Errorf("History(1): %+v, %q, %v", h, body, err)
	}
	if _, _, err := a.History(ctx, 2); !errors.Is(err, archive.ErrNotExist) {
		t.Errorf("History(2): %v, want ErrNotExist", err)
	}
	if err := a.Store().Put(ctx, "wal/00000004.history", strings.NewReader("")); err != nil {
		t.Fatal(err)
	}
	var corrupt *archive.CorruptError
	if _, _, err := a.History(ctx, 4); !errors.As(err, &corrupt) {
		t.Errorf("an empty history: %v, want a *CorruptError", err)
	}
}

// Histories have no checksum: one is damaged that says that a timeline began
// behind its WAL, or other than one of its ancestors does.
func TestContradictingHistories(t *testing.T) {
	for name, tc := range map[string]struct {
		second, third string
		unknown       []wal.Timeline
	}{
		"fine":                   {"1\t0/3000148\tx\n", "1\t0/3000148\tx\n2\t0/5000000\tx\n", nil},
		"not all known":          {"1\t0/3000148\tx\n", "2\t0/5000000\tx\n", nil},
		"later in the segment":   {"1\t0/30FFFF8\tx\n", "1\t0/30FFFF8\tx\n", nil},
		"behind the first":       {"1\t0/3100000\tx\n", "1\t0/3100000\tx\n", []wal.Timeline{2}},
		"far behind":             {"1\t0/3000148\tx\n", "1\t0/3000148\tx\n2\t8/5000000\tx\n", []wal.Timeline{3}},
		"unlike the ancestor":    {"1\t0/3000148\tx\n", "1\t0/3000140\tx\n2\t0/5000000\tx\n", []wal.Timeline{3}},
		"of another of its name": {"1\t0/2000148\tx\n", "1\t0/3000148\tx\n2\t0/5000000\tx\n", []wal.Timeline{3}},
	} {
		ctx, a := t.Context(), newArchive(t)
		for object, body := range map[string]string{
			archive.HistoryName(2): tc.second, archive.HistoryName(3): tc.third,
			archive.SegmentName(segment.ID{Timeline: 2, No: 0x30}, testSize):       "x",
			archive.TailName(segment.ID{Timeline: 3, No: 0x50}, testSize, 0, 8192): "x",
		} {
			if err := a.Store().Put(ctx, object, strings.NewReader(body)); err != nil {
				t.Fatal(err)
			}
		}
		known, unknown, err := a.Histories(ctx, 1, 2, 3)
		if err != nil || len(known)+len(unknown) != 3 {
			t.Errorf("%s: %v, %v, %v", name, known, unknown, err)
		}
		for _, tli := range tc.unknown {
			var damage *archive.CorruptError
			if !errors.As(unknown[tli], &damage) {
				t.Errorf("%s: of timeline %s it is said: %v", name, tli, unknown[tli])
			}
		}
		if len(unknown) != len(tc.unknown) {
			t.Errorf("%s: unknown %v", name, unknown)
		}
	}
}

func TestCatalog(t *testing.T) {
	ctx, a := t.Context(), newArchive(t)
	seg := func(tli wal.Timeline, no uint64) string {
		return archive.SegmentName(segment.ID{Timeline: tli, No: no}, testSize)
	}
	for _, name := range []string{
		seg(1, 5), seg(1, 6), seg(1, 9), seg(1, 4096), seg(10, 4096), "wal/00000003.history",
		archive.TailName(segment.ID{Timeline: 1, No: 9}, testSize, 0, 8192), archive.TailName(segment.ID{Timeline: 1, No: 10}, testSize, 0, 100),
		"wal/00000001/readme.txt", "wal/0000000A.history", "wal/notes", "backup/x/1",
	} {
		if err := a.Store().Put(ctx, name, strings.NewReader("x")); err != nil {
			t.Fatal(err)
		}
	}
	timelines, err := a.Timelines(ctx)
	if diff := cmp.Diff([]wal.Timeline{1, 3, 10}, timelines); diff != "" || err != nil {
		t.Errorf("Timelines: %v (-want +got):\n%s", err, diff)
	}
	pieces := func(tli wal.Timeline, from uint64) []string {
		var names []string
		for p, err := range a.Pieces(ctx, tli, from) {
			if err != nil || p.StoredSize != 1 {
				t.Errorf("piece %+v, %v", p, err)
			}
			names = append(names, p.Name(testSize))
		}
		return names
	}
	all := []string{
		seg(1, 5), seg(1, 6), archive.TailName(segment.ID{Timeline: 1, No: 9}, testSize, 0, 8192), seg(1, 9),
		archive.TailName(segment.ID{Timeline: 1, No: 10}, testSize, 0, 100), seg(1, 4096),
	}
	for from, want := range map[uint64][]string{0: all, 5: all, 6: all[1:], 7: all[2:], 9: all[2:], 10: all[4:], 4096: all[5:], 4097: nil} {
		if diff := cmp.Diff(want, pieces(1, from)); diff != "" {
			t.Errorf("Pieces from %d (-want +got):\n%s", from, diff)
		}
	}
	for _, test := range []struct {
		first, last uint64
		want        []archive.Range
	}{
		{5, 6, nil}, {5, 5, nil}, {9, 9, nil}, {4096, 4096, nil},
		{4, 6, []archive.Range{{Timeline: 1, First: 4, Last: 4}}},
		{5, 10, []archive.Range{{Timeline: 1, First: 7, Last: 8}, {Timeline: 1, First: 10, Last: 10}}},
		{7, 8, []archive.Range{{Timeline: 1, First: 7, Last: 8}}},
		{4096, 4100, []archive.Range{{Timeline: 1, First: 4097, Last: 4100}}},
	} {
		got, err := a.Missing(ctx, 1, test.first, test.last)
		if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
			t.Errorf("Missing(%d, %d): %v (-want +got):\n%s", test.first, test.last, err, diff)
		}
	}
}

// A listing that breaks off must not look like one that is short.
func TestCatalogListFails(t *testing.T) {
	a := newArchive(t)
	broken, err := archive.Open(t.Context(), noList{Store: a.Store()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := broken.Timelines(t.Context()); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Timelines: %v", err)
	}
	if _, err := broken.Missing(t.Context(), 1, 1, 2); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Missing: %v", err)
	}
	if _, err := broken.FetchTail(t.Context(), segment.ID{Timeline: 1, No: 1}, new(writerAt)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("FetchTail: %v", err)
	}
}

func FuzzParseSegmentName(f *testing.F) {
	id := segment.ID{Timeline: 1, No: 5}
	f.Add(archive.SegmentName(id, testSize))
	f.Add(archive.TailName(id, testSize, 0, 100))
	f.Add("wal/00000001/000000010000000000000005.tail/0-64.zst")
	f.Fuzz(func(t *testing.T, name string) {
		p, err := archive.ParseSegmentName(name, testSize)
		if err != nil {
			return
		}
		if p.Name(testSize) != name {
			t.Errorf("%q is read as %+v, which is %q", name, p, p.Name(testSize))
		}
		if err := archive.CheckName(name); err != nil {
			t.Error(err)
		}
	})
}

// noList is a store whose listings break off.
type noList struct{ archive.Store }

func (noList) List(context.Context, string, string) iter.Seq2[archive.Info, error] {
	return func(yield func(archive.Info, error) bool) { yield(archive.Info{}, io.ErrUnexpectedEOF) }
}
