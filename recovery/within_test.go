package recovery

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// No transaction finishes outside of where it is looked for, whatever backups
// tell or do not, also when IDs are used again.
func TestFinishing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type transaction struct{ id, segment uint64 }
		var active, done []transaction
		g := &gatherer{facts: Facts{Identity: testCluster}}
		next := rapid.Uint64Range(3, 1<<33).Draw(t, "next")
		for no := uint64(4); no <= 40; no++ {
			for range rapid.IntRange(0, 4).Draw(t, "begin") {
				active = append(active, transaction{id: next})
				next += rapid.SampledFrom([]uint64{1, 1, 2, 1000, 1 << 31, 1<<32 - 2}).Draw(t, "step")
			}
			for range rapid.IntRange(0, min(3, len(active))).Draw(t, "end") {
				i := rapid.IntRange(0, len(active)-1).Draw(t, "which")
				done = append(done, transaction{active[i].id, no})
				active = append(active[:i:i], active[i+1:]...)
			}
			if rapid.IntRange(0, 3).Draw(t, "backup") > 0 {
				continue
			}
			around := func(label string) wal.LSN {
				return wal.LSN(rapid.SampledFrom([]uint64{0, 8, 2 * uint64(testSize)}).Draw(t, label))
			}
			checkpoint := segment.ID{No: no + 1}.Start(testSize)
			b := backup.Commit{Timeline: 1, StartTimeline: 1, StartLSN: checkpoint - around("start"), StopLSN: checkpoint + around("stop")}
			if rapid.IntRange(0, 4).Draw(t, "tells") > 0 {
				b.NextXID, b.OldestActiveXID = next, next
				for _, a := range active {
					b.OldestActiveXID = min(b.OldestActiveXID, a.id)
				}
				if rapid.Bool().Draw(t, "frozen only") {
					b.OldestActiveXID = min(b.OldestActiveXID, uint64(3)) + rapid.Uint64Range(0, b.OldestActiveXID-3).Draw(t, "frozen")
				}
			}
			g.facts.Backups = append(g.facts.Backups, b)
		}
		for _, d := range done {
			w, err := g.finishing(t.Context(), segment.History{Timeline: 1}, uint32(d.id))
			if err != nil || w.next(d.segment) != d.segment {
				t.Fatalf("%d finishes in segment %d, looked for in %v, %v; backups %+v", d.id, d.segment, w, err, g.facts.Backups)
			}
		}
	})
}

func TestWithin(t *testing.T) {
	w := within{{20, NoSegment - 1}, {5, 8}, {3, 5}, {0, 0}}
	for no, want := range map[uint64]uint64{0: 0, 1: 3, 3: 3, 8: 8, 9: 20, 21: 21, NoSegment: NoSegment} {
		if got := w.next(no); got != want {
			t.Errorf("next of %d is %d, want %d", no, got, want)
		}
	}
	if got := within(nil).next(7); got != 7 {
		t.Errorf("next of 7 in all WAL is %d", got)
	}
}
