package receiver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// synchronous makes walstream the synchronous standby. The segments are small
// so that tests cross their borders.
var synchronous = testkit.Config{SegmentSizeMB: 1, Settings: []string{
	"synchronous_standby_names = 'walstream'", "synchronous_commit = on"}}

// TestSynchronousStream is the walk of a WAL byte: concurrent commits are
// durable here before the clients see COMMIT, the server counts us as its
// synchronous standby, shuts down without waiting, and what we hold is byte
// for byte what pg_receivewal got.
func TestSynchronousStream(t *testing.T) {
	t.Parallel()
	c := testkit.Start(t, synchronous)
	ref := receivewal(t, c)
	g := newRig(t, spoolDir(t), rigConfig(c.Conninfo()), nil)
	c.Psql(t, "CREATE TABLE t (i int, filler text)")

	var wg sync.WaitGroup
	for w := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 25 {
				committed(t, c, g, w*1000+i)
			}
		}()
	}
	wg.Wait()
	want := "walstream|streaming|sync"
	if got := c.Psql(t, "SELECT application_name, state, sync_state FROM pg_stat_replication WHERE sync_state <> 'async'"); got != want {
		t.Errorf("pg_stat_replication says %q, want %q", got, want)
	}
	if got := c.Psql(t, "SELECT replay_lsn FROM pg_stat_replication WHERE application_name = 'walstream'"); got != "" {
		t.Errorf("reported apply position %s, want none", got)
	}

	began := time.Now()
	c.Stop(syscall.SIGINT)
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("fast shutdown took %s", took)
	}
	g.wait("the end of the server", func(st Status) bool { return st.State != Streaming })
	g.stop()
	ref.end()
	if n := compareWAL(t, g.dir, ref.dir); n < 2 {
		t.Errorf("only %d segments were compared", n)
	}
}

// committed commits one row and checks that the spool already vouches for WAL
// behind the place where the transaction was before its commit record.
func committed(t *testing.T, c *testkit.Cluster, g *rig, i int) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgconn.Connect(ctx, c.Conninfo()+" dbname=postgres")
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close(ctx)
	results, err := conn.Exec(ctx, fmt.Sprintf(
		"BEGIN; INSERT INTO t SELECT %d, repeat('x', 500) FROM generate_series(1, 40); SELECT pg_current_wal_insert_lsn()", i)).ReadAll()
	if err == nil {
		_, err = conn.Exec(ctx, "COMMIT").ReadAll()
	}
	if err != nil {
		t.Error(err)
		return
	}
	before, err := wal.ParseLSN(string(results[2].Rows[0][0]))
	if err != nil {
		t.Error(err)
		return
	}
	if held, _ := g.sink().Resume(); held.LSN <= before {
		t.Errorf("the client saw COMMIT of a record behind %s, durable is %s", before, held.LSN)
	}
}

// reference is a pg_receivewal that runs beside the receiver.
type reference struct {
	dir string
	end func()
}

func receivewal(t *testing.T, c *testkit.Cluster) reference {
	dir := testkit.Dir(t)
	bin := filepath.Join(c.Bin, "pg_receivewal")
	conn := c.Conninfo() + " application_name=reference"
	testkit.Run(t, bin, "-d", conn, "-S", "reference", "--create-slot")
	// The slot reserves WAL from the first report on; until then nothing
	// is recycled in these tests.
	cmd := testkit.Command(t, bin, "-d", conn, "-D", dir, "-S", "reference", "-n", "--synchronous", "-s", "1")
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("pg_receivewal: %s", log.String())
		}
	})
	testkit.Wait(t, "pg_receivewal to stream", func() (bool, string) {
		out := c.Psql(t, "SELECT state FROM pg_stat_replication WHERE application_name = 'reference'")
		return out == "streaming", out
	})
	return reference{dir: dir, end: func() { cmd.Wait() }}
}

// compareWAL compares every file of the spool with what the reference holds of
// the same segment, unfinished ones up to the shorter of the two ends: the
// rest of both is zeros. It returns how many were compared.
func compareWAL(t *testing.T, spool, ref string) int {
	t.Helper()
	n := 0
	for _, e := range readDir(t, ref) {
		want := readFile(t, filepath.Join(ref, e))
		matches, _ := filepath.Glob(filepath.Join(spool, e[:24]+"*"))
		if len(matches) == 0 {
			t.Errorf("%s: not in the spool", e)
			continue
		}
		if got := readFile(t, matches[0]); !bytes.Equal(got, want) {
			t.Errorf("%s differs from pg_receivewal's %s", matches[0], e)
		}
		n++
	}
	return n
}

