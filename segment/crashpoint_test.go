//go:build crashpoint

package segment_test

import (
	"strings"
	"testing"

	"github.com/walstream/walstream/internal/crashpoint"
	"github.com/walstream/walstream/internal/testkit/memfs"
)

// cut is what a power cut at a crash point leaves: the disk, and the world as
// it was then.
type cut struct {
	at    crashpoint.Name
	world *world
	disk  *memfs.FS
}

// cuts runs w and returns what a power cut at each point would have left.
func cuts(w *world, disk *memfs.FS, crash func(*memfs.FS, int) *memfs.FS) (all []cut, err error) {
	crashpoint.Watch(func(at crashpoint.Name) {
		all = append(all, cut{at, w.snapshot(), crash(disk, len(all))})
	})
	defer crashpoint.Watch(nil)
	err = w.run(disk)
	return all, err
}

// firstOfEach takes the first cut at each point, and counts all.
func firstOfEach(all []cut) (firsts []cut, seen map[crashpoint.Name]int) {
	seen = map[crashpoint.Name]int{}
	for _, c := range all {
		if seen[c.at]++; seen[c.at] == 1 {
			firsts = append(firsts, c)
		}
	}
	return firsts, seen
}

// TestCrashPoints cuts the power at each point that the spool passes, and again
// at those that the next process passes when it goes on from there. Whatever survives, nothing that was acknowledged is lost, and the
// work can be finished.
func TestCrashPoints(t *testing.T) {
	for name, crash := range losses {
		t.Run(name, func(t *testing.T) {
			first, err := cuts(newWorld(), memfs.New(), crash)
			if err != nil {
				t.Fatal(err)
			}
			firsts, seen := firstOfEach(first)
			for _, c := range firsts {
				again, err := cuts(c.world.snapshot(), c.disk.CrashClone(), crash)
				if err != nil {
					t.Fatalf("power cut at %s: %v", c.at, err)
				}
				firsts, _ := firstOfEach(again)
				for _, second := range firsts {
					if err := survive(second.world, second.disk); err != nil {
						t.Fatalf("power cuts at %s, then at %s: %v", c.at, second.at, err)
					}
				}
			}
			for i, c := range first {
				if err := survive(c.world, c.disk); err != nil {
					t.Fatalf("power cut at the point number %d, %s: %v", i, c.at, err)
				}
			}
			for _, at := range crashpoint.Names() {
				phase, _, _ := strings.Cut(string(at), "-")
				ours := phase == "spool" || phase == "seal" || phase == "timeline" || at == crashpoint.UploadRemoved
				if ours && seen[at] == 0 {
					t.Errorf("%s was not passed", at)
				}
			}
			t.Logf("%d power cuts: %v", len(first), seen)
		})
	}
}
