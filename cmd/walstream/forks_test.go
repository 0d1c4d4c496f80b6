package main

import (
	"path/filepath"
	"syscall"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
)

// Two promotions within one segment, over which a transaction stays prepared:
// PostgreSQL reads it under that segment's name on each timeline, and the one
// between has no segment of its own on the way.
func TestPreparedWhereTimelinesShareASegment(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{Settings: []string{"max_prepared_transactions = 1"}})
	r := w.receive("--create-slot")
	w.primary.Psql(t, "CREATE TABLE t AS SELECT 1 n")
	w.must("backup", "--checkpoint", "fast")
	w.primary.Psql(t, "BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'two'")
	for _, tli := range []string{"2", "3"} {
		w.primary.Stop(syscall.SIGINT)
		testkit.Run(t, "touch", filepath.Join(w.primary.DataDir, "standby.signal"))
		w.primary.Start()
		if have := w.primary.Promote(); have != tli {
			t.Fatalf("timeline %s, want %s", have, tli)
		}
		w.synchronous(r)
	}
	w.primary.Psql(t, "INSERT INTO t VALUES (3)")
	w.crash()
	dir := filepath.Join(w.dir, "restored")
	w.must("restore", dir)
	c := w.startRestored(dir)
	c.Psql(t, "COMMIT PREPARED 'two'")
	if got := c.Psql(t, "SELECT string_agg(n::text, ' ' ORDER BY n) FROM t"); got != "1 2 3" {
		t.Errorf("rows %s", got)
	}
}
