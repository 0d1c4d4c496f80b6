package recovery

import (
	"strings"
	"testing"

	"github.com/walstream/walstream/archive"
)

// A history that is not the one of the plan, or says that its timeline begins
// behind WAL of it, is not given to PostgreSQL.
func TestWalGetDamagedHistory(t *testing.T) {
	g := newGetter(t)
	p := &Plan{Timeline: 2, Need: 0x4A0000, End: 0x4A0000, WAL: []Range{
		{Timeline: 1, First: seg(1, 1), Last: seg(1, 4), Switch: 0x400000}, {Timeline: 2, First: seg(2, 4), Last: seg(2, 4)},
	}}
	g.withPlan(t, p, nil)
	g.expect(t, g.store, "00000002.history", Delivered, []byte("1\t0/400000\tno recovery target specified\n"))
	p.WAL[0].Switch = 0x400100
	g.withPlan(t, p, nil)
	g.expect(t, g.store, "00000002.history", Trouble, nil)
	a, err := archive.Open(t.Context(), g.store)
	if err != nil {
		t.Fatal(err)
	}
	body := []byte("1\t0/3F0000\tx\n2\t0/400000\tx\n") // the segment of timeline 2 is that of timeline 4, too
	if err := a.PutHistory(t.Context(), 4, body); err != nil {
		t.Fatal(err)
	}
	p.Timeline, p.WAL[0].Switch = 4, 0x400000
	p.WAL[1] = Range{Timeline: 4, First: seg(4, 4), Last: seg(4, 4)}
	g.withPlan(t, p, nil)
	g.expect(t, g.store, "00000004.history", Delivered, body)
	g.withPlan(t, nil, nil)
	later := faulty{Store: g.store, mangle: func(name string, body []byte) []byte {
		if strings.HasSuffix(name, ".history") {
			body[4] = '5'
		}
		return body
	}}
	g.expect(t, later, "00000002.history", Trouble, nil)
}
