package archive_test

import (
	"bytes"
	"testing"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/testkit/memstore"
	"github.com/walstream/walstream/internal/testkit/walgen"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

const testSize = segment.MinSize

var testCluster = segment.Identity{SystemIdentifier: 7_000_000_000_000_000_001, MajorVersion: 15, SegmentSize: testSize}

// newWAL begins WAL of testCluster at the segment with number first.
func newWAL(tli wal.Timeline, first uint64, seed uint64) *walgen.WAL {
	return walgen.New(testCluster.ScanConfig(segment.ID{Timeline: tli, No: first}), seed)
}

// short is a segment that is switched early, for tests of every level: the
// best one takes seconds for a full segment.
func short(seed uint64) *walgen.WAL {
	g := newWAL(1, 1, seed)
	g.Fill(g.End() + 200_000)
	g.Switch()
	return g
}

// segmentOf is the i-th segment of g, as a piece and its bytes.
func segmentOf(g *walgen.WAL, i int) (archive.Piece, []byte) {
	id := segment.At(g.Config.Timeline, g.Config.Start, testSize)
	id.No += uint64(i)
	return archive.Piece{ID: id, To: int64(testSize)}, g.At(id.Start(testSize), id.End(testSize))
}

// tailOf is the first to bytes of the i-th segment.
func tailOf(g *walgen.WAL, i int, to int64) (archive.Piece, []byte) {
	p, data := segmentOf(g, i)
	p.Tail, p.To = true, to
	return p, data[:to]
}

func newArchive(t testing.TB) *archive.Archive {
	t.Helper()
	a, err := archive.Pin(t.Context(), memstore.New(), testCluster)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// putPiece describes and stores a piece and returns its header.
func putPiece(t *testing.T, a *archive.Archive, p archive.Piece, data []byte, before *archive.Header) *archive.Header {
	t.Helper()
	h, err := a.Describe(p, bytes.NewReader(data), before)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.PutSegment(t.Context(), p, h, bytes.NewReader(data), 0); err != nil {
		t.Fatal(err)
	}
	return h
}
