//go:build crashpoint

package archive_test

import (
	"strings"
	"testing"

	"github.com/walstream/walstream/internal/crashpoint"
	"github.com/walstream/walstream/internal/testkit/memfs"
)

// TestCrashPoints cuts the power at each point on the way from the stream into
// the archive. What was promised until then is there, in spool or archive, and
// a new process finishes the work.
func TestCrashPoints(t *testing.T) {
	type cut struct {
		at   crashpoint.Name
		owed *promises
		disk *memfs.FS
	}
	var cuts []cut
	s, p, disk := newStory(), (&promises{}).copy(), memfs.New()
	seen := map[crashpoint.Name]int{}
	crashpoint.Watch(func(at crashpoint.Name) {
		owed := p.copy() // before the clone: what is promised later is not owed
		seen[at]++
		cuts = append(cuts, cut{at, owed, disk.CrashClone()})
	})
	err := s.happen(disk, p)
	crashpoint.Watch(nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range cuts {
		if err := s.survived(c.disk, c.owed, true); err != nil {
			t.Fatalf("power cut at the point number %d, %s: %v", i, c.at, err)
		}
	}
	for _, at := range crashpoint.Names() {
		phase, _, _ := strings.Cut(string(at), "-")
		if (phase == "archive" || phase == "upload" || phase == "store") && seen[at] == 0 {
			t.Errorf("%s was not passed", at)
		}
	}
	t.Logf("%d power cuts: %v", len(cuts), seen)
}
