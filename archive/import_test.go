package archive_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/testkit/memstore"
	"github.com/walstream/walstream/internal/testkit/walgen"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// leaveDir is a directory as pg_receivewal leaves it.
type leaveDir struct {
	t   *testing.T
	dir string
}

func newLeaveDir(t *testing.T) leaveDir { return leaveDir{t, t.TempDir()} }

func (d leaveDir) file(name string, data []byte) string {
	d.t.Helper()
	path := filepath.Join(d.dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		d.t.Fatal(err)
	}
	return path
}

// segments writes the complete segments of g, numbered from to to.
func (d leaveDir) segments(g *walgen.WAL, from, to int) {
	for i := from; i <= to; i++ {
		p, data := segmentOf(g, i)
		d.file(p.ID.Name(testSize), data)
	}
}

func (d leaveDir) files() []archive.ImportFile {
	d.t.Helper()
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	var files []archive.ImportFile
	for _, e := range entries {
		f, ok, err := archive.ParseImportFile(filepath.Join(d.dir, e.Name()))
		if err != nil {
			d.t.Fatal(err)
		}
		if ok {
			files = append(files, f)
		}
	}
	return files
}

func (d leaveDir) imports(a *archive.Archive) *archive.Imported {
	d.t.Helper()
	got, err := archive.Import(d.t.Context(), archive.ImportConfig{Archive: a}, d.files())
	if err != nil {
		d.t.Fatal(err)
	}
	return got
}

