package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
)

// Quotes, percent signs and spaces stand in every path and name, all the way to
// a cluster that has recovered. A line break cannot stand in
// postgresql.conf: that is refused before anything is written.
func TestOddNames(t *testing.T) {
	t.Parallel()
	const odd = `it's 100%f "odd" $HOME \n`
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	at := filepath.Join(w.dir, odd)
	testkit.Run(t, "mkdir", at)
	w.archive, w.spool = filepath.Join(at, "archive"), filepath.Join(at, "spool")
	r := w.receive("--create-slot")
	w.must("backup", "--checkpoint", "fast", "--label", odd)
	row := w.history(1)[0].row
	w.must("mark", odd)
	w.history(1)
	w.archived()
	r.stop()
	c := w.restore(filepath.Join(at, "restored"), "--target-name", odd)
	if got := c.Psql(t, "SELECT max(n) FROM steps"); got != row {
		t.Errorf("highest row is %s, want %s", got, row)
	}
	c.Stop(2)
	testkit.Wait(t, "the prefetching server's end", func() (bool, string) {
		return !exists(filepath.Join(at, "restored", "pg_wal", "walstream.prefetch")), "its directory is there"
	})
	before := snapshot(t, at)
	broken := filepath.Join(at, "with a\nline break")
	if _, errs, code := w.run("restore", broken); code != 1 || !strings.Contains(errs, "what has a line break cannot stand in postgresql.conf") {
		t.Errorf("exit code %d\n%s", code, errs)
	}
	if changed := changes(before, snapshot(t, at)); len(changed) > 0 {
		t.Errorf("something was written: %q", changed)
	}
	if err := os.RemoveAll(at); err != nil {
		t.Fatal(err)
	}
}
