package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/wal"
)

// Behind a gap the receiver ends as elsewhere: at a signal, whatever the backup
// does, and with --once-until when what there is before the position is
// archived and the gap recorded. It waits neither for the backup nor for more
// WAL of an idle server.
func TestStopBehindGap(t *testing.T) {
	t.Parallel()
	w := newWorld(t, forgetful)
	r := w.receive("--create-slot")
	w.archived()
	r.stop()
	w.waitFor("")
	backups := filepath.Join(w.archive, "backups")
	if err := os.Mkdir(backups, 0o755); err != nil {
		t.Fatal(err)
	}
	testkit.Own(t, backups)
	for name, c := range map[string]struct {
		until string
		mode  os.FileMode // of the backups' directory
	}{
		"within a segment":     {"SELECT pg_current_wal_lsn() FROM txid_current()", 0o755},
		"within it, no backup": {"SELECT pg_current_wal_lsn() FROM txid_current()", 0o555},
		"the end":              {"SELECT pg_current_wal_lsn()", 0o755},
		"the end, idle":        {"SELECT pg_current_wal_lsn()", 0o555}, // a backup writes WAL
		"in the gap, idle":     {"SELECT pg_current_wal_lsn() - 3 * 1048576", 0o555},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			w.forget()
			w.primary.Psql(t, "SELECT pg_switch_wal()")
			until, err := wal.ParseLSN(w.primary.Psql(t, c.until))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(backups, c.mode); err != nil {
				t.Fatal(err)
			}
			w.must("receive", "--create-slot", "--once-until", until.String())
			if v, _ := w.statusView(); v.ArchivedLSN < until {
				t.Errorf("archived up to %s, not %s", v.ArchivedLSN, until)
			}
		})
	}
	if err := os.Chmod(backups, 0o555); err != nil {
		t.Fatal(err)
	}
	for _, moment := range []string{"no base backup behind a gap yet", "backup begins", "waiting for its WAL"} {
		w.forget()
		r := w.launch("--create-slot")
		r.said(moment)
		r.stop()
		if err := os.Chmod(backups, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}
