package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
)

// prune deletes what it has shown, while a receiver archives and a backup is
// being taken, and what stays can be restored.
func TestPrune(t *testing.T) {
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1, Settings: []string{"autovacuum = off"}})
	w.receive("--create-slot")
	w.primary.Psql(t, "CREATE TABLE t (n int)")
	for range 3 {
		w.must("backup", "--checkpoint", "fast")
		w.primary.Psql(t, "INSERT INTO t SELECT generate_series(1, 20000)")
	}
	w.archived()
	_, errs, code := w.run("prune")
	if code != 2 || !strings.Contains(errs, "--keep-backups") {
		t.Errorf("prune: exit code %d\n%s", code, errs)
	}
	before := snapshot(t, w.archive)
	out := w.must("prune", "--keep-backups", "2", "--dry-run")
	if strings.Count(out, "keep ") != 2 || strings.Count(out, "delete ") != 2 || !strings.Contains(out, "recover") {
		t.Errorf("dry run:\n%s", out)
	}
	_, errs, code = w.run("prune", "--keep-backups", "2")
	if code != 2 || !strings.Contains(errs, "hint: walstream prune --keep-backups 2 --yes") {
		t.Errorf("prune without --yes: exit code %d\n%s", code, errs)
	}
	for _, path := range changes(before, snapshot(t, w.archive)) {
		if !strings.Contains(path, "/state/") && !strings.HasSuffix(path, ".tail") && !strings.Contains(path, ".tail/") {
			t.Errorf("a prune that was not agreed to changed %s", path)
		}
	}

	running := w.start("backup", "--checkpoint", "fast")
	var v pruneView
	decode(t, w.must("prune", "--keep-backups", "2", "--yes", "--json"), &v)
	if err := <-running.done; err != nil {
		t.Errorf("the backup beside it: %v\n%s", err, running.output())
	}
	if v.DryRun || len(v.Keep) != 2 || len(v.Delete) != 1 || v.WALObjects == 0 || !v.RecoverableFrom.Equal(v.Keep[1].Finished) {
		t.Errorf("%+v", v)
	}
	var list struct {
		Backups []backupView `json:"backups"`
	}
	decode(t, w.must("list", "--json"), &list)
	if len(list.Backups) != 3 || list.Backups[0].ID != v.Keep[1].ID {
		t.Errorf("left: %+v", list)
	}
	target := filepath.Join(w.dir, "restored")
	w.must("restore", target, "--backup", v.Keep[1].ID, "--target-action", "promote")
	restored := w.startRestored(target)
	if n := restored.Psql(t, "SELECT count(*) FROM t"); n != "60000" {
		t.Errorf("%s of 60000 rows", n)
	}
}
