//go:build matrix

package wal_test

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/wal"
)

// TestMatrix reads WAL of real servers of each major version and compares it
// with what the server itself says: pg_walinspect record for record where there
// is one, otherwise the fate of every transaction.
func TestMatrix(t *testing.T) {
	for _, major := range testkit.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) { againstServer(t, major) })
	}
}

func againstServer(t *testing.T, major int) {
	c := testkit.Start(t, testkit.Config{Major: major, SegmentSizeMB: 1, Settings: []string{
		"wal_level = logical", "wal_keep_size = 4GB", "max_wal_size = 4GB", "autovacuum = off",
		"max_locks_per_transaction = 256", "synchronous_commit = off", "track_commit_timestamp = on",
		"wal_buffers = 64kB", // a long record is written before it is complete
	}})
	first := c.Psql(t, "SELECT txid_current()")
	workload(t, c)
	torn, killed := tearRecord(t, c), killInRecord(t, c)
	c.Psql(t, "CREATE TABLE last_of_one (i int)")
	if major >= 15 {
		c.Psql(t, "CREATE EXTENSION pg_walinspect")
	}
	one, oneGot := inspect(t, c, 1)
	checkKinds(t, oneGot, "CHECKPOINT_ONLINE", "CHECKPOINT_SHUTDOWN", "SWITCH", "BACKUP_END", "PARAMETER_CHANGE", "RESTORE_POINT")
	for _, lsn := range []wal.LSN{torn, killed} {
		if !(&stretch{want: oneGot}).voids(lsn) {
			t.Errorf("weak test: no OVERWRITE_CONTRECORD behind %s", lsn)
		}
	}
	checkFates(t, c, oneGot, first)
	c.Stop(syscall.SIGINT)
	promote(t, c)
	c.Psql(t, "CREATE TABLE first_of_two AS SELECT generate_series(1, 20000) i")
	two, twoGot := inspect(t, c, 2)
	checkKinds(t, twoGot, "END_OF_RECOVERY")
	for name, s := range map[string]*stretch{"timeline 1": one, "timeline 2": two} {
		if major < 15 { // nothing to compare with but the scan in one piece
			s.want = map[*stretch][]seen{one: oneGot, two: twoGot}[s]
		}
		t.Run(name+" in random portions", func(t *testing.T) { scanPortions(t, s) })
		t.Run(name+" segment by segment", func(t *testing.T) { scanSegments(t, s) })
		t.Run(name+" summaries", func(t *testing.T) { summaries(t, s) })
		t.Run(name+" valid end", func(t *testing.T) { validEnds(t, s) })
	}
}

// killInRecord kills all of the server while it writes a record over many
// segments. It returns where the record began.
func killInRecord(t *testing.T, c *testkit.Cluster) wal.LSN {
	t.Helper()
	c.Psql(t, "CHECKPOINT") // recovery has little to do
	for range 10 {
		begun := lsn(t, c.Psql(t, "SELECT pg_current_wal_insert_lsn()"))
		done := make(chan error, 1)
		go func() {
			_, err := c.Query("SELECT pg_logical_emit_message(false, 'killed', repeat('k', 60000000))")
			done <- err
		}()
		testkit.Wait(t, "a part of the record", func() (bool, string) {
			out, err := c.Query("SELECT pg_current_wal_lsn() > '" + (begun + 2<<20).String() + "'")
			return out == "t", fmt.Sprint(err)
		})
		c.Stop(syscall.SIGKILL)
		err := <-done
		c.Start()
		if err != nil {
			return begun
		}
	}
	t.Fatal("the server was always faster than its death")
	return 0
}

