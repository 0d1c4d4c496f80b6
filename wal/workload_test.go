package wal_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/wal"
)

// workload makes WAL with every kind of record that the package looks into,
// and many records across page and segment borders.
func workload(t *testing.T, c *testkit.Cluster) {
	t.Helper()
	const manySubxacts = `DO $$ BEGIN FOR i IN 1..3000 LOOP
		BEGIN INSERT INTO small VALUES (i); EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$;`
	for _, sql := range []string{
		"CREATE TABLE small (i int)",
		"CREATE TABLE big AS SELECT i, repeat(md5(i::text), 40) s FROM generate_series(1, 2000) i",
		"CREATE INDEX ON big (s)",
		"SELECT pg_create_restore_point('before the checkpoint')",
		"CHECKPOINT",
		"UPDATE big SET s = s || 'x' WHERE i % 10 = 0", // full page images
		"SELECT pg_switch_wal()",
		"SELECT pg_create_restore_point('" + strings.Repeat("n", 63) + "')",
		"BEGIN; INSERT INTO small VALUES (1); SAVEPOINT a; INSERT INTO small VALUES (2); ROLLBACK TO a; INSERT INTO small VALUES (3); COMMIT",
		"BEGIN; INSERT INTO small VALUES (4); ROLLBACK",
		"BEGIN;" + manySubxacts + "COMMIT",
		"BEGIN;" + manySubxacts + "ROLLBACK",
		"DO $$ BEGIN FOR i IN 1..300 LOOP EXECUTE 'CREATE TABLE d' || i || ' (i int primary key)'; END LOOP; END $$",
		"BEGIN; INSERT INTO small VALUES (5); PREPARE TRANSACTION 'plain'",
		"COMMIT PREPARED 'plain'",
		"BEGIN;" + manySubxacts + "DROP TABLE d1, d2, d3; PREPARE TRANSACTION 'large'",
		"COMMIT PREPARED 'large'",
		"BEGIN;" + manySubxacts + "PREPARE TRANSACTION 'undone'",
		"ROLLBACK PREPARED 'undone'",
		"DO $$ BEGIN FOR i IN 4..300 LOOP EXECUTE 'DROP TABLE d' || i; END LOOP; END $$",
		"TRUNCATE small",
		"VACUUM FULL big",
		"SELECT pg_logical_emit_message(false, 'long', repeat('x', 3500000))",
		"SELECT pg_logical_emit_message(true, 'longer', repeat('y', 2200000))",
		"SELECT pg_replication_origin_create('origin')",
		"SELECT pg_replication_origin_session_setup('origin'); BEGIN; INSERT INTO small VALUES (6); SELECT pg_replication_origin_xact_setup('0/ABCDEF', '2020-02-02 02:02:02'); COMMIT",
		backup(c.Major),
		"CREATE TABLESPACE far LOCATION '" + tablespace(t) + "'",
		"DROP TABLESPACE far",
		"SELECT pg_switch_wal()",
		"SELECT pg_switch_wal()", // nothing to switch
		"INSERT INTO small SELECT generate_series(1, 3000)",
	} {
		c.Psql(t, sql)
	}
	for range 40 { // commits at every place of pages
		c.Psql(t, "INSERT INTO small VALUES (7); SELECT pg_logical_emit_message(false, 'fill', repeat('z', (random() * 30000)::int))")
	}
}

// tablespace is a directory with a path so long that the record says its length
// in more than a byte.
func tablespace(t *testing.T) string {
	t.Helper()
	dir := testkit.Dir(t)
	path := filepath.Join(dir, strings.Repeat("a", 120), strings.Repeat("b", 120))
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	testkit.Own(t, dir)
	return path
}

// backup makes the record that ends a base backup.
func backup(major int) string {
	if major < 15 {
		return "SELECT pg_start_backup('backup', true, false); SELECT pg_stop_backup(false, false)"
	}
	return "SELECT pg_backup_start('backup', true); SELECT pg_backup_stop(false)"
}

// tearRecord lets the server crash in the midst of a record and lose the later
// part of it, so that recovery writes an OVERWRITE_CONTRECORD.
// It returns the end of the last record that survived.
func tearRecord(t *testing.T, c *testkit.Cluster) wal.LSN {
	t.Helper()
	c.Psql(t, "SELECT pg_switch_wal()")
	c.Psql(t, "INSERT INTO small VALUES (8)")
	survived, begun, _ := strings.Cut(c.Psql(t, "SELECT l, pg_walfile_name(l) FROM pg_current_wal_insert_lsn() l"), "|")
	c.Psql(t, "SELECT pg_logical_emit_message(true, 'torn', repeat('t', 2500000))")
	c.Psql(t, "SELECT pg_switch_wal()")
	c.Stop(syscall.SIGQUIT)
	names, err := filepath.Glob(filepath.Join(c.DataDir, "pg_wal", "0000000100000000????????"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if filepath.Base(name) > begun {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.Start()
	return lsn(t, survived)
}

// promote ends the current timeline and begins the next.
func promote(t *testing.T, c *testkit.Cluster) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(c.DataDir, "standby.signal"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	testkit.Own(t, c.DataDir)
	c.Configure("restore_command = 'false'")
	c.Start()
	c.Psql(t, "SELECT pg_promote()")
	testkit.Wait(t, "the end of recovery", func() (bool, string) {
		out, err := c.Query("SELECT pg_is_in_recovery()")
		return err == nil && out == "f", out
	})
}
