package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/walstream/walstream/internal/testkit"
)

// A standby that asks wal-get lives on and streams while the archive cannot be
// read. With --on-error fatal it stops: it cannot be promoted then without WAL
// that the archive may hold.
func TestStandbyOutlivesArchive(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	r := w.receive("--create-slot")
	w.archived()
	start := func(flags string) *testkit.Cluster {
		dir := filepath.Join(testkit.Dir(t), "data")
		testkit.Run(t, filepath.Join(w.primary.Bin, "pg_basebackup"), "-d", w.primary.Conninfo(), "-D", dir, "-R", "-X", "none", "-c", "fast")
		s := testkit.Adopt(t, dir)
		s.Configure("restore_command = 'WALSTREAM_RESTORE_RETRY=0 WALSTREAM_SPOOL=" + w.dir + "/none " + w.bin + " wal-get " + flags + " --archive " + w.archive + " %f %p'")
		return s
	}
	patient, careful := start(""), start("--on-error fatal")
	w.archived()
	patient.Start()
	patient.CaughtUp(w.primary)

	w.primary.Psql(t, "CREATE TABLE while_away AS SELECT 1")
	r.stop()
	away := w.archive + ".away"
	if err := os.Rename(w.archive, away); err != nil {
		t.Fatal(err)
	}
	patient.Stop(syscall.SIGINT)
	patient.Start()
	patient.CaughtUp(w.primary)
	if got := patient.Psql(t, "SELECT pg_is_in_recovery(), count(*) FROM while_away"); got != "t|1" {
		t.Errorf("the standby says %s", got)
	}
	careful.Launch()
	select {
	case <-careful.Exited():
	case <-time.After(time.Minute):
		t.Fatal("the standby with --on-error fatal goes on without the archive")
	}
	if log := careful.Log(); !strings.Contains(log, w.archive+": ") {
		t.Errorf("the log does not name the archive:\n%s", log)
	}
	if err := os.Rename(away, w.archive); err != nil {
		t.Fatal(err)
	}
	careful.Start()
	careful.CaughtUp(w.primary)
}
