package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/wal"
)

// ended waits for a receiver and returns its exit code.
func (r *receiving) ended() int {
	<-r.done
	return r.cmd.ProcessState.ExitCode()
}

// said waits until the receiver has logged text.
func (r *receiving) said(text string) {
	r.t.Helper()
	testkit.Wait(r.t, text, func() (bool, string) { return strings.Contains(r.output(), text), r.output() })
}

// A server that cannot be reached is tried for ever; nothing is made before it
// has said who it is, and a signal ends that at once.
func TestReceiveWaitsForServer(t *testing.T) {
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	w.primary.Stop(syscall.SIGINT)
	for _, c := range []struct {
		args []string
		sig  syscall.Signal
		code int
	}{
		{nil, syscall.SIGTERM, 0},
		{nil, syscall.SIGINT, 0},
		{[]string{"--once-until", "1/0"}, syscall.SIGTERM, 130},
	} {
		r := w.launch(c.args...)
		r.said("not streaming, trying again")
		if err := r.cmd.Process.Signal(c.sig); err != nil {
			t.Fatal(err)
		}
		if code := r.ended(); code != c.code {
			t.Errorf("%v, %v: exit code %d, want %d\n%s", c.args, c.sig, code, c.code, r.output())
		}
	}
	if exists(w.archive) || exists(w.spool) {
		t.Error("an archive or a spool was made for an unknown server")
	}
}

func TestReceiveOnceUntil(t *testing.T) {
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	if _, stderr, code := w.run("receive"); code != 1 || !strings.Contains(stderr, "hint: walstream slot create") {
		t.Errorf("without a slot: exit code %d\n%s", code, stderr)
	}
	for range 3 { // from nothing, on the spool that is there, and again
		w.primary.Psql(t, "CREATE TABLE IF NOT EXISTS t (i int); INSERT INTO t SELECT generate_series(1, 20000)")
		lsn, err := wal.ParseLSN(w.primary.Psql(t, "SELECT pg_current_wal_insert_lsn()"))
		if err != nil {
			t.Fatal(err)
		}
		w.must("receive", "--create-slot", "--once-until", lsn.String())
		out, _, code := w.run("status", "--json")
		var s statusView
		if decode(t, out, &s); s.ArchivedLSN < lsn || s.Running || code != 3 {
			t.Errorf("archived up to %s, not %s; running %v, exit code %d", s.ArchivedLSN, lsn, s.Running, code)
		}
	}
	w.must("receive", "--once-until", "0/1000") // long ago
}

// The archive is made at first use only. Later a missing one is waited for,
// and what is received meanwhile is archived once it is back.
func TestReceiveWaitsForArchive(t *testing.T) {
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	w.receive("--create-slot").stop()
	if err := os.Rename(w.archive, w.archive+".away"); err != nil {
		t.Fatal(err)
	}
	r := w.receive()
	r.said("the archive cannot be opened")
	w.primary.Psql(t, "CREATE TABLE t AS SELECT generate_series(1, 50000) i")
	want, err := wal.ParseLSN(w.primary.Psql(t, "SELECT pg_switch_wal()"))
	if err != nil {
		t.Fatal(err)
	}
	if exists(w.archive) {
		t.Error("an archive was made where the old one is missing")
	}
	out, _, code := w.run("status")
	if code != 3 || !strings.Contains(out, "PROBLEM") || !strings.Contains(out, w.archive) {
		t.Errorf("exit code %d, want 3 and a problem:\n%s", code, out)
	}
	if code, body := r.get("/readyz"); code != 503 || !strings.HasPrefix(body, "archiving fails since ") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if err := os.Rename(w.archive+".away", w.archive); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "the archive to have "+want.String(), func() (bool, string) {
		out, _, code := w.run("status", "--json") // 3 until it is back
		var s statusView
		return decode(t, out, &s).ArchivedLSN >= want && code == 0, out
	})
	if got := r.scrape(); got["walstream_archive_failures_total"] == 0 || got["walstream_archive_last_failure_timestamp_seconds"] == 0 {
		t.Errorf("the archive was away: %v", got)
	}
	r.stop()
}

