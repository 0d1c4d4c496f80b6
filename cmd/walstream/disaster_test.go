package main

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
)

// The promise itself: clients commit, the primary and its disk are gone, and
// every commit that a client saw succeed is in the restored cluster. The
// receiver is still running, so the last segment is only in its spool.
func TestDisasterLosesNoAcknowledgedCommit(t *testing.T) {
	for _, mb := range []int{1, 16} {
		w := newWorld(t, testkit.Config{SegmentSizeMB: mb})
		w.receive("--create-slot")
		w.must("backup", "--checkpoint", "fast")
		ws := write(t, w.primary, 8)
		ws.atLeast(t, 1000)
		if state := w.primary.Psql(t, "SELECT sync_state FROM pg_stat_replication"); state != "sync" {
			t.Fatalf("sync_state at the kill is %q", state)
		}
		w.crash()
		ws.stop()

		dir := filepath.Join(w.dir, "rescued")
		w.must("restore", dir)
		c := w.startRestored(dir)
		if lost := ws.lost(t, c); len(lost) > 0 {
			t.Errorf("%d MiB segments: %d of %d acknowledged commits lost: %v", mb, len(lost), ws.count(), lost)
		}
		testkit.Run(t, filepath.Join(c.Bin, "pg_amcheck"), "-h", c.SocketDir, "-U", "postgres", "--all", "--install-missing")
	}
}

// The receiver is killed again and again while clients commit; then the
// primary is destroyed.
func TestKilledReceiverLosesNoAcknowledgedCommit(t *testing.T) {
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	r := w.receive("--create-slot")
	w.must("backup", "--checkpoint", "fast")
	ws := write(t, w.primary, 4)
	for range 5 {
		ws.atLeast(t, 150)
		r.kill()
		r = w.launch()
	}
	ws.atLeast(t, 150)
	w.crash()
	r.kill()
	ws.stop()

	dir := filepath.Join(w.dir, "rescued")
	w.must("restore", dir)
	if lost := ws.lost(t, w.startRestored(dir)); len(lost) > 0 {
		t.Errorf("%d of %d acknowledged commits lost: %v", len(lost), ws.count(), lost)
	}
}

// The receiver's disk is lost: the slot on the primary holds what is not in
// the archive, so a receiver with an empty spool goes on without a hole.
func TestLostSpoolLeavesNoHole(t *testing.T) {
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	r := w.receive("--create-slot")
	w.must("backup", "--checkpoint", "fast")
	ws := write(t, w.primary, 4)
	ws.atLeast(t, 500)
	r.kill()
	w.spool = filepath.Join(w.dir, "new-spool")
	w.launch()
	ws.atLeast(t, 500)
	ws.stop()
	w.crash()

	dir := filepath.Join(w.dir, "rescued")
	w.must("restore", dir)
	if lost := ws.lost(t, w.startRestored(dir)); len(lost) > 0 {
		t.Errorf("%d of %d acknowledged commits lost: %v", len(lost), ws.count(), lost)
	}
}

// SIGTERM stores the remainder of the open segment, so that the archive alone
// holds everything. The source's configuration names its own data directory
// and PID file, which the restored server leaves alone.
func TestStoppedReceiverLeavesEverythingInArchive(t *testing.T) {
	w := newWorld(t, testkit.Config{})
	source, pidFile := w.primary.DataDir, filepath.Join(w.dir, "pid")
	w.primary.Configure("data_directory = '"+source+"'", "external_pid_file = '"+pidFile+"'")
	r := w.receive("--create-slot")
	w.must("backup", "--checkpoint", "fast")
	ws := write(t, w.primary, 2)
	ws.atLeast(t, 100)
	ws.stop()
	r.stop()
	w.crash()
	w.spool = filepath.Join(w.dir, "none")

	dir := filepath.Join(w.dir, "rescued")
	w.must("restore", dir)
	c := w.startRestored(dir)
	if got := c.Psql(t, "SHOW data_directory"); got != dir || exists(source) || exists(pidFile) {
		t.Errorf("the restored server runs in %s; %s exists: %v, %s exists: %v", got, source, exists(source), pidFile, exists(pidFile))
	}
	if lost := ws.lost(t, c); len(lost) > 0 {
		t.Errorf("%d of %d acknowledged commits lost: %v", len(lost), ws.count(), lost)
	}
}

// Restore, promote, receive goes on, back up, and that three times in one
// archive and spool: each time on a timeline of its own.
func TestRestorePromoteReceiveThreeTimes(t *testing.T) {
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	r := w.receive("--create-slot")
	w.must("backup", "--checkpoint", "fast")
	ws := write(t, w.primary, 2)
	for round := range 3 {
		ws.atLeast(t, 200)
		w.crash()
		r.stop() // the primary is gone: must end all the same
		dir := filepath.Join(w.dir, fmt.Sprintf("restored-%d", round+1))
		w.must("restore", dir)
		c := w.startRestored(dir)
		c.Psql(t, "CHECKPOINT") // so that pg_control tells the timeline after a promotion
		if got, want := c.Psql(t, "SELECT timeline_id FROM pg_control_checkpoint()"), fmt.Sprint(round+2); got != want {
			t.Errorf("round %d is on timeline %s, not %s", round, got, want)
		}
		if lost := ws.lost(t, c); len(lost) > 0 {
			t.Fatalf("round %d: %d of %d acknowledged commits lost: %v", round, len(lost), ws.count(), lost)
		}
		ws.stop()
		w.primary = c
		r = w.receive("--create-slot")
		w.must("backup", "--checkpoint", "fast")
		next := write(t, c, 2)
		next.inherit(ws)
		ws = next
	}
	ws.atLeast(t, 200)
	ws.stop()
}
