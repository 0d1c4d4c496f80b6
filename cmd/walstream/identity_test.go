package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// churn makes about n MiB of WAL of many kinds, with switches at odd places.
func churn(t *testing.T, c *testkit.Cluster, n int) {
	t.Helper()
	c.Psql(t, "CREATE TABLE IF NOT EXISTS churn (id bigserial PRIMARY KEY, small text, big text); "+
		"CREATE INDEX IF NOT EXISTS churn_small ON churn USING hash (small)")
	c.Psql(t, "ALTER TABLE churn ALTER big SET STORAGE EXTERNAL")
	for start, i := c.Psql(t, "SELECT pg_current_wal_insert_lsn()"), 0; ; i++ {
		for _, sql := range []string{
			"INSERT INTO churn (small, big) SELECT md5(i::text), repeat(md5(i::text), 1 + i % 300) FROM generate_series(1, 150) i",
			"UPDATE churn SET small = md5(small) WHERE id % 3 = 0",
			"BEGIN; DELETE FROM churn WHERE id % 5 = 1; SAVEPOINT s; TRUNCATE churn; ROLLBACK TO s; COMMIT",
			"BEGIN; INSERT INTO churn (small) VALUES ('prepared'); PREPARE TRANSACTION 'p'",
			"ROLLBACK PREPARED 'p'",
			fmt.Sprintf("SELECT pg_logical_emit_message(false, 'churn', repeat('x', %d))", i*40000),
		} {
			c.Psql(t, sql)
		}
		switch i % 4 {
		case 0:
			c.Psql(t, "SELECT pg_switch_wal()")
		case 1:
			c.Psql(t, "CHECKPOINT")
		case 2:
			c.Psql(t, "VACUUM churn")
		}
		written := c.Psql(t, "SELECT (pg_current_wal_insert_lsn() - '"+start+"') / 1048576")
		var mb float64
		if _, err := fmt.Sscan(written, &mb); err != nil {
			t.Fatal(err)
		}
		if mb >= float64(n) {
			return
		}
	}
}

// receivewal runs pg_receivewal until its server goes away.
func (w *world) receivewal(dir string) (done chan error) {
	w.t.Helper()
	cmd := testkit.Command(w.t, filepath.Join(w.primary.Bin, "pg_receivewal"), "-D", dir, "-n", "-h", w.primary.SocketDir, "-p", "5432", "-U", "postgres")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	done = make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	w.t.Cleanup(func() { cmd.Process.Kill() })
	testkit.Wait(w.t, "pg_receivewal to stream", func() (bool, string) {
		n, err := w.primary.Query("SELECT count(*) FROM pg_stat_replication WHERE application_name = 'pg_receivewal' AND state = 'streaming'")
		return n == "1", fmt.Sprint(n, err)
	})
	return done
}

// PostgreSQL's own receiver runs beside walstream, through a promotion: what
// both have stored is the same, byte for byte.
func TestArchiveEqualsPgReceivewal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1, Settings: []string{"wal_keep_size = 1GB"}})
	theirs := filepath.Join(w.dir, "theirs")
	testkit.Run(t, "mkdir", theirs)
	r := w.receive("--create-slot")
	w.must("backup", "--checkpoint", "fast")
	done := w.receivewal(theirs)
	churn(t, w.primary, 52)
	w.primary.Stop(syscall.SIGINT) // which waits for both
	<-done
	r.stop()

	dir := filepath.Join(w.dir, "promoted")
	w.primary = w.restore(dir)
	r = w.receive("--create-slot")
	done = w.receivewal(theirs)
	churn(t, w.primary, 52)
	w.archived()
	w.primary.Stop(syscall.SIGINT)
	<-done
	r.stop()

	compared := map[wal.Timeline]int{}
	name := regexp.MustCompile(`^[0-9A-F]{24}$`)
	entries, err := os.ReadDir(theirs)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !name.MatchString(e.Name()) {
			continue
		}
		id, err := segment.ParseName(e.Name(), mib)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(theirs, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		object := filepath.Join(w.archive, "wal", id.Timeline.Hex(), e.Name()+".zst")
		have, err := exec.Command("zstd", "-dc", object).Output()
		if err != nil {
			t.Errorf("%s: %v", e.Name(), err)
		} else if !bytes.Equal(have, want) {
			t.Errorf("%s differs from that of pg_receivewal", e.Name())
		}
		compared[id.Timeline]++
	}
	t.Logf("segments compared, by timeline: %v", compared)
	if compared[1] < 50 || compared[2] < 50 {
		t.Errorf("want at least 50 of each timeline")
	}
	ours, err := filepath.Glob(filepath.Join(w.archive, "wal", "*", "*.zst"))
	if err != nil {
		t.Fatal(err)
	}
	first := entries[0].Name()
	for _, object := range ours {
		if name := strings.TrimSuffix(filepath.Base(object), ".zst"); name >= first && !exists(filepath.Join(theirs, name)) {
			t.Errorf("pg_receivewal has no complete segment %s", name)
		}
	}
	history, err := os.ReadFile(filepath.Join(theirs, "00000002.history"))
	mine, merr := os.ReadFile(filepath.Join(w.archive, "wal", "00000002.history"))
	if err != nil || merr != nil || !bytes.Equal(history, mine) {
		t.Errorf("history file: %q %v, pg_receivewal has %q %v", mine, merr, history, err)
	}
}
