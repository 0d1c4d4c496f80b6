package recovery

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/testkit/memstore"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// gets counts requests that read.
type gets struct {
	archive.Store
	n int
}

func (g *gets) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	g.n++
	return g.Store.Get(ctx, name, off, n)
}

// An index answers for 1,000 segments with one request, but not whether they are
// there. With a damaged one, the headers answer.
func TestFactsFromIndex(t *testing.T) {
	const first = 3000
	id := func(no uint64) segment.ID { return segment.ID{Timeline: 1, No: no} }
	name := func(no uint64) string { return archive.SegmentName(id(no), testSize) }
	for _, tc := range []struct {
		name    string
		missing uint64 // a segment that is not listed
		damage  bool   // of the index
		headers bool   // are asked
	}{{"good", 0, false, false}, {"damaged", 0, true, true}, {"hole", first + 10, false, false}} {
		store := &gets{Store: memstore.New()}
		a, err := archive.Pin(t.Context(), store, testCluster)
		if err != nil {
			t.Fatal(err)
		}
		var headers []*archive.Header
		var wants []Want
		for no := uint64(first); no < first+archive.IndexSpan; no++ {
			headers = append(headers, &archive.Header{
				Identity: testCluster, Timeline: 1, StartLSN: id(no).Start(testSize), To: int64(testSize),
				Summary: wal.Summary{Records: int64(no)},
			})
			wants = append(wants, Want{Kind: WantSummary, Segment: id(no)})
			if no != tc.missing { // nobody may look into it
				if err := store.Put(t.Context(), name(no), strings.NewReader("no header")); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := a.PutIndex(t.Context(), headers); err != nil {
			t.Fatal(err)
		}
		if tc.damage {
			flip(t, store, "index/")
		}
		g, err := (Source{Archive: a}).gather(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		store.n = 0
		for _, w := range wants[20:30] {
			if err := g.answer(t.Context(), []Want{w}); err != nil {
				t.Fatal(err)
			}
		}
		if err := g.list(t.Context(), id(first)); err != nil {
			t.Fatal(err)
		}
		if s, ok := g.facts.Segments[id(tc.missing)]; ok || len(g.facts.Segments) < archive.IndexSpan-1 {
			t.Errorf("%s: segment that is not there: %+v", tc.name, s)
		}
		if asked := store.n > 1; asked != tc.headers {
			t.Errorf("%s: %d requests", tc.name, store.n)
		}
		for i, w := range wants {
			s, known := g.facts.Summaries[w.Segment]
			if damaged := g.facts.Segments[w.Segment].Damaged != ""; damaged != (tc.headers && i >= 20 && i < 30) {
				t.Errorf("%s: segment %d damaged: %v", tc.name, i, damaged)
			}
			if diff := cmp.Diff(headers[i].Summary, s); known == tc.headers || known && diff != "" {
				t.Errorf("%s: segment %d known: %v\n%s", tc.name, i, known, diff)
			}
		}
	}
}

// flip damages the object with this prefix.
func flip(t *testing.T, store archive.Store, prefix string) {
	t.Helper()
	for info, err := range store.List(t.Context(), prefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		r, err := store.Get(t.Context(), info.Name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		body[len(body)/2] ^= 1
		if err := store.Delete(t.Context(), info.Name); err != nil {
			t.Fatal(err)
		}
		if err := store.Put(t.Context(), info.Name, bytes.NewReader(body)); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("nothing under %s", prefix)
}