func readDir(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestServerCrash kills the server and starts it again: the stream goes on
// where it was, and a restarted receiver too.
func TestServerCrash(t *testing.T) {
	t.Parallel()
	cfg := synchronous
	cfg.Durable = true
	c := testkit.Start(t, cfg)
	dir := spoolDir(t)
	g := newRig(t, dir, rigConfig(c.Conninfo()), nil)
	c.Psql(t, "CREATE TABLE t AS SELECT generate_series(1, 10000) i")
	c.Stop(syscall.SIGKILL)
	g.wait("the loss of the server", func(st Status) bool { return st.State == Waiting && st.Failure != nil })
	c.Start()
	c.Psql(t, "INSERT INTO t SELECT generate_series(1, 10000)")
	g.waitFlushed(currentLSN(t, c))
	if st := g.Status(); st.Reconnects == 0 || st.Failure != nil || st.Alarm != "" {
		t.Errorf("after a reconnect: %+v", st)
	}
	g.stop()

	g = newRig(t, dir, rigConfig(c.Conninfo()), nil)
	c.Psql(t, "INSERT INTO t SELECT generate_series(1, 10000)")
	g.waitFlushed(currentLSN(t, c))
	g.stop()
	checkAgainstServer(t, c, dir)
}

// checkAgainstServer compares the spool with the server's own files.
func checkAgainstServer(t *testing.T, c *testkit.Cluster, dir string) {
	t.Helper()
	n := 0
	for _, name := range readDir(t, dir) {
		if len(name) < 24 {
			continue
		}
		if _, err := segment.ParseName(name[:24], 1<<20); err != nil {
			continue
		}
		got := readFile(t, filepath.Join(dir, name))
		end := len(bytes.TrimRight(got, "\x00"))
		if len(name) > 24 && end == 0 { // prepared
			continue
		}
		want := readFile(t, filepath.Join(c.DataDir, "pg_wal", name[:24]))
		if len(name) > 24 { // the server has gone on in its file
			got, want = got[:end], want[:end]
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s differs from the server's", name)
		}
		n++
	}
	if n < 2 {
		t.Errorf("only %d files were compared", n)
	}
}

// TestSlowDiskKeepsConnection: a disk that hangs for longer than
// wal_sender_timeout delays commits, but does not cost the connection.
func TestSlowDiskKeepsConnection(t *testing.T) {
	for name, stuck := range map[string]func(Sink, chan struct{}) Sink{
		"fdatasync": func(s Sink, release chan struct{}) Sink { return &stuckSink{Sink: s, sync: release} },
		"pwrite":    func(s Sink, release chan struct{}) Sink { return &stuckSink{Sink: s, append: release} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			slowDisk(t, stuck)
		})
	}
}

func slowDisk(t *testing.T, stuck func(Sink, chan struct{}) Sink) {
	t.Helper()
	c := testkit.Start(t, testkit.Config{Settings: append([]string{"wal_sender_timeout = 1s"}, synchronous.Settings...)})
	release := make(chan struct{})
	g := newRig(t, spoolDir(t), rigConfig(c.Conninfo()), func(s Sink) Sink { return stuck(s, release) })
	g.wait("the stream", func(st Status) bool { return st.State == Streaming })
	pid := c.Psql(t, "SELECT pid FROM pg_stat_replication")
	committed := make(chan error, 1)
	go func() {
		_, err := c.Query("CREATE TABLE t (i int)")
		committed <- err
	}()
	// More than the sockets hold, of which no commit waits.
	c.Psql(t, "SELECT count(pg_logical_emit_message(false, 'x', repeat('y', 1000000))) FROM generate_series(1, 16)")
	// Three times the timeout, and the commit waits.
	select {
	case err := <-committed:
		t.Fatalf("the commit returned %v although nothing is durable", err)
	case <-time.After(3 * time.Second):
	}
	if out := c.Psql(t, "SELECT pid, flush_lsn FROM pg_stat_replication"); out != pid+"|" {
		t.Errorf("connection %s, want still %s, with nothing flushed", out, pid)
	}
	close(release)
	if err := <-committed; err != nil {
		t.Error(err)
	}
	if st := g.Status(); st.Reconnects != 0 {
		t.Errorf("%+v", st)
	}
	g.stop()
}

