package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/segment"
)

// prune deletes what it has shown, while a receiver archives and a backup is
// being taken; what stays can be restored, and verify says so until something is
// damaged.
func TestPruneAndVerify(t *testing.T) {
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

	w.archived()
	if out := w.must("verify", "--full"); !strings.Contains(out, "checked  3 backups") || !strings.Contains(out, "nothing is wrong") {
		t.Error(out)
	}
	start := segment.At(1, v.Keep[0].StopLSN, 1<<20).Next() // behind the backup, before the next
	name := filepath.Join(w.archive, archive.SegmentName(start, 1<<20))
	body, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	body[len(body)/2] ^= 1
	if err := errors.Join(os.Chmod(name, 0o600), os.WriteFile(name, body, 0o600)); err != nil {
		t.Fatal(err)
	}
	out, errs, code = w.run("verify")
	if code != 3 || !strings.Contains(out, "is damaged") || !strings.Contains(out, "effect") ||
		!strings.Contains(out, " (backup "+list.Backups[2].ID+") on timeline 1 cannot be reached") || !strings.Contains(errs, "1 problem") {
		t.Errorf("verify: exit code %d\n%s%s", code, out, errs)
	}
	out, _, code = w.run("verify", "--since", "0s", "--json")
	var found verifyView
	if decode(t, out, &found); code != 0 || len(found.Problems) != 0 || found.Backups != 1 {
		t.Errorf("verify --since: exit code %d\n%s", code, out)
	}
}
