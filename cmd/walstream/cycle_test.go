package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
)

// Someone makes a mistake and goes back before it, three times in a row, in
// one archive and spool: each time the receiver holds WAL that the restored
// primary never had, and follows it all the same. The mistakes stay out.
func TestPointInTimeThreeTimes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	r := w.receive("--create-slot")
	w.must("backup", "--checkpoint", "fast")
	for round := range 3 {
		good := w.history(3)[2]
		for range round { // the fork lies in the receiver's segment, or further back
			w.archived()
		}
		bad := w.history(3)[2]
		w.archived()
		dir := filepath.Join(w.dir, fmt.Sprintf("back-%d", round+1))
		restored := w.restore(dir, "--target-time", good.time, "--target-action", "promote")
		w.primary.Stop(syscall.SIGINT)
		r.stop()

		w.primary = restored
		if got := w.primary.Psql(t, "SELECT max(n) FROM steps"); got != good.row {
			t.Fatalf("round %d: the highest row is %s, want %s (the mistake was %s)", round, got, good.row, bad.row)
		}
		r = w.receive("--create-slot")
		w.must("backup", "--checkpoint", "fast")
	}
	last := w.history(2)[1]
	w.archived()
	dir := filepath.Join(w.dir, "end")
	c := w.restore(dir)
	if got := c.Psql(t, "SELECT max(n) || ' ' || count(*) FROM steps"); got != fmt.Sprintf("%s %d", last.row, 3*3+2) {
		t.Errorf("at the end: %s, want the highest row %s and 11 rows", got, last.row)
	}
}

// The restored point in time was the wrong one, and the operator goes back
// once more, from the first timeline: to a branch that has nothing of the one
// in the spool. That is refused until a person decides, and works with a
// fresh spool.
func TestSecondBranchNeedsAFreshSpool(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	r := w.receive("--create-slot")
	w.must("backup", "--checkpoint", "fast")
	steps := w.history(4)
	w.archived()
	w.primary.Stop(syscall.SIGINT)
	r.stop()
	for i, at := range []step{steps[2], steps[0]} {
		dir := filepath.Join(w.dir, fmt.Sprintf("branch-%d", i))
		w.primary = w.restore(dir, "--target-time", at.time, "--target-timeline", "1", "--target-action", "promote")
		if i == 1 {
			refused := w.launch("--create-slot")
			testkit.Wait(t, "the refusal", func() (bool, string) {
				out, _, _ := w.run("status")
				return strings.Contains(out, "does not descend from 2"), out + refused.output()
			})
			refused.stop()
			w.spool = filepath.Join(w.dir, "fresh-spool")
		}
		r = w.receive("--create-slot")
		w.must("backup", "--checkpoint", "fast")
		w.primary.Psql(t, "INSERT INTO steps VALUES (1000)")
		w.archived()
		w.primary.Stop(syscall.SIGINT)
		r.stop()
	}
	dir := filepath.Join(w.dir, "end")
	if got := w.restore(dir).Psql(t, "SELECT string_agg(n::text, ' ' ORDER BY n) FROM steps"); got != steps[0].row+" 1000" {
		t.Errorf("rows %s, want those of the second branch", got)
	}
}
