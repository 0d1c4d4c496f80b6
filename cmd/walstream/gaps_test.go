package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
)

// forgetful removes WAL with every checkpoint, unless a slot holds it.
var forgetful = testkit.Config{SegmentSizeMB: 1, Settings: []string{
	"autovacuum = off", "checkpoint_timeout = 1h", "min_wal_size = 2MB", "max_wal_size = 64MB"}}

// forget drops the slot and has the server write and remove WAL.
func (w *world) forget() {
	w.t.Helper()
	w.primary.Psql(w.t, "SELECT pg_drop_replication_slot('walstream')")
	w.primary.Psql(w.t, "CREATE TABLE IF NOT EXISTS lost (i int)")
	for range 6 {
		w.primary.Psql(w.t, "INSERT INTO lost VALUES (1)")
		w.primary.Psql(w.t, "SELECT pg_switch_wal()")
	}
	w.primary.Psql(w.t, "CHECKPOINT")
	w.primary.Psql(w.t, "CHECKPOINT")
}

// waitFor sets what commits wait for.
func (w *world) waitFor(names string) {
	w.primary.Psql(w.t, "ALTER SYSTEM SET synchronous_standby_names = '"+names+"'")
	w.primary.Psql(w.t, "SELECT pg_reload_conf()")
}

func (w *world) statusView() (*statusView, int) {
	w.t.Helper()
	out, _, code := w.run("status", "--json")
	return decode(w.t, out, &statusView{}), code
}

// WAL that the server removed while nobody had it: it is recorded, told, a
// backup is taken behind it without being asked, and what was acknowledged
// before and since can be restored.
func TestGapIsRecordedAndBackedUpBehind(t *testing.T) {
	t.Parallel()
	w := newWorld(t, forgetful)
	r := w.receive("--create-slot")
	w.must("backup", "--checkpoint", "fast")
	w.primary.Psql(t, "CREATE TABLE kept AS SELECT 1 AS i")
	w.archived()
	r.stop()
	w.waitFor("")
	w.forget()

	t.Run("on_gap: stop", func(t *testing.T) {
		w.env = append(w.env, "WALSTREAM_ON_GAP=stop")
		defer func() { w.env = nil }()
		_, stderr, code := w.run("receive", "--create-slot")
		if code != 1 || !strings.Contains(stderr, "is missing") || !strings.Contains(stderr, "WALSTREAM_ON_GAP=backup walstream receive") {
			t.Errorf("exit code %d:\n%s", code, stderr)
		}
		if gaps, _ := os.ReadDir(filepath.Join(w.archive, "gaps")); len(gaps) > 0 {
			t.Errorf("recorded: %v", gaps)
		}
	})

	w.forget()
	r = w.receive("--create-slot")
	if gaps, err := os.ReadDir(filepath.Join(w.archive, "gaps")); len(gaps) != 1 {
		t.Fatalf("streaming goes on with %d recorded gaps: %v", len(gaps), err)
	}
	if log := r.output(); !strings.Contains(log, `"level":"error"`) || !strings.Contains(log, "gap: the server had removed WAL") {
		t.Errorf("no alarm:\n%s", log)
	}
	ws := write(t, w.primary, 2)
	ws.atLeast(t, 50)
	testkit.Wait(t, "a backup behind the gap", func() (bool, string) {
		v, code := w.statusView()
		if len(v.Gaps) == 1 && !v.Gaps[0].Closed && code != 3 {
			t.Errorf("exit code %d with an open gap: %v", code, v.Problems)
		}
		return len(v.Gaps) == 1 && v.Gaps[0].Closed && v.Gaps[0].Segments > 0, strings.Join(v.Problems, "\n") + r.output()
	})
	ws.stop()
	if v, code := w.statusView(); code != 0 || v.Backup == nil || v.Backup.StartLSN < v.Gaps[0].To {
		t.Errorf("exit code %d, %+v", code, v)
	}
	w.archived()
	if list := w.must("list", "wal"); !strings.Contains(list, "  gap") || strings.Contains(list, "missing") {
		t.Errorf("list wal:\n%s", list)
	}
	testkit.Wait(t, "the slot to move past the gap", func() (bool, string) {
		v, _ := w.statusView()
		return v.Slot.RestartLSN > v.Gaps[0].To, v.Slot.RestartLSN.String() + r.output()
	})
	_, stderr, code := w.run("restore", filepath.Join(w.dir, "r"), "--backup", w.firstBackup())
	if code != 4 || !strings.Contains(stderr, "recorded gap") {
		t.Errorf("a restore across the gap: exit code %d:\n%s", code, stderr)
	}

	r.stop()
	if v, code := w.statusView(); code != 3 || len(v.Gaps) != 1 || !v.Gaps[0].Closed {
		t.Errorf("stopped: exit code %d, %+v", code, v)
	}
	w.crash()
	dir := filepath.Join(w.dir, "restored")
	w.must("restore", dir)
	c := w.startRestored(dir)
	if lost := ws.lost(t, c); len(lost) > 0 || c.Psql(t, "SELECT i FROM kept") != "1" {
		t.Errorf("lost behind the gap: %v", lost)
	}
}

func (w *world) firstBackup() string {
	w.t.Helper()
	var list struct {
		Backups []backupView `json:"backups"`
	}
	decode(w.t, w.must("list", "--json"), &list)
	return list.Backups[0].ID
}

// A spool from before the archive's end: what the server has removed since is
// in the archive. That is no gap, and the slot goes on.
func TestStaleSpool(t *testing.T) {
	t.Parallel()
	w := newWorld(t, forgetful)
	r := w.receive("--create-slot")
	w.archived()
	r.stop()
	stale := filepath.Join(w.dir, "stale")
	testkit.Run(t, "cp", "-a", w.spool, stale)
	r = w.receive()
	for range 4 {
		w.primary.Psql(t, "CREATE TABLE IF NOT EXISTS x (i int); INSERT INTO x VALUES (1)")
		w.archived()
	}
	r.stop()
	w.waitFor("")
	w.primary.Psql(t, "CHECKPOINT")
	w.primary.Psql(t, "CHECKPOINT")
	if err := os.RemoveAll(w.spool); err != nil {
		t.Fatal(err)
	}
	testkit.Run(t, "cp", "-a", stale, w.spool)
	r = w.receive()
	ws := write(t, w.primary, 2)
	ws.atLeast(t, 50)
	ws.stop()
	if v, _ := w.statusView(); v.Gaps != nil || !strings.Contains(r.output(), "the archive holds what the server has removed") {
		t.Errorf("%+v\n%s", v, r.output())
	}
	w.archived()
	slot := func() string { return w.primary.Psql(t, "SELECT restart_lsn FROM pg_replication_slots") }
	before := slot()
	w.primary.Psql(t, "INSERT INTO x VALUES (2)")
	w.archived()
	testkit.Wait(t, "the slot to move", func() (bool, string) { return slot() != before, before })
	if list := w.must("list", "wal"); strings.Contains(list, "missing") || strings.Contains(list, "gap") {
		t.Errorf("list wal:\n%s", list)
	}
	r.stop()
}
