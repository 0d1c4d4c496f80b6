package recovery

import (
	"bytes"
	"strings"
	"testing"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/segment"
)

// A segment that is there in pieces only is as good as one that is whole, also
// in the middle; and one that cannot be read to the end of its pieces is never
// taken for the end of WAL, unless nothing of what is missing is needed.
func TestWalGetTails(t *testing.T) {
	g := newGetter(t)
	a, err := archive.Open(t.Context(), g.store)
	if err != nil {
		t.Fatal(err)
	}
	put := func(no uint64, from, to int64) {
		t.Helper()
		p, body := archive.Piece{ID: segment.ID{Timeline: 1, No: no}, Tail: true, From: from, To: to}, nth(g.wal, int(no)-1)
		h, err := a.Describe(p, bytes.NewReader(body), nil)
		if err == nil {
			err = a.PutSegment(t.Context(), p, h, bytes.NewReader(body), 0)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	put(3, 0, 0x48000)
	put(3, 0x40000, 0x90000)
	g.expect(t, g.store, seg(1, 3), Trouble, nil)
	put(3, 0x80000, 0x100000)
	g.expect(t, g.store, seg(1, 3), Delivered, nth(g.wal, 2))
	put(5, 0x40000, 0x90000)
	g.expect(t, g.store, seg(1, 5), Delivered, padded(nth(g.wal, 4), 0x90000))

	mangled := faulty{Store: g.store, mangle: func(name string, body []byte) []byte {
		if strings.HasSuffix(name, "-00090000.zst") {
			body[len(body)/2] ^= 1
		}
		return body
	}}
	g.expect(t, mangled, seg(1, 3), Trouble, nil)
	g.expect(t, mangled, seg(1, 5), Trouble, nil)
	plan := &Plan{Timeline: 1, Need: 0x550000, End: 0x550000, WAL: []Range{{Timeline: 1, First: seg(1, 3), Last: seg(1, 5)}}}
	g.withPlan(t, plan, nil)
	g.expect(t, mangled, seg(1, 3), Trouble, nil)
	g.expect(t, mangled, seg(1, 5), Delivered, padded(nth(g.wal, 4), 0x50000))
	plan.Need++
	g.withPlan(t, plan, nil)
	g.expect(t, mangled, seg(1, 5), Trouble, nil)
	g.withPlan(t, nil, map[string][]byte{seg(1, 5) + ".00090000.tail": nth(g.wal, 4)[:0x90000]})
	g.expect(t, mangled, seg(1, 5), Delivered, padded(nth(g.wal, 4), 0x90000))
	g.withPlan(t, nil, map[string][]byte{seg(1, 5) + ".00080000.tail": nth(g.wal, 4)[:0x80000]})
	g.expect(t, mangled, seg(1, 5), Trouble, nil)
}
