package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
)

// seed makes a standby out of the archive and starts it.
func (w *world) seed(name string, settings []string, args ...string) *testkit.Cluster {
	w.t.Helper()
	dir := filepath.Join(w.dir, name)
	out := w.must(append([]string{"restore", dir, "--standby"}, args...)...)
	if said := strings.Contains(out, "it follows the archive only"); said == strings.Contains(quoted(args...), "--primary-conninfo") {
		w.t.Errorf("a standby with %q:\n%s", args, out)
	}
	c := testkit.Adopt(w.t, dir)
	c.Configure(settings...)
	c.Start()
	return c
}

// streams waits until c is streamed to, and returns under which names.
func streams(t *testing.T, c *testkit.Cluster, names ...string) {
	t.Helper()
	testkit.Wait(t, "standbys to stream", func() (bool, string) {
		out, err := c.Query("SELECT application_name FROM pg_stat_replication WHERE state = 'streaming' AND application_name <> 'walstream' ORDER BY 1")
		return out == strings.Join(names, "\n"), fmt.Sprint(out, err, "\n", c.Log())
	})
}

// A standby that was seeded from the archive streams without a base backup of
// the primary, which has not even the WAL since the backup any more. Another
// one streams from that, and one follows the archive alone. What only the receiver has when the primary is lost,
// the standby gets when it is promoted. Then a standby takes the place of the
// lost primary, on the new timeline, from a backup of a standby.
func TestSeedStandby(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1, Settings: []string{"log_replication_commands = on", "max_wal_size = 2MB", "autovacuum = off", "wal_keep_size = 0"}})
	r := w.receive("--create-slot")
	w.primary.Psql(t, "CREATE TABLE t (n serial)")
	w.primary.Psql(t, "CREATE ROLE replica LOGIN REPLICATION; SELECT pg_create_physical_replication_slot('seeded')")
	w.must("backup", "--checkpoint", "fast")
	first := w.primary.Psql(t, "SELECT pg_walfile_name(pg_current_wal_lsn())")
	for range 4 {
		w.primary.Psql(t, "INSERT INTO t SELECT FROM generate_series(1, 25)")
		w.archived()
		w.primary.Psql(t, "CHECKPOINT")
	}
	testkit.Wait(t, "the primary to remove WAL", func() (bool, string) {
		w.primary.Psql(t, "CHECKPOINT")
		oldest := w.primary.Psql(t, "SELECT min(name) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'")
		return oldest > first, oldest
	})
	backups := func(c *testkit.Cluster) int { return strings.Count(c.Log(), "BASE_BACKUP") }
	taken := backups(w.primary)

	a := w.seed("a", []string{"wal_retrieve_retry_interval = '1h'"}, "--on-error", "fatal", "--slot", "seeded",
		"--primary-conninfo", "host="+w.primary.SocketDir+` port=5432 user=replica application_name='it\'s 100%f'`)
	streams(t, w.primary, "it's 100%f")
	b := w.seed("b", nil, "--primary-conninfo", a.Conninfo()+" application_name=b")
	streams(t, a, "b")
	b.CaughtUp(w.primary)
	alone := w.seed("alone", []string{"wal_retrieve_retry_interval = '100ms'"})
	alone.CaughtUp(w.primary)
	if n := backups(w.primary); taken == 0 || n != taken || backups(a) != 0 {
		t.Errorf("%d base backups of the primary became %d, of the standby there are %d", taken, n, backups(a))
	}
	if got := a.Psql(t, "SELECT current_setting('primary_slot_name') || ' ' || current_setting('recovery_target_timeline') || ' ' || current_setting('synchronous_standby_names')"); got != "seeded latest walstream" {
		t.Errorf("the standby has %s", got)
	}

	// A backup of a standby, for the end.
	copied := filepath.Join(w.dir, "copied", "base")
	testkit.Run(t, "mkdir", filepath.Dir(copied))
	testkit.Run(t, filepath.Join(a.Bin, "pg_basebackup"), "-d", a.Conninfo(), "-D", copied, "-X", "none", "-c", "fast")
	w.archived()
	w.must("import", filepath.Dir(copied))
	var list struct{ Backups []backupView }
	imported := decode(t, w.must("list", "--json"), &list).Backups[1].ID

	// It is cut off, and the primary lost.
	w.primary.Allow("local all postgres trust", "local replication postgres trust")
	w.primary.Psql(t, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'seeded'")
	testkit.Wait(t, "the standby to be refused", func() (bool, string) { return strings.Contains(a.Log(), "no pg_hba.conf entry"), a.Log() })
	w.primary.Psql(t, "INSERT INTO t SELECT FROM generate_series(1, 5)")
	w.primary.Stop(syscall.SIGKILL)
	if rows := a.Psql(t, "SELECT count(*) FROM t"); rows != "100" {
		t.Errorf("%s rows on the standby that is cut off", rows)
	}
	if tli := a.Promote(); tli != "2" {
		t.Errorf("timeline %s", tli)
	}
	if rows := a.Psql(t, "SELECT count(*) FROM t"); rows != "105" {
		t.Errorf("%s of 105 acknowledged rows after the promotion", rows)
	}
	r.kill()
	w.dbname, w.primary = a.Conninfo(), a
	w.receive("--create-slot")
	a.Psql(t, "INSERT INTO t SELECT FROM generate_series(1, 5)")
	w.archived()
	b.CaughtUp(a)
	alone.CaughtUp(a)

	c := w.seed("c", nil, "--backup", imported, "--primary-conninfo", a.Conninfo()+" application_name=c")
	streams(t, a, "b", "c")
	c.CaughtUp(a)
	if rows := c.Psql(t, "SELECT count(*) FROM t"); rows != "110" {
		t.Errorf("%s rows on the standby in place of the old primary", rows)
	}
}
