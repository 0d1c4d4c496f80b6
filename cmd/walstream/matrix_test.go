//go:build matrix

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/walstream/walstream/internal/term"
	"github.com/walstream/walstream/internal/testkit"
)

// cell is one cluster of the matrix.
type cell struct {
	major     int
	segmentMB int
	checksums bool
}

// cells holds each major version, each segment size on two of them, and both
// wire formats of base backups with page checksums and without.
func cells(t *testing.T) []cell {
	majors := testkit.Majors(t)
	if len(majors) == 2 { // the short form
		return []cell{{majors[0], 1, true}, {majors[1], 1, false}}
	}
	return []cell{{13, 64, false}, {14, 1, true}, {15, 16, false}, {16, 64, true}, {17, 1, false}, {18, 16, true}}
}

// TestMatrix takes clusters of every supported major version the whole way:
// stream, back up, write, restore to every kind of target, lose the primary,
// go on from the restored cluster.
func TestMatrix(t *testing.T) {
	var ran bytes.Buffer
	table := term.NewTable(&ran, "POSTGRESQL", "SEGMENTS", "CHECKSUMS", "BACKUPS", "TORN RECORDS", "RESTORES", "INDEXES CHECKED", "TABLES CHECKED")
	for _, c := range cells(t) {
		t.Run(fmt.Sprint(c.major), func(t *testing.T) {
			r := &matrixRun{world: newWorld(t, testkit.Config{
				Major: c.major, SegmentSizeMB: c.segmentMB, Checksums: c.checksums, Settings: []string{"wal_level = logical", "wal_buffers = 64kB"},
			})}
			settings := "SELECT current_setting('server_version_num')::int / 10000, current_setting('wal_segment_size'), current_setting('data_checksums')"
			server := r.primary.Psql(t, settings)
			if want := fmt.Sprintf("%d|%dMB|%s", c.major, c.segmentMB, map[bool]string{true: "on", false: "off"}[c.checksums]); server != want {
				t.Fatalf("the server is %s, not %s", server, want)
			}
			r.fill()
			r.targets()
			r.replica()
			r.disaster()
			if got := r.primary.Psql(t, settings); got != server {
				t.Errorf("the restored server is %s, not %s", got, server)
			}
			table.Row(append(strings.Split(server, "|"), fmt.Sprint(r.backups), fmt.Sprint(r.torn), fmt.Sprint(r.restores), fmt.Sprint(r.indexes), fmt.Sprint(r.tables))...)
		})
	}
	if err := table.Flush(); err != nil {
		t.Error(err)
	}
	t.Logf("ran:\n%s", ran.String())
}

// matrixRun counts what it really did.
type matrixRun struct {
	*world
	receiver                           *receiving
	space                              string // where the primary has its tablespace
	backups, restores, indexes, tables int
	torn                               int // records that a kill cut off
}

// fill makes what a backup has to hold, some of it in a tablespace.
func (r *matrixRun) fill() {
	r.t.Helper()
	r.space = filepath.Join(r.dir, `a "space" here`)
	if err := os.Mkdir(r.space, 0o700); err != nil {
		r.t.Fatal(err)
	}
	testkit.Own(r.t, r.space)
	for _, sql := range []string{
		"CREATE EXTENSION amcheck",
		"CREATE TABLESPACE space LOCATION '" + r.space + "'",
		"CREATE TABLE spaced TABLESPACE space AS SELECT i, md5(i::text) m, repeat(md5(i::text), 100) long FROM generate_series(1, 5000) i",
		"CREATE INDEX ON spaced (m) TABLESPACE space",
		"CREATE TABLE plain (i int PRIMARY KEY, m text UNIQUE)",
	} {
		r.primary.Psql(r.t, sql)
	}
	r.receiver = r.receive("--create-slot")
	r.history(2)
	r.backup()
}

func (r *matrixRun) backup() {
	r.t.Helper()
	r.must("backup", "--checkpoint", "fast")
	r.backups++
}

