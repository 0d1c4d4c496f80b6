package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/recovery"
)

// What a person is told on a real server: what is wrong with what, and the
// command that mends it.
func TestWhatIsSaid(t *testing.T) {
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	says := func(code int, want, hint string, args ...string) {
		t.Helper()
		_, stderr, got := w.run(args...)
		if got != code || !strings.Contains(stderr, want) || hint != "" && !strings.Contains(stderr, "hint: "+hint) {
			t.Errorf("walstream %s: exit code %d, want %d with %q and hint %q:\n%s", strings.Join(args, " "), got, code, want, hint, stderr)
		}
	}

	w.receive("--create-slot")
	says(3, "nothing is being received", "walstream receive", "status", "--spool", filepath.Join(w.dir, "elsewhere"))
	if out := w.must("list"); !strings.Contains(out, "no backups") {
		t.Error(out)
	}
	w.must("backup", "--checkpoint", "fast")
	w.primary.Psql(t, "CREATE ROLE plain LOGIN REPLICATION")
	says(1, `restore point "p": the role may not call pg_create_restore_point`+"\n",
		`GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO "plain";`, "mark", "p", "-d", strings.ReplaceAll(w.primary.Conninfo(), "user=postgres", "user=plain"))
	says(1, "write to /etc: permission denied", "restore into another directory", "restore", "/etc/walstream-test", "--dry-run")
	says(1, "write to /etc: permission denied", "restore into another directory", "restore", "/etc/walstream-test")
}

// list and status tell until when the cluster can be restored, the spool
// included.
func TestRecoverableIsShown(t *testing.T) {
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	w.receive("--create-slot")
	w.must("backup", "--checkpoint", "fast")
	// As the standby is synchronous, the commit is in the spool.
	w.primary.Psql(t, "CREATE TABLE t (n int)")
	xid := w.primary.Psql(t, "INSERT INTO t VALUES (1) RETURNING xmin")
	for _, args := range [][]string{{"list", "--json"}, {"status", "--json"}} {
		var got struct {
			Recoverable []recovery.Window `json:"recoverable"`
		}
		decode(t, w.must(args...), &got)
		if n := len(got.Recoverable); n != 1 || !got.Recoverable[0].Open || got.Recoverable[0].Backups != 1 {
			t.Fatalf("%v: %+v", args, got)
		}
		// The plan that stops at this transaction knows its time.
		var plan struct {
			Before struct {
				XID  uint32 `json:"xid"`
				Time string `json:"time"`
			} `json:"before"`
		}
		decode(t, w.must("restore", filepath.Join(w.dir, "r"), "--target-xid", xid, "--dry-run", "--json"), &plan)
		if to := got.Recoverable[0].To.Format("2006-01-02T15:04:05.999999Z"); to != plan.Before.Time || fmt.Sprint(plan.Before.XID) != xid {
			t.Errorf("%v: up to %s, transaction %s committed at %s", args, to, xid, plan.Before.Time)
		}
	}
	if out := w.must("list"); !strings.Contains(out, "\nrecoverable: 20") || !strings.HasSuffix(out, " UTC\n") {
		t.Error(out)
	}
	if out := w.must("status"); !strings.Contains(out, "\nrecover   20") || !strings.Contains(out, ", last commit ") {
		t.Error(out)
	}
}
