package recovery

import (
	"bytes"
	"context"
	"testing"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/testkit/walgen"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

var testCluster = segment.Identity{SystemIdentifier: 7, MajorVersion: 15, SegmentSize: testSize}

// generateWAL makes WAL of testCluster on timeline tli: count segments from
// number first on.
func generateWAL(tli wal.Timeline, first uint64, count int) []byte {
	w := walgen.New(testCluster.ScanConfig(segment.ID{Timeline: tli, No: first}), uint64(tli))
	w.FillSegments(count)
	return w.Bytes[:count*int(testSize)]
}

func nth(wal []byte, i int) []byte { return wal[i*int(testSize) : (i+1)*int(testSize)] }

// store puts one segment, or with to the beginning of one, into an archive.
func store(t *testing.T, a *archive.Archive, id segment.ID, body []byte, to int64) {
	t.Helper()
	p := archive.Piece{ID: id, To: to, Tail: to < int64(testSize)}
	h, err := a.Describe(p, bytes.NewReader(body), nil)
	if err == nil {
		err = a.PutSegment(context.Background(), p, h, bytes.NewReader(body), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
}
