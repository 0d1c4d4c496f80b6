package archive_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/testkit/memstore"
	"github.com/walstream/walstream/internal/testkit/walgen"
	"github.com/walstream/walstream/segment"
)

// fixed is a store that answers every Get with the same bytes.
type fixed struct {
	archive.Store
	body []byte
	err  error // at the end of body, instead of io.EOF
}

func (f *fixed) Get(_ context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if name == "walstream.json" {
		return f.Store.Get(context.Background(), name, off, n)
	}
	body := f.body[min(off, int64(len(f.body))):]
	if n >= 0 {
		body = body[:min(n, int64(len(body)))]
	}
	var r io.Reader = bytes.NewReader(body)
	if f.err != nil {
		r = io.MultiReader(r, iotest.ErrReader(f.err))
	}
	return io.NopCloser(r), nil
}

// stored is a segment as an object, and an archive that reads whatever takes
// its place.
func stored(t testing.TB, g *walgen.WAL, level zstd.EncoderLevel) (a *archive.Archive, f *fixed, id segment.ID) {
	t.Helper()
	return storedWith(t, archive.Keys{}, g, level)
}

func storedWith(t testing.TB, keys archive.Keys, g *walgen.WAL, level zstd.EncoderLevel) (a *archive.Archive, f *fixed, id segment.ID) {
	t.Helper()
	whole, err := keys.Pin(t.Context(), memstore.New(), testCluster)
	if err != nil {
		t.Fatal(err)
	}
	p, data := segmentOf(g, 0)
	h, err := whole.Describe(p, bytes.NewReader(data), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := whole.PutSegment(t.Context(), p, h, bytes.NewReader(data), level); err != nil {
		t.Fatal(err)
	}
	r, err := whole.Store().Get(t.Context(), whole.SealedName(archive.SegmentName(p.ID, testSize)), 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	f = &fixed{Store: whole.Store(), body: body}
	a, err = keys.Open(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	return a, f, p.ID
}

// small is a segment whose object is small: a commit and a switch.
func small() *walgen.WAL {
	g := newWAL(1, 1, 1)
	g.Commit(g.Now)
	g.Switch()
	return g
}

func wantCorrupt(t *testing.T, a *archive.Archive, id segment.ID, what string) {
	t.Helper()
	_, err := a.Fetch(t.Context(), id, io.Discard)
	var corrupt *archive.CorruptError
	var foreign *segment.ForeignError
	switch {
	case err == nil:
		t.Errorf("%s is not noticed", what)
	case errors.Is(err, archive.ErrNotExist):
		t.Errorf("%s passes for absence: %v", what, err)
	case !errors.As(err, &corrupt) && !errors.As(err, &foreign):
		t.Errorf("%s: %v, want a *CorruptError", what, err)
	}
}

// Every bit of a small object, and of a large one some thousands, is flipped:
// none goes unnoticed.
func TestFlippedBits(t *testing.T) {
	a, f, id := stored(t, small(), 0)
	good := f.body
	t.Logf("object of %d bytes", len(good))
	flip := func(at, bit int) {
		f.body = bytes.Clone(good)
		f.body[at] ^= 1 << bit
		if at == 15 { // the version: a newer one is refused with a hint, not as damage
			if _, err := a.Fetch(t.Context(), id, io.Discard); err == nil {
				t.Errorf("version %d is read", f.body[at])
			}
			return
		}
		wantCorrupt(t, a, id, fmt.Sprintf("bit %d of byte %d flipped", bit, at))
	}
	for at := range good {
		flip(at, at%8)
		if at < 20 || at >= len(good)-12 {
			for bit := range 8 {
				flip(at, bit)
			}
		}
	}
	f.body = good
	if _, err := a.Fetch(t.Context(), id, io.Discard); err != nil {
		t.Fatalf("the unchanged object: %v", err)
	}

	g := newWAL(1, 1, 2)
	g.FillSegments(1)
	a, f, id = stored(t, g, 1)
	good = f.body
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 60 {
		flip(rnd.IntN(len(good)), rnd.IntN(8))
	}
}

func TestTruncated(t *testing.T) { inClearAndSealed(t, testTruncated) }

func testTruncated(t *testing.T, keys archive.Keys) {
	a, f, id := storedWith(t, keys, small(), 0)
	good := f.body
	for n := range good {
		f.body = good[:n]
		wantCorrupt(t, a, id, fmt.Sprintf("truncation to %d bytes", n))
	}
	for _, more := range [][]byte{{0}, good, good[len(good)-12:]} {
		f.body = append(bytes.Clone(good), more...)
		wantCorrupt(t, a, id, fmt.Sprintf("%d bytes more", len(more)))
	}
}

// A connection that breaks is no damage, and never absence.
func TestReadFails(t *testing.T) { inClearAndSealed(t, testReadFails) }

func testReadFails(t *testing.T, keys archive.Keys) {
	a, f, id := storedWith(t, keys, small(), 0)
	good := f.body
	f.err = errors.New("connection reset")
	for n := range len(good) + 1 {
		f.body = good[:n]
		_, err := a.Fetch(t.Context(), id, io.Discard)
		var corrupt *archive.CorruptError
		if !errors.Is(err, f.err) || errors.As(err, &corrupt) {
			t.Fatalf("connection breaks after %d bytes: %v", n, err)
		}
	}
}

func TestWriteFails(t *testing.T) {
	a, _, id := stored(t, small(), 0)
	full := errors.New("disk full")
	_, err := a.Fetch(t.Context(), id, failingWriter{full})
	var corrupt *archive.CorruptError
	if !errors.Is(err, full) || errors.As(err, &corrupt) {
		t.Errorf("Fetch to a full disk: %v", err)
	}
}

type failingWriter struct{ err error }

func (f failingWriter) Write([]byte) (int, error) { return 0, f.err }

// An object under another name, or in another archive, is not what it says.
func TestMisplaced(t *testing.T) { inClearAndSealed(t, testMisplaced) }

func testMisplaced(t *testing.T, keys archive.Keys) {
	a, f, id := storedWith(t, keys, small(), 0)
	wantCorrupt(t, a, id.Next(), "another segment's name")
	wantCorrupt(t, a, segment.ID{Timeline: 2, No: id.No}, "another timeline's name")
	if _, err := a.Header(t.Context(), archive.Piece{ID: id, Tail: true, To: 100}); err == nil {
		t.Error("a segment under a tail's name is not noticed")
	}
	other := testCluster
	other.SystemIdentifier++
	mem := memstore.New()
	if _, err := keys.Pin(t.Context(), mem, other); err != nil {
		t.Fatal(err)
	}
	foreign, err := keys.Open(t.Context(), &fixed{Store: mem, body: f.body})
	if err != nil {
		t.Fatal(err)
	}
	var fe *segment.ForeignError
	if _, err := foreign.Fetch(t.Context(), id, io.Discard); !errors.As(err, &fe) {
		t.Errorf("another cluster's segment: %v, want a *ForeignError", err)
	}
}

// An object whose digests agree is still no segment if it holds no WAL of it.
func TestOtherWAL(t *testing.T) {
	a, g := newArchive(t), newWAL(1, 5, 1)
	g.FillSegments(1)
	_, data := segmentOf(g, 0)
	p := archive.Piece{ID: segment.ID{Timeline: 1, No: 6}, To: int64(testSize)}
	sum := sha256.Sum256(data)
	h := &archive.Header{Identity: testCluster, Timeline: 1, StartLSN: p.ID.Start(testSize), To: p.To, SHA256: hex.EncodeToString(sum[:])}
	if err := a.PutSegment(t.Context(), p, h, bytes.NewReader(data), 0); err != nil {
		t.Fatal(err)
	}
	wantCorrupt(t, a, p.ID, "the WAL of another segment")
}

// The headers of segments with many restore points do not fit the first read.
func TestLongHeader(t *testing.T) {
	g := newWAL(1, 1, 1)
	for i := range 300 {
		g.RestorePoint(g.Now, fmt.Sprintf("point_%d", i))
	}
	g.Switch()
	a, f, id := stored(t, g, 0)
	h, err := a.Header(t.Context(), archive.Piece{ID: id, To: int64(testSize)})
	if err != nil {
		t.Fatal(err)
	}
	if len(h.RestorePoints) != 300 || h.RestorePoints[299].Name != "point_299" {
		t.Errorf("%d restore points", len(h.RestorePoints))
	}
	if _, err := a.Fetch(t.Context(), id, io.Discard); err != nil {
		t.Error(err)
	}
	f.body = f.body[:10_000]
	if _, err := a.Header(t.Context(), archive.Piece{ID: id, To: int64(testSize)}); err == nil {
		t.Error("a header that is cut is read")
	}
}

// The zstd of the distribution unpacks objects of every level.
func TestZstdTool(t *testing.T) {
	g := short(9)
	_, want := segmentOf(g, 0)
	for level := range zstd.SpeedBestCompression + 1 {
		_, f, _ := stored(t, g, level)
		name := filepath.Join(t.TempDir(), "segment.zst")
		if err := os.WriteFile(name, f.body, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := exec.CommandContext(t.Context(), "zstd", "-d", "-c", "-M8MiB", name).Output()
		if err != nil {
			t.Fatalf("zstd -d, level %d: %v", level, err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("zstd -d, level %d: %d other bytes", level, len(got))
		}
	}
}

func FuzzFetch(f *testing.F) {
	_, store, id := stored(f, small(), 0)
	f.Add(store.body)
	f.Add(store.body[:100])
	f.Fuzz(func(t *testing.T, body []byte) {
		same := bytes.Equal(body, store.body)
		g, err := archive.Open(t.Context(), &fixed{Store: store.Store, body: body})
		if err != nil {
			t.Fatal(err)
		}
		_, err = g.Fetch(t.Context(), id, io.Discard)
		if (err == nil) != same {
			t.Errorf("Fetch: %v", err)
		}
		_, _ = g.Header(t.Context(), archive.Piece{ID: id, To: int64(testSize)})
	})
}