func TestStatusListSlotAndMark(t *testing.T) {
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	if _, stderr, code := w.run("slot", "show"); code != 3 || !strings.Contains(stderr, "hint: walstream slot create") {
		t.Errorf("slot show: exit code %d\n%s", code, stderr)
	}
	if out := w.must("slot", "create"); out != "slot walstream: created\n" {
		t.Errorf("slot create: %s", out)
	}
	if out := w.must("slot", "create", "--json"); !strings.Contains(out, `"created": false`) {
		t.Errorf("slot create again: %s", out)
	}
	r := w.receive() // needs no --create-slot now
	if out := w.must("list"); !strings.HasPrefix(out, "no backups") {
		t.Errorf("list: %s", out)
	}
	w.must("backup", "--checkpoint", "fast", "--label", "the first", "--max-rate", "1GiB")
	point := w.must("mark", "before it")
	if _, stderr, code := w.run("mark", "before it"); code != 1 || !strings.Contains(stderr, "exists already") || !strings.Contains(stderr, "walstream mark 'before it-2'") {
		t.Errorf("the same mark again: exit code %d\n%s", code, stderr)
	}
	w.archived()
	objects, err := filepath.Glob(filepath.Join(w.archive, "points", "*-before_it.json"))
	if err != nil || len(objects) != 1 {
		t.Errorf("%s left %v, %v", point, objects, err)
	}

	var list struct{ Backups []backupView }
	decode(t, w.must("list", "backups", "--json"), &list)
	if len(list.Backups) != 1 || list.Backups[0].Label != "the first" || list.Backups[0].PlainBytes == 0 {
		t.Errorf("list --json: %+v", list)
	}
	var walList struct{ WAL []walRun }
	decode(t, w.must("list", "wal", "--json"), &walList)
	if len(walList.WAL) != 1 || walList.WAL[0].State != "complete" || walList.WAL[0].From > list.Backups[0].StartLSN {
		t.Errorf("list wal: %+v", walList)
	}
	if out := w.must("list", "timelines"); !strings.Contains(out, "TL  PARENT") || !strings.Contains(out, "\n1") {
		t.Errorf("list timelines: %s", out)
	}
	w.statusOfRunning(list.Backups[0].ID)
	r.stop()

	out, _, code := w.run("status")
	if code != 3 || !strings.Contains(out, "no receiver is running") || !strings.Contains(out, list.Backups[0].ID) {
		t.Errorf("status without a receiver: exit code %d\n%s", code, out)
	}
	w.must("slot", "drop")
	if _, _, code := w.run("slot", "drop"); code != 1 {
		t.Errorf("slot drop again: exit code %d", code)
	}
}

func (w *world) statusOfRunning(backup string) {
	w.t.Helper()
	var s statusView
	decode(w.t, w.must("status", "--json"), &s)
	want, err := wal.ParseLSN(w.primary.Psql(w.t, "SELECT restart_lsn FROM pg_replication_slots"))
	if err != nil {
		w.t.Fatal(err)
	}
	if !s.Running || s.State != "streaming" || s.Timeline != 1 || s.Spool.Dir != w.spool || s.Archive.Location != w.archive {
		w.t.Errorf("status: %+v", s)
	}
	if s.ArchivedLSN > s.Flushed || s.Slot == nil || want > s.ArchivedLSN {
		w.t.Errorf("archived %s, flushed %s, slot at %s", s.ArchivedLSN, s.Flushed, want)
	}
	if s.Backup == nil || s.Backup.ID != backup {
		w.t.Errorf("last backup %+v, want %s", s.Backup, backup)
	}
	if out := w.must("status"); !strings.Contains(out, "state     streaming for ") || strings.Contains(out, "PROBLEM") {
		w.t.Errorf("status: %s", out)
	}
}

// A backup that is interrupted says so, and is none.
func TestInterruptedBackupIsNone(t *testing.T) {
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	w.receive("--create-slot")
	r := w.start("backup", "--checkpoint", "fast", "--max-rate", "1MiB")
	r.said("backup begins")
	if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := r.ended(); code != 130 || !strings.Contains(r.output(), "walstream: interrupted") {
		t.Errorf("exit code %d\n%s", code, r.output())
	}
	if out := w.must("list"); !strings.HasPrefix(out, "no backups") {
		t.Errorf("list: %s", out)
	}
}