// inspect reads the WAL of the running server's timeline up to where the
// server has flushed it, and has it told by pg_walinspect and by the scanner.
func inspect(t *testing.T, c *testkit.Cluster, tli wal.Timeline) (s *stretch, got []seen) {
	t.Helper()
	id, err := strconv.ParseUint(c.Psql(t, "SELECT system_identifier FROM pg_control_system()"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	c.Psql(t, "SET synchronous_commit = on; INSERT INTO small VALUES (9)") // flushes all
	flushed := lsn(t, c.Psql(t, "SELECT pg_current_wal_flush_lsn()"))
	s = &stretch{}
	var start wal.LSN
	start, s.files = segments(t, c, tli)
	s.cfg = wal.ScanConfig{Start: start, Timeline: tli, SystemIdentifier: id, SegmentSize: oracleSegment, Major: c.Major}
	s.files = s.files[:(flushed-start)/oracleSegment+1]
	clear(s.files[len(s.files)-1][flushed%oracleSegment:])
	if c.Major >= 15 {
		s.want = walinspect(t, c, start, flushed)
	}
	scan := wal.NewScanner(s.config(0, nil, func(r *wal.Record) error {
		got = append(got, seenRecord(r))
		return nil
	}))
	for _, file := range s.files {
		err = scan.Feed(file)
	}
	var end *wal.EndError
	if !errors.As(err, &end) || !end.Zeros || scan.End() != flushed {
		t.Errorf("timeline %s: the scan ends at %s (%v), the server has flushed up to %s", tli, scan.End(), err, flushed)
	}
	t.Logf("PostgreSQL %d, timeline %s: %d segments from %s, %d records, %d of them told by pg_walinspect",
		c.Major, tli, len(s.files), start, len(got), len(s.want))
	return s, got
}

// serverTime is a time as the server writes it, without zeros at the end.
var serverTime = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?\+00`)

// walinspect asks the server for its records, in the words of pg_waldump.
func walinspect(t *testing.T, c *testkit.Cluster, from, to wal.LSN) []seen {
	t.Helper()
	out := c.Psql(t, fmt.Sprintf(`SET timezone = 'UTC';
		SELECT format('rmgr: %%s len (rec/tot): 0/ %%s, tx: %%s, lsn: %%s, prev %%s, desc: %%s %%s', resource_manager, record_length,
			xid, start_lsn, prev_lsn, record_type, translate(left(description, 300), E'\n', ' '))
		FROM pg_get_wal_records_info('%s', '%s')`, from, to))
	var all []seen
	for line := range strings.Lines(out) {
		line = serverTime.ReplaceAllStringFunc(strings.TrimSuffix(line, "\n"), func(text string) string {
			at, err := time.Parse("2006-01-02 15:04:05.999999-07", text)
			if err != nil {
				t.Fatal(err)
			}
			return at.UTC().Format(dumpTime)
		})
		s, _ := parseDump(t, line)
		all = append(all, s)
	}
	return all
}

// checkKinds keeps the test from becoming empty: records of these kinds were
// decoded.
func checkKinds(t *testing.T, got []seen, kinds ...string) {
	t.Helper()
	for _, kind := range kinds {
		found := false
		for _, s := range got {
			found = found || strings.HasPrefix(s.Detail, kind) || kind == "RESTORE_POINT" && s.Point != ""
		}
		if !found {
			t.Errorf("weak test: no %s", kind)
		}
	}
}

// checkFates compares the commits and aborts that were decoded with what the
// server knows of the transactions from first on. A subtransaction has no
// record of its own, but the time of the commit that it belongs to.
func checkFates(t *testing.T, c *testkit.Cluster, got []seen, first string) {
	t.Helper()
	finish, times := map[string]string{}, map[string]bool{}
	for _, s := range got {
		if f := strings.SplitN(s.Finish, " ", 3); len(f) == 3 {
			finish[f[1]] = s.Finish
			times[f[2]] = true
		}
	}
	// The commit that took its time from a replication origin tells that one.
	out := c.Psql(t, fmt.Sprintf(`SET timezone = 'UTC';
		SELECT x, pg_xact_status(x::text::xid8), to_char(pg_xact_commit_timestamp(x::text::xid), 'YYYY-MM-DD HH24:MI:SS.US') || ' UTC'
		FROM generate_series(%s, txid_current() - 1) x
		WHERE pg_xact_commit_timestamp(x::text::xid) IS DISTINCT FROM '2020-02-02 02:02:02'`, first))
	commits, aborts := 0, 0
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "|")
		xid, status, at := f[0], f[1], f[2]
		have := finish[xid]
		switch {
		case status == "committed" && (have == "" || strings.HasPrefix(have, "commit")):
			commits++
			if want := "commit " + xid + " " + at; have != "" && have != want || !times[at] {
				t.Fatalf("decoded %q; the server: %q", have, want)
			}
		case status == "aborted" && (have == "" || strings.HasPrefix(have, "abort")):
			aborts++
		default:
			t.Fatalf("xid %s is %s, decoded as %q", xid, status, have)
		}
	}
	if commits < 6000 || aborts < 6000 {
		t.Errorf("weak test: %d commits, %d aborts", commits, aborts)
	}
}
