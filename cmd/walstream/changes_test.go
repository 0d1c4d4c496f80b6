package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/recovery"
)

// What was changed after the backup and what replay cannot do without: a
// tablespace, whose directory is the living primary's on the same machine, and
// a setting that recovery must not undercut.
func TestRestoreAcrossChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	w.receive("--create-slot")
	w.must("backup", "--checkpoint", "fast")
	space := filepath.Join(testkit.Dir(t), "space")
	if err := os.Mkdir(space, 0o700); err != nil {
		t.Fatal(err)
	}
	testkit.Own(t, space)
	w.primary.Psql(t, "CREATE TABLESPACE later LOCATION '"+space+"'")
	w.primary.Psql(t, "SELECT pg_switch_wal()")
	w.primary.Psql(t, "CREATE TABLE there TABLESPACE later AS SELECT 1 AS one")
	w.primary.Psql(t, "ALTER SYSTEM SET max_connections = 150")
	w.primary.Psql(t, "ALTER SYSTEM SET max_locks_per_transaction = 100")
	w.primary.Stop(syscall.SIGINT)
	w.primary.Start()
	w.primary.Psql(t, "INSERT INTO there VALUES (2)")
	w.archived()

	dir := filepath.Join(w.dir, "again")
	out, errs, code := w.run("restore", dir, "--dry-run")
	if code != 1 || !strings.Contains(out, "replay makes a tablespace in "+space) || !strings.Contains(errs, "and that holds PG_15_") {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
	if _, errs, code = w.run("restore", dir); code != 1 || exists(dir) || exists(recovery.SideDir(dir)) {
		t.Errorf("exit code %d\n%s", code, errs)
	}
	w.must("restore", filepath.Join(w.dir, "before"), "--target-immediate")

	w.primary.Stop(syscall.SIGINT)
	if err := os.Rename(space, space+".lost"); err != nil {
		t.Fatal(err)
	}
	if _, errs, code = w.run("restore", dir); code != 1 || !strings.Contains(errs, "hint: make the directory: install -d -m 700 -o ") {
		t.Errorf("exit code %d\n%s", code, errs)
	}
	if err := os.Mkdir(space, 0o700); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if _, errs, code = w.run("restore", dir); code != 1 || !strings.Contains(errs, "hint: chown ") {
			t.Errorf("exit code %d\n%s", code, errs)
		}
	}
	testkit.Own(t, space)
	t.Cleanup(func() {
		testkit.Command(t, filepath.Join(w.primary.Bin, "pg_ctl"), "-D", dir, "-m", "immediate", "stop").Run()
	})
	w.must("restore", dir, "--wait")
	c := &testkit.Cluster{SocketDir: recovery.SideDir(dir), Port: socketPort}
	if got := c.Psql(t, "SELECT sum(one) FROM there"); got != "3" {
		t.Errorf("the sum is %s", got)
	}
	if got := c.Psql(t, "SELECT current_setting('max_connections'), current_setting('max_locks_per_transaction')"); got != "150|100" {
		t.Errorf("the settings are %s", got)
	}
}