// change commits in every way there is.
func (r *matrixRun) change() {
	r.t.Helper()
	for _, sql := range []string{
		"UPDATE spaced SET m = 'x' || m WHERE i % 7 = 0",
		`DO $$ BEGIN FOR i IN 1..200 LOOP
			BEGIN INSERT INTO plain VALUES (i, md5(i::text)); IF i % 3 = 0 THEN RAISE division_by_zero; END IF;
			EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$`,
		"BEGIN; INSERT INTO plain VALUES (1001, 'prepared'); PREPARE TRANSACTION 'one'",
		"COMMIT PREPARED 'one'",
		"BEGIN; INSERT INTO plain VALUES (1002, 'undone'); PREPARE TRANSACTION 'two'",
		"ROLLBACK PREPARED 'two'",
		"SELECT pg_switch_wal()",
		"SELECT pg_logical_emit_message(true, 'over several segments', repeat('x', 3000000))",
		"VACUUM FULL plain", "TRUNCATE steps",
	} {
		r.primary.Psql(r.t, sql)
	}
}

// tear kills the primary while it writes a long record, of which the receiver
// may have a part. Recovery declares it void, and the stream goes on.
func (r *matrixRun) tear() {
	t := r.t
	t.Helper()
	begun := r.primary.Psql(t, "SELECT pg_current_wal_insert_lsn()")
	done := make(chan error, 1)
	go func() {
		_, err := r.primary.Query("SELECT pg_logical_emit_message(false, 'torn', repeat('t', 100000000))")
		done <- err
	}()
	testkit.Wait(t, "a part of the record", func() (bool, string) {
		out, err := r.primary.Query("SELECT pg_current_wal_lsn() - '" + begun + "' > 1000000")
		return out == "t", fmt.Sprint(err)
	})
	r.primary.Stop(syscall.SIGKILL)
	if err := <-done; err != nil {
		r.torn++
	}
	r.primary.Start()
	testkit.Wait(t, "walstream to be synchronous again", func() (bool, string) {
		state, err := r.primary.Query("SELECT sync_state FROM pg_stat_replication WHERE application_name = 'walstream'")
		return state == "sync", fmt.Sprintf("%s %v\n%s", state, err, r.receiver.output())
	})
}

// targets restores to each kind of target.
func (r *matrixRun) targets() {
	r.t.Helper()
	r.change()
	for r.torn == 0 { // the server may be faster than its death
		r.tear()
	}
	steps := r.history(4)
	r.must("mark", "here it's")
	late := r.history(3)
	r.archived()
	last := late[2].row
	r.backup()
	for _, c := range everyKind(steps, "here it's", last, last) {
		restored := r.restore(c.name, c.args...)
		if got := restored.Psql(r.t, "SELECT max(n) FROM steps"); got != c.want {
			r.t.Errorf("restored to %s: the highest row is %s, want %s", c.name, got, c.want)
		}
		if got := restored.Psql(r.t, "SELECT count(*) || ' ' || bool_or(m = 'prepared') || ' ' || bool_or(m = 'undone') FROM plain"); got != "135 true false" {
			r.t.Errorf("restored to %s: %s, want 135 rows, the prepared one among them", c.name, got)
		}
		restored.Stop(syscall.SIGINT)
		if c.name == "end" {
			r.otherMajor(restored)
		}
	}
}

// replica seeds a standby, and lets restore start another cluster itself.
func (r *matrixRun) replica() {
	r.t.Helper()
	moved := func(name string) string { return r.space + "=" + filepath.Join(r.dir, name+"-space") }
	c := r.seed("replica", nil, "--tablespace-map", moved("replica"), "--primary-conninfo", r.primary.Conninfo())
	streams(r.t, r.primary, "walreceiver")
	c.CaughtUp(r.primary)
	c.Stop(syscall.SIGINT)
	for _, action := range []string{"pause", "promote"} {
		dir := filepath.Join(r.dir, action)
		r.servers(dir)
		out := r.must("restore", dir, "--tablespace-map", moved(action), "--target-immediate", "--target-action", action, "--wait", "--pg-bin", r.primary.Bin)
		if !strings.Contains(out, "as planned") {
			r.t.Errorf("%s:\n%s", action, out)
		}
	}
}

// refusesMajor is what PostgreSQL says of a cluster of another major version: by
// its number, or if it stumbles over a new setting before, by that.
var refusesMajor = regexp.MustCompile(`FATAL:  (database files are incompatible with server|configuration file ".*" contains errors)`)

