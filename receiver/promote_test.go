package receiver

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// standby makes a streaming standby of c with pg_basebackup and starts it.
func standby(t *testing.T, c *testkit.Cluster) *testkit.Cluster {
	t.Helper()
	dir := filepath.Join(testkit.Dir(t), "data")
	testkit.Run(t, filepath.Join(c.Bin, "pg_basebackup"), "-d", c.Conninfo()+" application_name=standby", "-D", dir, "-R", "-X", "stream", "-c", "fast")
	s := testkit.Adopt(t, dir)
	s.Start()
	return s
}

// caughtUp waits until s has replayed lsn.
func caughtUp(t *testing.T, s *testkit.Cluster, lsn wal.LSN) {
	t.Helper()
	testkit.Wait(t, "the standby to replay "+lsn.String(), func() (bool, string) {
		out := s.Psql(t, "SELECT coalesce(pg_last_wal_replay_lsn(), '0/0')")
		return parseLSN(t, out) >= lsn, out
	})
}

// promote makes s a primary and returns where its timeline forked off.
func promote(t *testing.T, s *testkit.Cluster) (wal.Timeline, wal.LSN) {
	t.Helper()
	s.Psql(t, "SELECT pg_promote()")
	s.Psql(t, "CHECKPOINT")
	tli, err := wal.ParseTimeline(s.Psql(t, "SELECT timeline_id FROM pg_control_checkpoint()"))
	if err != nil {
		t.Fatal(err)
	}
	body := readFile(t, filepath.Join(s.DataDir, "pg_wal", segment.HistoryName(tli)))
	h, err := segment.ParseHistory(tli, body)
	if err != nil {
		t.Fatal(err)
	}
	return tli, h.Ancestors[len(h.Ancestors)-1].End
}

// proxy is a socket directory whose server can be changed: the receiver's
// connection string stays the same, as behind a moving address.
type proxy string

func newProxy(t *testing.T) proxy { return proxy(testkit.Dir(t)) }

func (p proxy) conninfo() string { return "host=" + string(p) + " port=5432 user=postgres" }

func (p proxy) point(t *testing.T, c *testkit.Cluster) {
	t.Helper()
	link := filepath.Join(string(p), ".s.PGSQL.5432")
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(c.SocketDir, ".s.PGSQL.5432"), link); err != nil {
		t.Fatal(err)
	}
}

var small = testkit.Config{SegmentSizeMB: 1, Settings: []string{"autovacuum = off", "checkpoint_timeout = 1h", "wal_keep_size = 256MB"}}

// TestFollowPromotion: the standby that takes over is ahead of what we have,
// the old timeline is streamed to its end from the new primary.
func TestFollowPromotion(t *testing.T) {
	t.Parallel()
	c := testkit.Start(t, small)
	s := standby(t, c)
	p := newProxy(t)
	p.point(t, c)
	c.Psql(t, "CREATE TABLE t AS SELECT generate_series(1, 20000) i")
	dir := spoolDir(t)
	g := newRig(t, dir, rigConfig(p.conninfo()), nil)
	g.waitFlushed(currentLSN(t, c))
	g.stop()

	c.Psql(t, "INSERT INTO t SELECT generate_series(1, 50000)") // not seen by us
	caughtUp(t, s, currentLSN(t, c))
	c.Stop(syscall.SIGINT)
	tli, fork := promote(t, s)
	s.Psql(t, "INSERT INTO t SELECT generate_series(1, 20000)")
	p.point(t, s)

	g = newRig(t, dir, rigConfig(p.conninfo()), nil)
	g.waitFlushed(currentLSN(t, s))
	if st := g.Status(); st.Timeline != tli || st.Orphan != nil || st.Alarm != "" {
		t.Errorf("after the promotion: %+v", st)
	}
	g.stop()
	checkTimelines(t, s, dir, fork, tli)
}

