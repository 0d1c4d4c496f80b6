package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/wal"
)

// rescue restores into a directory of that name and expects every acknowledged
// commit in what starts there.
func (w *world) rescue(name string, ws *writers) *testkit.Cluster {
	w.t.Helper()
	c := w.restore(filepath.Join(w.dir, name))
	if lost := ws.lost(w.t, c); len(lost) > 0 {
		w.t.Fatalf("%s: %d of %d acknowledged commits lost: %v", name, len(lost), ws.count(), lost)
	}
	return c
}

// The promise itself: clients commit, the primary and its disk are gone, and
// every commit that a client saw succeed is in the restored cluster. The
// receiver is still running, so the last segment is only in its spool.
func TestDisasterLosesNoAcknowledgedCommit(t *testing.T) {
	t.Parallel()
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
		c := w.rescue(fmt.Sprintf("rescued-%d-MiB-segments", mb), ws)
		testkit.Run(t, filepath.Join(c.Bin, "pg_amcheck"), "-h", c.SocketDir, "-U", "postgres", "--all", "--install-missing")
	}
}

// The receiver is killed again and again while clients commit; then the
// primary is destroyed.
func TestKilledReceiverLosesNoAcknowledgedCommit(t *testing.T) {
	t.Parallel()
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
	w.rescue("rescued", ws)
}

// The receiver's disk is lost: the slot on the primary holds what is not in
// the archive, so a receiver with an empty spool goes on without a hole.
func TestLostSpoolLeavesNoHole(t *testing.T) {
	t.Parallel()
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
	w.rescue("rescued", ws)
}

// An object of the archive is lost that a slot still holds: it is fetched
// again, and the slot stays before it until then.
func TestSlotStaysBeforeAHole(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	segments := func() []string {
		objects, err := filepath.Glob(filepath.Join(w.archive, "wal", "00000001", "*.zst"))
		if err != nil {
			t.Fatal(err)
		}
		return objects
	}
	produce := func(n int) {
		for range n {
			w.primary.Psql(t, "SELECT pg_logical_emit_message(false, 'filler', 'x'), pg_switch_wal()")
		}
		w.archived()
	}
	position := func() (st struct {
		RestartLSN wal.LSN `json:"restart_lsn"`
	}) {
		decode(t, w.must("slot", "show", "--slot", "second", "--json"), &st)
		return st
	}
	r := w.receive("--create-slot")
	produce(1)
	w.must("slot", "create", "--slot", "second")
	before := position()
	produce(4)
	r.stop()
	stored := segments()
	lost := stored[len(stored)-2]
	if err := os.Remove(lost); err != nil {
		t.Fatal(err)
	}

	r = w.launch("--slot", "second")
	testkit.Wait(t, lost+" to be fetched again", func() (bool, string) {
		now := position() // before the look
		have := exists(lost)
		if !have && now != before {
			t.Fatalf("the slot moved from %s to %s although %s is missing", before.RestartLSN, now.RestartLSN, lost)
		}
		w.fill()
		return have, r.output()
	})
	produce(1)
	r.stop()
	if now := position(); now.RestartLSN <= before.RestartLSN {
		t.Errorf("the slot stays at %s although nothing is missing", now.RestartLSN)
	}
}

// SIGTERM stores the remainder of the open segment, so that the archive alone
// holds everything. The source's configuration names its own data directory
// and PID file, which the restored server leaves alone.
func TestStoppedReceiverLeavesEverythingInArchive(t *testing.T) {
	t.Parallel()
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

	c := w.rescue("rescued", ws)
	if got := c.Psql(t, "SHOW data_directory"); got != c.DataDir || exists(source) || exists(pidFile) {
		t.Errorf("the restored server runs in %s; %s exists: %v, %s exists: %v", got, source, exists(source), pidFile, exists(pidFile))
	}
	if !exists(filepath.Join(c.DataDir, "external.pid")) {
		t.Error("the server could not write its PID file")
	}
}

// Restore, promote, receive goes on, back up, and that three times in one
// archive and spool: each time on a timeline of its own.
func TestRestorePromoteReceiveThreeTimes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	r := w.receive("--create-slot")
	w.must("backup", "--checkpoint", "fast")
	ws := write(t, w.primary, 2)
	for round := range 3 {
		ws.atLeast(t, 200)
		w.crash()
		r.stop() // the primary is gone: must end all the same
		c := w.rescue(fmt.Sprintf("restored-%d", round+1), ws)
		c.Psql(t, "CHECKPOINT") // so that pg_control tells the timeline after a promotion
		if got, want := c.Psql(t, "SELECT timeline_id FROM pg_control_checkpoint()"), fmt.Sprint(round+2); got != want {
			t.Errorf("round %d is on timeline %s, not %s", round, got, want)
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