// TestForeignCluster: a spool of another cluster is not touched.
func TestForeignCluster(t *testing.T) {
	t.Parallel()
	c := testkit.Start(t, testkit.Config{})
	dir := spoolDir(t)
	other := segment.Identity{SystemIdentifier: 4711, MajorVersion: 15, SegmentSize: 16 << 20}
	spool, err := segment.OpenSpool(segment.SpoolConfig{Dir: dir, Identity: other})
	if err != nil {
		t.Fatal(err)
	}
	if err := spool.Close(); err != nil {
		t.Fatal(err)
	}
	before := readDir(t, dir)
	var foreign *segment.ForeignError
	if err := newRig(t, dir, rigConfig(c.Conninfo()), nil).ended(); !errors.As(err, &foreign) {
		t.Errorf("Run returned %v", err)
	}
	if diff := cmp.Diff(before, readDir(t, dir)); diff != "" {
		t.Error(diff)
	}
	if got := c.Psql(t, "SELECT count(*) FROM pg_replication_slots"); got != "0" {
		t.Errorf("%s slots were made on the wrong server", got)
	}
}

// TestRefusals: what only a person can mend ends Run at the first connection,
// and a server that is down does not.
func TestRefusals(t *testing.T) {
	t.Parallel()
	c := testkit.Start(t, testkit.Config{})
	c.Psql(t, "CREATE ROLE plain LOGIN")
	for name, conninfo := range map[string]string{
		"no REPLICATION": strings.ReplaceAll(c.Conninfo(), "user=postgres", "user=plain"),
		"no such role":   strings.ReplaceAll(c.Conninfo(), "user=postgres", "user=nobody"),
	} {
		if err := newRig(t, spoolDir(t), rigConfig(conninfo), nil).ended(); !pg.Definite(err) {
			t.Errorf("%s: Run returned %v", name, err)
		}
	}
	c.Stop(syscall.SIGINT)
	g := newRig(t, spoolDir(t), rigConfig(c.Conninfo()), nil)
	g.wait("a few tries", func(st Status) bool {
		return st.Reconnects > 1 && st.Failure != nil && st.Failure.Count > 2 && st.Failure.Since.Before(st.Failure.Last)
	})
	c.Start()
	g.wait("the stream", func(st Status) bool { return st.State == Streaming })
	g.stop()
}

// TestFirstPosition: an empty spool begins behind the archive if that has
// something, else at the slot.
func TestFirstPosition(t *testing.T) {
	t.Parallel()
	c := testkit.Start(t, small)
	c.Psql(t, "CREATE TABLE t AS SELECT generate_series(1, 50000) i")
	slot := Slot{Options: pg.Options{Conninfo: c.Conninfo()}, Name: "walstream"}
	if _, err := slot.Create(timeout(t)); err != nil {
		t.Fatal(err)
	}
	st, err := slot.Show(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	c.Psql(t, "INSERT INTO t SELECT generate_series(1, 50000)")
	end := currentLSN(t, c)
	first := func(dir string) segment.ID {
		for _, name := range readDir(t, dir) {
			if len(name) >= 24 {
				if id, err := segment.ParseName(name[:24], mib); err == nil {
					return id
				}
			}
		}
		return segment.ID{}
	}
	g := newRig(t, spoolDir(t), rigConfig(c.Conninfo()), nil)
	g.waitFlushed(end)
	g.stop()
	if got, want := first(g.dir), segment.At(1, st.RestartLSN, mib); got != want {
		t.Errorf("began with %s, the slot is in %s", got.Name(mib), want.Name(mib))
	}
	cfg := rigConfig(c.Conninfo())
	archived := segment.Size(mib).Floor(end - mib)
	cfg.ArchiveResume = func(_ context.Context, h segment.History, _ wal.LSN) (segment.Position, bool, error) {
		return segment.Position{Timeline: h.Timeline, LSN: archived}, true, nil
	}
	g = newRig(t, spoolDir(t), cfg, nil)
	g.waitFlushed(end)
	g.stop()
	if got, want := first(g.dir), segment.At(1, archived, mib); got != want {
		t.Errorf("began with %s, the archive ends before %s", got.Name(mib), want.Name(mib))
	}
}
