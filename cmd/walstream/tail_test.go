package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/wal"
)

// onlyArchive destroys the receiver with its disk and the primary with its own.
func (w *world) onlyArchive(r *receiving) {
	w.t.Helper()
	r.kill()
	w.crash()
	if err := os.RemoveAll(w.spool); err != nil {
		w.t.Fatal(err)
	}
	w.spool = filepath.Join(w.dir, "none")
}

// Primary and receiver are destroyed together. What the tail had covered can be
// restored, from a segment that was never finished.
func TestTailAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 16})
	w.env = append(w.env, "WALSTREAM_TAIL_INTERVAL=100ms")
	r := w.receive("--create-slot")
	w.must("backup", "--checkpoint", "fast")
	ws := write(t, w.primary, 4)
	ws.atLeast(t, 300)
	ws.stop()
	lsn := w.lsn()
	testkit.Wait(t, "the tail to reach "+lsn.String(), func() (bool, string) {
		var v statusView
		out := w.must("status", "--json")
		return decode(t, out, &v).TailLSN >= lsn, out
	})
	w.primary.Psql(t, "CREATE TABLE afterwards ()")
	w.onlyArchive(r)
	w.rescue("rescued", ws)
	if out := w.must("list", "wal"); !strings.Contains(out, "tail") {
		t.Errorf("the list shows no tail:\n%s", out)
	}
}

// With ack: archive, primary and receiver may be destroyed at any moment.
func TestAckArchive(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	w.env = append(w.env, "WALSTREAM_ACK=archive")
	r := w.receive("--create-slot")
	w.must("backup", "--checkpoint", "fast")
	ws := write(t, w.primary, 8)
	ws.atLeast(t, 200)
	r.kill()
	r = w.launch()
	ws.atLeast(t, 1500) // over several segments
	w.onlyArchive(r)
	ws.stop()
	w.rescue("rescued", ws)
}

// While the archive is away commits wait, and everybody can see why. Then they
// go on.
func TestAckArchiveWithoutArchive(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	w.env = append(w.env, "WALSTREAM_ACK=archive")
	r := w.receive("--create-slot")
	w.must("backup", "--checkpoint", "fast")
	ws := write(t, w.primary, 2)
	ws.atLeast(t, 50)
	if err := os.Chmod(w.archive, 0); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "the trouble to be seen", func() (bool, string) {
		out, _, code := w.run("status")
		return code == exitProblems && strings.Contains(out, "commits wait for the archive"), out
	})
	at := ws.count()
	time.Sleep(time.Second)
	if more := ws.count() - at; more > 2 { // each client may have heard late of one from before
		t.Errorf("%d commits were acknowledged without the archive", more)
	}
	if err := os.Chmod(w.archive, 0o750); err != nil {
		t.Fatal(err)
	}
	ws.atLeast(t, at+50)
	w.onlyArchive(r)
	ws.stop()
	w.rescue("rescued", ws)
}

// A target time behind the last commit is reached when a heartbeat proves that
// it was the last, and refused when it does not.
func TestTimeBehindTheLastCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	r := w.receive("--create-slot")
	w.must("backup", "--checkpoint", "fast")
	ws := write(t, w.primary, 2)
	ws.atLeast(t, 50)
	ws.stop()
	r.stop()
	if err := os.RemoveAll(filepath.Join(w.archive, "state")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(7 * time.Second) // heartbeats prove nothing of their last 5 seconds
	r = w.launch("--create-slot")
	quiet := time.Now().Add(-6 * time.Second)
	testkit.Wait(t, "a heartbeat", func() (bool, string) {
		names, _ := filepath.Glob(filepath.Join(w.archive, "state/receiver/walstream.json"))
		return len(names) == 1, r.output()
	})
	w.onlyArchive(r)
	dir := filepath.Join(w.dir, "later")
	_, errs, code := w.run("restore", dir, "--target-time", time.Now().Format(time.RFC3339))
	if code != exitUnreachable || exists(dir) {
		t.Errorf("a time that nobody has seen: exit code %d\n%s", code, errs)
	}
	out := w.must("restore", filepath.Join(w.dir, "quiet"), "--target-time", quiet.Format(time.RFC3339), "--target-action", "promote")
	if !strings.Contains(out, "receiver walstream") {
		t.Errorf("nothing is said about the proof:\n%s", out)
	}
	c := w.startRestored(filepath.Join(w.dir, "quiet"))
	if lost := ws.lost(t, c); len(lost) > 0 {
		t.Errorf("%d commits before the target are not there", len(lost))
	}
}

func (w *world) lsn() wal.LSN {
	w.t.Helper()
	lsn, err := wal.ParseLSN(w.primary.Psql(w.t, "SELECT pg_current_wal_flush_lsn()"))
	if err != nil {
		w.t.Fatal(err)
	}
	return lsn
}