// checkTimelines checks what is left of timeline 1 up to the fork, and that
// the history and the fork's segment of the new timeline are there.
func checkTimelines(t *testing.T, s *testkit.Cluster, dir string, fork wal.LSN, tli wal.Timeline) {
	t.Helper()
	const size = 1 << 20
	if got, want := readFile(t, filepath.Join(dir, segment.HistoryName(tli))), readFile(t, filepath.Join(s.DataDir, "pg_wal", segment.HistoryName(tli))); string(got) != string(want) {
		t.Errorf("history %q, the server's is %q", got, want)
	}
	old := segment.At(1, fork, size)
	tails, _ := filepath.Glob(filepath.Join(dir, old.Name(size)+"*.tail"))
	if len(tails) != 1 {
		t.Fatalf("remainder of %s: %v of %v", old.Name(size), tails, readDir(t, dir))
	}
	off := segment.Size(size).Offset(fork)
	forked := segment.ID{Timeline: tli, No: old.No}.Name(size)
	matches, _ := filepath.Glob(filepath.Join(dir, forked+"*"))
	if len(matches) != 1 {
		t.Fatalf("segment of the fork: %v", readDir(t, dir))
	}
	if string(readFile(t, tails[0])[:off]) != string(readFile(t, matches[0])[:off]) {
		t.Errorf("%s and %s differ before the fork", tails[0], matches[0])
	}
	server := readFile(t, filepath.Join(s.DataDir, "pg_wal", forked))
	got := readFile(t, matches[0])
	if end := len(strings.TrimRight(string(got), "\x00")); string(got[:end]) != string(server[:end]) {
		t.Errorf("%s differs from the server's", matches[0])
	}
}

// TestAheadOfFork: the standby that takes over missed WAL that we have. It is
// kept and reported, and the new timeline is followed.
func TestAheadOfFork(t *testing.T) {
	t.Parallel()
	c := testkit.Start(t, small)
	s := standby(t, c)
	p := newProxy(t)
	p.point(t, c)
	dir := spoolDir(t)
	g := newRig(t, dir, rigConfig(p.conninfo()), nil)
	c.Psql(t, "CREATE TABLE t AS SELECT generate_series(1, 100) i")
	caughtUp(t, s, currentLSN(t, c))
	s.Stop(syscall.SIGINT)
	c.Psql(t, "INSERT INTO t SELECT generate_series(1, 50000)") // not seen by the standby
	end := currentLSN(t, c)
	g.waitFlushed(end)
	c.Stop(syscall.SIGQUIT)
	s.Start()
	tli, fork := promote(t, s)
	s.Psql(t, "INSERT INTO t SELECT generate_series(1, 100)")
	p.point(t, s)
	g.wait("the new timeline", func(st Status) bool { return st.State == Streaming && st.Timeline == tli })
	g.waitFlushed(currentLSN(t, s))
	st := g.Status()
	if st.Orphan == nil || st.Orphan.Timeline != 1 || st.Orphan.Fork != fork || st.Orphan.End < end {
		t.Errorf("orphan %+v, want timeline 1 from %s to %s", st.Orphan, fork, end)
	}
	g.stop()
	// All segments of timeline 1 are there, up to what was received.
	for no := segment.At(1, fork, 1<<20).No; no <= segment.At(1, end-1, 1<<20).No; no++ {
		name := segment.ID{Timeline: 1, No: no}.Name(1 << 20)
		if m, _ := filepath.Glob(filepath.Join(dir, name+"*")); len(m) != 1 {
			t.Errorf("%s is gone: %v", name, readDir(t, dir))
		}
	}

	// The old primary comes back: it gets nothing acknowledged.
	c.Start()
	p.point(t, c)
	g = newRig(t, dir, rigConfig(p.conninfo()), nil)
	g.wait("the alarm", func(st Status) bool { return st.Alarm != "" })
	if st := g.Status(); !strings.Contains(st.Alarm, "older") || st.State == Streaming {
		t.Errorf("an old primary: %+v", st)
	}
	if out := c.Psql(t, "SELECT count(*) FROM pg_stat_replication WHERE flush_lsn IS NOT NULL"); out != "0" {
		t.Errorf("an old primary got an acknowledgement")
	}
	g.stop()
}

