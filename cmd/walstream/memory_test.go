package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/wal"
)

// What takes too long for "make test" has targets of its own.
var (
	streamMiB = flag.Int("stream", 96, "MiB of WAL that TestReceiverMemory streams")
	backlog   = flag.Int("backlog", 60, "segments of 1 MiB that TestS3Backlog holds back")
	full      = flag.Bool("full", false, "take every way through the long tests")
)

// What `walstream receive` needs at most, with everything on and however much
// goes through it.
const (
	maxReceiverKiB = 64 << 10
	maxS3KiB       = 128 << 10
)

// Streaming and archiving at the same time, PostgreSQL's own segment size, WAL
// that compresses badly: the peak of the process's memory stays bounded.
func TestReceiverMemory(t *testing.T) {
	w := newWorld(t, testkit.Config{Settings: []string{"max_wal_size = 1GB"}})
	w.streamed(maxReceiverKiB)
}

// The same into an object store, two segments at a time.
func TestS3Memory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{Settings: []string{"max_wal_size = 1GB"}})
	w.inS3()
	w.streamed(maxS3KiB)
}

// streamed streams and archives load with at most maxKiB of memory.
func (w *world) streamed(maxKiB int) {
	t := w.t
	t.Helper()
	r := w.receive("--create-slot")
	start := w.walEnd()
	w.primary.Psql(t, "CREATE TABLE load AS SELECT md5(i::text) || md5((-i)::text) || sha512(i::text::bytea)::text AS v FROM generate_series(1, 40000) i")
	for w.walEnd() < start+wal.LSN(*streamMiB)<<20 {
		w.primary.Psql(t, "INSERT INTO load SELECT v FROM load LIMIT 40000")
		w.primary.Psql(t, "SELECT count(pg_logical_emit_message(false, 'load', v)) FROM (SELECT v FROM load LIMIT 40000) l")
		w.primary.Psql(t, "DELETE FROM load WHERE ctid IN (SELECT ctid FROM load OFFSET 40000)")
	}
	w.archived()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var kib int
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatalf("%v in\n%s", err, status)
	}
	t.Logf("%s of WAL streamed and archived, peak of resident memory %.1f MiB", w.walEnd()-start, float64(kib)/1024)
	if kib > maxKiB {
		t.Errorf("more than %d MiB", maxKiB>>10)
	}
	r.stop()
}

// walEnd is where the primary's WAL ends.
func (w *world) walEnd() wal.LSN {
	w.t.Helper()
	lsn, err := wal.ParseLSN(w.primary.Psql(w.t, "SELECT pg_current_wal_insert_lsn()"))
	if err != nil {
		w.t.Fatal(err)
	}
	return lsn
}