func packed(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// failures is the base names of what was not imported, with the reason.
func failures(got *archive.Imported) map[string]string {
	all := map[string]string{}
	for _, f := range got.Failed {
		all[filepath.Base(f.Path)] = strings.TrimPrefix(f.Error(), f.Path+": ")
	}
	return all
}

// expect compares failures with parts of their messages.
func expect(t *testing.T, got *archive.Imported, want map[string]string) {
	t.Helper()
	have := failures(got)
	for name, text := range want {
		if have[name] == "" || !strings.Contains(have[name], text) {
			t.Errorf("%s: %q, want %q", name, have[name], text)
		}
		delete(have, name)
	}
	if len(have) > 0 {
		t.Errorf("also not imported: %v", have)
	}
}

func sixSegments() *walgen.WAL {
	g := newWAL(1, 3, 1)
	grow(g, 6*int(testSize)+300_000)
	return g
}

// What is imported reads back byte for byte, plain or compressed; a second
// import stores nothing.
func TestImportStoresEverySegment(t *testing.T) {
	g, d, a := sixSegments(), newLeaveDir(t), newArchive(t)
	d.segments(g, 0, 3)
	p, data := segmentOf(g, 4)
	d.file(p.ID.Name(testSize)+".gz", packed(t, data))
	p, data = segmentOf(g, 5)
	d.file(p.ID.Name(testSize), packed(t, data)) // no suffix tells
	open := g.At(g.Config.Start+6*wal.LSN(testSize), g.End())
	partial := append(bytes.Clone(open), make([]byte, int(testSize)-len(open))...)
	p.ID.No++
	d.file(p.ID.Name(testSize)+".partial", partial)
	d.file("000000010000000000000003.00000028.backup", []byte("START WAL LOCATION: 0/300028"))
	d.file("README", []byte("x"))

	got := d.imports(a)
	want := &archive.Imported{Segments: archive.Tally{Stored: 6}, Tails: archive.Tally{Stored: 1}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	for i := range 6 {
		p, data := segmentOf(g, i)
		var b bytes.Buffer
		h, err := a.Fetch(t.Context(), p.ID, &b)
		if err != nil || !bytes.Equal(b.Bytes(), data) || i > 0 && h.UnknownCarry || h.RunningMaxSince != g.Config.Start {
			t.Errorf("segment %d: %v, header %+v", i, err, h)
		}
	}
	tails, err := a.Tails(t.Context(), p.ID)
	if err != nil || len(tails) != 1 || tails[0].To != int64(len(open)) {
		t.Errorf("tails %+v, %v: want one of %d bytes", tails, err, len(open))
	}
	again := d.imports(a)
	want = &archive.Imported{Segments: archive.Tally{Had: 6}, Tails: archive.Tally{Had: 1}}
	if diff := cmp.Diff(want, again); diff != "" {
		t.Errorf("the second time: %s", diff)
	}

	// The complete segment comes, and the tail goes.
	d.file(p.ID.Name(testSize), data)
	grow(g, 2*int(testSize))
	p, data = segmentOf(g, 6)
	d.file(p.ID.Name(testSize), data)
	if got := d.imports(a); got.Segments.Stored != 1 || got.Needless != 1 || len(got.Failed) > 0 {
		t.Errorf("with the complete segment: %+v", got)
	}
	if tails, err := a.Tails(t.Context(), p.ID); err != nil || len(tails) > 0 {
		t.Errorf("tails left: %v, %v", tails, err)
	}
}

// Damage of every kind is named, and costs only the file.
func TestImportListsWhatIsNotGood(t *testing.T) {
	g, d, a := sixSegments(), newLeaveDir(t), newArchive(t)
	d.segments(g, 0, 5)
	name := func(i int) string { p, _ := segmentOf(g, i); return p.ID.Name(testSize) }
	_, good := segmentOf(g, 1)
	flipped := bytes.Clone(good)
	flipped[500_000] ^= 1
	d.file(name(1), flipped)
	_, good = segmentOf(g, 2)
	d.file(name(2)+".gz", packed(t, good)[:5000]) // beside the good one
	_, good = segmentOf(g, 3)
	d.file(name(3), good[:1000])
	d.file(name(4), append(bytes.Clone(good), 0)) // too long, and of another place

	other := newWAL(1, 20, 9)
	other.Config.SystemIdentifier++
	grow(other, int(testSize))
	p, data := segmentOf(other, 0)
	d.file(p.ID.Name(testSize), data)
	d.file("00000003.history", []byte("1\t0/600000\tno"))
	d.file("00000004.history", []byte("nonsense"))
	third := newWAL(5, 30, 1)
	grow(third, int(testSize))
	p, data = segmentOf(third, 0)
	d.file(p.ID.Name(testSize), data)

	got := d.imports(a)
	expect(t, got, map[string]string{
		name(1): "no valid WAL at", name(2) + ".gz": "unexpected EOF", name(3): "it has 1000 bytes, a segment has 1048576",
		name(4): "it has more than 1048576 bytes, a segment has 1048576", "000000010000000000000014": "another cluster", "00000004.history": "nonsense",
		p.ID.Name(testSize): "the history of timeline 5 is missing",
	})
	if want := (archive.Tally{Stored: 3}); got.Segments != want || got.Histories.Stored != 1 {
		t.Errorf("segments %+v, want %+v; histories %+v", got.Segments, want, got.Histories)
	}
	if diff := cmp.Diff([]archive.Range{{Timeline: 1, First: 4, Last: 4}, {Timeline: 1, First: 6, Last: 7}}, got.Holes); diff != "" {
		t.Errorf("holes: %s", diff)
	}
	for _, f := range got.Failed {
		if strings.Contains(f.Error(), "history of timeline") && len(hint.Of(f)) == 0 {
			t.Error("no hint where to get the history")
		}
	}
}

// WAL that contradicts the archive, or another file, is not imported.
func TestImportReplacesNothing(t *testing.T) {
	g, d, a := sixSegments(), newLeaveDir(t), newArchive(t)
	d.segments(g, 0, 1)
	d.imports(a)
	p, _ := segmentOf(g, 1)
	before := fetched(t, a, p.ID)

	branch := newWAL(1, 3, 2)
	grow(branch, 3*int(testSize))
	b := newLeaveDir(t)
	b.segments(branch, 1, 1)
	_, data := segmentOf(branch, 0)
	b.file("000000010000000000000003.partial", data)
	got := b.imports(a)
	expect(t, got, map[string]string{"000000010000000000000004": "not by the", "000000010000000000000003.partial": "two servers"})
	if !bytes.Equal(before, fetched(t, a, p.ID)) {
		t.Error("the archive was changed")
	}
	// Where nothing links the two, only the bytes tell.
	b = newLeaveDir(t)
	b.segments(branch, 0, 0)
	expect(t, b.imports(a), map[string]string{"000000010000000000000003": "two servers"})
}

func fetched(t *testing.T, a *archive.Archive, id segment.ID) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := a.Fetch(t.Context(), id, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Of an unfinished segment the valid records are taken, whatever follows them;
// if WAL follows behind damage, that is said.
func TestImportPartial(t *testing.T) {
	g := newWAL(1, 3, 1)
	grow(g, 400_000)
	valid := len(g.Bytes)
	old := newWAL(1, 1, 7)
	grow(old, int(testSize))
	recycled := append(bytes.Clone(g.Bytes), old.Bytes[valid:testSize]...)
	flipped := append(bytes.Clone(g.Bytes), make([]byte, int(testSize)-valid)...)
	flipped[200_000] ^= 1
	for what, c := range map[string]struct {
		data []byte
		to   int64  // of the tail
		fail string // or why not
	}{
		"zeros follow":      {append(bytes.Clone(g.Bytes), make([]byte, int(testSize)-valid)...), int64(valid), ""},
		"cut off":           {g.Bytes, int64(valid), ""},
		"recycled":          {recycled, int64(valid), ""},
		"compressed, torn":  {packed(t, append(bytes.Clone(g.Bytes), make([]byte, int(testSize)-valid)...))[:150_000], -1, ""},
		"nothing but zeros": {make([]byte, testSize), 0, ""},
		"empty":             {nil, 0, ""},
		"damaged":           {flipped, 0, "but there is more at 0/3"},
		"of another place":  {old.Bytes[:testSize], 0, "page says that it belongs at"},
	} {
		t.Run(what, func(t *testing.T) {
			d, a := newLeaveDir(t), newArchive(t)
			d.file("000000010000000000000003.partial", c.data)
			got := d.imports(a)
			if c.fail != "" {
				expect(t, got, map[string]string{"000000010000000000000003.partial": c.fail})
				return
			}
			tails, err := a.Tails(t.Context(), segment.ID{Timeline: 1, No: 3})
			if err != nil || len(got.Failed) > 0 || (c.to == 0) != (len(tails) == 0) || got.Needless != 1-len(tails) {
				t.Fatalf("%+v, tails %v, %v", got, tails, err)
			}
			if c.to > 0 && tails[0].To != c.to || c.to < 0 && (tails[0].To < 100_000 || tails[0].To > int64(valid)) {
				t.Errorf("tail up to %d, want %d", tails[0].To, c.to)
			}
		})
	}
}

// Two timelines: the end of the old one is unfinished, and what is missing
// around the fork is noticed.
func TestImportFork(t *testing.T) {
	g := sixSegments()
	f := g.Fork(2)
	grow(f, 2*int(testSize))
	history := []byte(fmt.Sprintf("1\t%s\tno recovery target specified\n", g.End()))
	fill := func(d leaveDir) {
		d.segments(g, 0, 5)
		p, data := segmentOf(f, 0)
		d.file(p.ID.Name(testSize), data)
		p.ID.Timeline = 1
		d.file(p.ID.Name(testSize)+".partial", append(bytes.Clone(g.At(f.Config.Start, g.End())), make([]byte, 9000)...))
		d.file("00000002.history", history)
	}
	d, a := newLeaveDir(t), newArchive(t)
	fill(d)
	got := d.imports(a)
	want := &archive.Imported{Segments: archive.Tally{Stored: 7}, Tails: archive.Tally{Stored: 1}, Histories: archive.Tally{Stored: 1}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	for missing, hole := range map[string]archive.Range{
		"000000010000000000000008": {Timeline: 1, First: 8, Last: 8},
		"000000020000000000000009": {Timeline: 2, First: 9, Last: 9},
	} {
		d, a := newLeaveDir(t), newArchive(t)
		fill(d)
		p, data := segmentOf(f, 1)
		d.file(p.ID.Name(testSize), data)
		if err := os.Remove(filepath.Join(d.dir, missing)); err != nil {
			t.Fatal(err)
		}
		if holes := d.imports(a).Holes; !slices.Equal(holes, []archive.Range{hole}) {
			t.Errorf("without %s: holes %v, want %v", missing, holes, hole)
		}
	}
}

// A store that fails ends the import; the next one completes it.
func TestImportGoesOnAfterFailure(t *testing.T) {
	g, d := sixSegments(), newLeaveDir(t)
	d.segments(g, 0, 5)
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	a, n := newArchive(t), 0
	_, err := archive.Import(ctx, archive.ImportConfig{Archive: a, Progress: func(int64) {
		if n++; n == 3 {
			cancel(enough)
		}
	}}, d.files())
	if !errors.Is(err, enough) {
		t.Fatal(err)
	}
	got := d.imports(a)
	if want := (archive.Tally{Stored: 3, Had: 3}); got.Segments != want || len(got.Holes) > 0 {
		t.Errorf("%+v, want %+v", got, want)
	}
	h, err := a.Header(t.Context(), archive.Piece{ID: segment.ID{Timeline: 1, No: 6}, To: int64(testSize)})
	if err != nil || h.UnknownCarry || h.RunningMaxSince != g.Config.Start {
		t.Errorf("the chain broke: %+v, %v", h, err)
	}
}

// A dry run says the same and changes nothing.
func TestImportRehearsal(t *testing.T) {
	g, d := sixSegments(), newLeaveDir(t)
	d.segments(g, 0, 1)
	mem := memstore.New()
	a, err := archive.Pin(t.Context(), mem, testCluster)
	if err != nil {
		t.Fatal(err)
	}
	d.imports(a)
	before := names(t, mem)
	d.segments(g, 3, 5)
	p, data := segmentOf(g, 5)
	d.file(p.ID.Name(testSize)+".partial", data[:100_000])
	dry, err := archive.Open(t.Context(), archive.Rehearse(mem))
	if err != nil {
		t.Fatal(err)
	}
	rehearsed := d.imports(dry)
	seemed := names(t, dry.Store())
	if diff := cmp.Diff(before, names(t, mem)); diff != "" {
		t.Errorf("the dry run changed the store: %s", diff)
	}
	if diff := cmp.Diff(d.imports(a), rehearsed); diff != "" {
		t.Errorf("real (-), dry run (+): %s", diff)
	}
	if diff := cmp.Diff([]archive.Range{{Timeline: 1, First: 5, Last: 5}}, rehearsed.Holes); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(names(t, mem), seemed); diff != "" {
		t.Errorf("names (-), in the dry run (+): %s", diff)
	}
}

func names(t *testing.T, s archive.Store) []string {
	t.Helper()
	var all []string
	for info, err := range s.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, info.Name)
	}
	return all
}

func TestParseImportFile(t *testing.T) {
	const seg = "00000001000000000000000A"
	for base, want := range map[string]archive.ImportFile{
		seg: {Name: seg}, seg + ".gz": {Name: seg}, seg + ".lz4": {Name: seg}, seg + ".zst": {Name: seg},
		seg + ".partial": {Name: seg, Partial: true}, seg + ".gz.partial": {Name: seg, Partial: true}, seg + ".partial.zst": {Name: seg, Partial: true},
		"0000000A.history": {Name: "0000000A.history"}, "0000000A.history.gz": {Name: "0000000A.history"},
	} {
		want.Path = "/x/" + base
		if got, ok, err := archive.ParseImportFile(want.Path); got != want || !ok || err != nil {
			t.Errorf("%s: %+v, %v, %v", base, got, ok, err)
		}
	}
	for _, base := range []string{"x", seg + ".00000028.backup", seg + ".00000028.backup.gz", "0000000a.history", "0000000A.history.partial", "base.tar"} {
		if got, ok, err := archive.ParseImportFile("/x/" + base); ok || err != nil {
			t.Errorf("%s: %+v, %v", base, got, err)
		}
	}
	for _, base := range []string{seg + ".xz", seg + ".bz2", seg + ".age"} {
		if _, ok, err := archive.ParseImportFile("/x/" + base); ok || err == nil || len(hint.Of(err)) == 0 {
			t.Errorf("%s: %v, %v", base, ok, err)
		}
	}
}

// The cluster is that of most files, whatever else lies about.
func TestImportedCluster(t *testing.T) {
	g, d := sixSegments(), newLeaveDir(t)
	d.segments(g, 0, 1)
	other := newWAL(1, 20, 9)
	other.Config.SystemIdentifier++
	grow(other, int(testSize))
	d.segments(other, 0, 0)
	d.file("0000000100000000000000FF", make([]byte, testSize))
	_, data := segmentOf(g, 0)
	d.file("0000000100000000000000FE", data) // not its name
	if id, err := archive.ImportedCluster(d.files()); err != nil || id != testCluster {
		t.Errorf("%+v, %v", id, err)
	}
	d = newLeaveDir(t)
	if _, err := archive.ImportedCluster(d.files()); err == nil {
		t.Error("no error without a segment")
	}
	d.file("0000000100000000000000FE", data)
	if _, err := archive.ImportedCluster(d.files()); err == nil || !strings.Contains(err.Error(), "0000000100000000000000FE: its contents are those of 000000010000000000000003") {
		t.Errorf("a name that does not fit: %v", err)
	}
}

// grow appends n bytes of WAL, and then some.
func grow(g *walgen.WAL, n int) { g.Fill(g.End() + wal.LSN(n)) }