// TestJumpTwoTimelines: two promotions happened while we were away, and the
// last server lacks the history file between.
func TestJumpTwoTimelines(t *testing.T) {
	t.Parallel()
	c := testkit.Start(t, small)
	s, s2 := standby(t, c), standby(t, c)
	p := newProxy(t)
	p.point(t, c)
	dir := spoolDir(t)
	g := newRig(t, dir, rigConfig(p.conninfo()), nil)
	c.Psql(t, "CREATE TABLE t AS SELECT generate_series(1, 100) i")
	g.waitFlushed(currentLSN(t, c))
	g.stop()

	caughtUp(t, s, currentLSN(t, c))
	promote(t, s)
	s2.Configure("primary_conninfo = '" + s.Conninfo() + "'")
	if err := os.Truncate(filepath.Join(s2.DataDir, "postgresql.auto.conf"), 0); err != nil {
		t.Fatal(err)
	}
	s2.Reload()
	s.Psql(t, "INSERT INTO t SELECT generate_series(1, 50000)")
	caughtUp(t, s2, currentLSN(t, s))
	promote(t, s2)
	s2.Psql(t, "INSERT INTO t SELECT generate_series(1, 100)")
	if err := os.Remove(filepath.Join(s2.DataDir, "pg_wal", "00000002.history")); err != nil {
		t.Fatal(err)
	}
	p.point(t, s2)
	g = newRig(t, dir, rigConfig(p.conninfo()), nil)
	g.wait("timeline 3", func(st Status) bool { return st.State == Streaming && st.Timeline == 3 })
	g.waitFlushed(currentLSN(t, s2))
	g.stop()
	body := readFile(t, filepath.Join(dir, "00000002.history"))
	if h, err := segment.ParseHistory(2, body); err != nil || len(h.Ancestors) != 1 {
		t.Errorf("history of timeline 2: %q, %v", body, err)
	}
	names := strings.Join(readDir(t, dir), " ")
	for _, prefix := range []string{"00000001000000", "00000002000000", "00000003000000"} {
		if !strings.Contains(names, prefix) {
			t.Errorf("nothing of %s: %s", prefix, names)
		}
	}
}

// TestForkOnBorder: the server's timeline ends exactly where a segment does.
func TestForkOnBorder(t *testing.T) {
	t.Parallel()
	cfg := small
	// No record of the background writer behind the switch.
	cfg.Settings = append([]string{"bgwriter_delay = 10s"}, cfg.Settings...)
	c := testkit.Start(t, cfg)
	s := standby(t, c)
	p := newProxy(t)
	p.point(t, c)
	dir := spoolDir(t)
	g := newRig(t, dir, rigConfig(p.conninfo()), nil)
	c.Psql(t, "CREATE TABLE t AS SELECT generate_series(1, 100) i")
	border := segment.Size(mib).Ceil(parseLSN(t, c.Psql(t, "SELECT pg_switch_wal()")))
	g.waitFlushed(border)
	caughtUp(t, s, border)
	c.Stop(syscall.SIGQUIT)
	tli, fork := promote(t, s)
	if fork != border {
		t.Fatalf("the fork is at %s, want %s", fork, border)
	}
	s.Psql(t, "INSERT INTO t SELECT generate_series(1, 20000)")
	p.point(t, s)
	g.wait("the new timeline", func(st Status) bool { return st.State == Streaming && st.Timeline == tli })
	g.waitFlushed(currentLSN(t, s))
	if st := g.Status(); st.Orphan != nil || st.Alarm != "" {
		t.Errorf("%+v", st)
	}
	g.stop()
	names := strings.Join(readDir(t, dir), " ")
	if strings.Contains(names, ".tail") || !strings.Contains(names, segment.At(tli, fork, mib).Name(mib)) {
		t.Errorf("spool: %s", names)
	}
}