// otherMajor starts a restored cluster with the machine's own PostgreSQL, which
// refuses one of another major version and leaves it as it is.
func (r *matrixRun) otherMajor(c *testkit.Cluster) {
	r.t.Helper()
	bin, err := testkit.Command(r.t, "pg_config", "--bindir").Output()
	if err != nil {
		r.t.Fatal(err)
	}
	own := testkit.Command(r.t, filepath.Join(strings.TrimSpace(string(bin)), "postgres"), "-D", c.DataDir)
	if strings.HasPrefix(own.Path, c.Bin) {
		return
	}
	before := snapshot(r.t, c.DataDir)
	said, err := own.CombinedOutput()
	if err == nil || !refusesMajor.Match(said) {
		r.t.Errorf("another PostgreSQL than %d says %v\n%s", c.Major, err, said)
	}
	if changed := changes(before, snapshot(r.t, c.DataDir)); len(changed) > 0 {
		r.t.Errorf("another PostgreSQL than %d changed %q", c.Major, changed)
	}
	c.Start()
	c.Stop(syscall.SIGINT)
}

// restore is world.restore with the tablespace moved, and checks what came back.
func (r *matrixRun) restore(name string, args ...string) *testkit.Cluster {
	r.t.Helper()
	dir := filepath.Join(r.dir, name)
	c := r.world.restore(dir, append([]string{"--tablespace-map", r.space + "=" + dir + "-space"}, args...)...)
	r.restores++
	r.check(c)
	return c
}

// check looks at every page of the cluster, and at every row of the tablespace.
func (r *matrixRun) check(c *testkit.Cluster) {
	r.t.Helper()
	if got := c.Psql(r.t, "SELECT count(*), sum(i), count(*) FILTER (WHERE m LIKE 'x%'), sum(length(long)) FROM spaced"); got != "5000|12502500|714|16000000" {
		r.t.Errorf("the table in the tablespace has %s", got)
	}
	count := func(n *int, sql string) {
		var found int
		if _, err := fmt.Sscan(c.Psql(r.t, sql), &found); err != nil || found < 50 {
			r.t.Errorf("amcheck: %d relations, %v", found, err)
		}
		*n += found
	}
	count(&r.indexes, `SELECT count(bt_index_check(indexrelid, true)) FROM pg_index JOIN pg_class c ON c.oid = indexrelid
		JOIN pg_am a ON a.oid = relam WHERE amname = 'btree' AND indisvalid AND indisready`)
	if c.Major >= 14 {
		if got := c.Psql(r.t, `SELECT c.oid::regclass, v FROM pg_class c, verify_heapam(c.oid) v WHERE relkind IN ('r', 't', 'm')`); got != "" {
			r.t.Errorf("verify_heapam: %s", got)
		}
		count(&r.tables, "SELECT count(*) FROM pg_class WHERE relkind IN ('r', 't', 'm')")
	}
}

// disaster loses the primary under load, and goes on from what is restored: on
// a new timeline, to which the receiver follows, and with a backup of its own.
func (r *matrixRun) disaster() {
	t := r.t
	t.Helper()
	ws := write(t, r.primary, 4)
	ws.atLeast(t, 300)
	r.crash()
	ws.stop()
	rescued := r.restore("rescued")
	if lost := ws.lost(t, rescued); len(lost) > 0 {
		t.Errorf("%d of %d acknowledged commits lost: %v", len(lost), ws.count(), lost)
	}
	r.receiver.stop()
	first := r.space
	r.primary, r.space = rescued, filepath.Join(r.dir, "rescued-space")
	r.receiver = r.receive("--create-slot")
	before := r.history(2)
	r.backup()
	r.history(2)
	r.archived()
	r.restore("second").Stop(syscall.SIGINT)
	// Across the fork: from the backup of the first timeline.
	r.space = first
	old := r.restore("across", "--target-xid", before[0].xid)
	if got := old.Psql(t, "SELECT max(n) FROM steps"); got != before[0].row {
		t.Errorf("restored across the fork: the highest row is %s, want %s", got, before[0].row)
	}
}
