package receiver

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// promote makes s a primary and returns where its timeline forked off.
func promote(t *testing.T, s *testkit.Cluster) (wal.Timeline, wal.LSN) {
	t.Helper()
	tli, err := wal.ParseTimeline(s.Promote())
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

var small = testkit.Config{SegmentSizeMB: 1, Settings: []string{"autovacuum = off", "checkpoint_timeout = 1h", "wal_keep_size = 256MB"}}

// TestFollowPromotion: the standby that takes over is ahead of what we have,
// the old timeline is streamed to its end from the new primary.
func TestFollowPromotion(t *testing.T) {
	t.Parallel()
	c := testkit.Start(t, small)
	s := c.Standby()
	p := testkit.NewAddress(t)
	p.Point(t, c)
	c.Psql(t, "CREATE TABLE t AS SELECT generate_series(1, 20000) i")
	dir := spoolDir(t)
	g := newRig(t, dir, rigConfig(p.Conninfo()), nil)
	g.waitFlushed(currentLSN(t, c))
	g.stop()

	c.Psql(t, "INSERT INTO t SELECT generate_series(1, 50000)") // not seen by us
	s.CaughtUp(c)
	c.Stop(syscall.SIGINT)
	tli, fork := promote(t, s)
	s.Psql(t, "INSERT INTO t SELECT generate_series(1, 20000)")
	p.Point(t, s)

	g = newRig(t, dir, rigConfig(p.Conninfo()), nil)
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
	s := c.Standby()
	p := testkit.NewAddress(t)
	p.Point(t, c)
	dir := spoolDir(t)
	g := newRig(t, dir, rigConfig(p.Conninfo()), nil)
	c.Psql(t, "CREATE TABLE t AS SELECT generate_series(1, 100) i")
	s.CaughtUp(c)
	s.Stop(syscall.SIGINT)
	c.Psql(t, "INSERT INTO t SELECT generate_series(1, 50000)") // not seen by the standby
	end := currentLSN(t, c)
	g.waitFlushed(end)
	c.Stop(syscall.SIGQUIT)
	s.Start()
	tli, fork := promote(t, s)
	s.Psql(t, "INSERT INTO t SELECT generate_series(1, 100)")
	p.Point(t, s)
	g.wait("the new timeline", func(st Status) bool { return st.State == Streaming && st.Timeline == tli })
	if out := s.Psql(t, "SELECT restart_lsn FROM pg_replication_slots"); out == "" {
		t.Error("the new primary got an acknowledgement and keeps nothing")
	}
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
	p.Point(t, c)
	g = newRig(t, dir, rigConfig(p.Conninfo()), nil)
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
	s, s2 := c.Standby(), c.Standby()
	p := testkit.NewAddress(t)
	p.Point(t, c)
	dir := spoolDir(t)
	g := newRig(t, dir, rigConfig(p.Conninfo()), nil)
	c.Psql(t, "CREATE TABLE t AS SELECT generate_series(1, 100) i")
	g.waitFlushed(currentLSN(t, c))
	g.stop()

	s.CaughtUp(c)
	promote(t, s)
	s2.Follow(s)
	s.Psql(t, "INSERT INTO t SELECT generate_series(1, 50000)")
	s2.CaughtUp(s)
	promote(t, s2)
	s2.Psql(t, "INSERT INTO t SELECT generate_series(1, 100)")
	if err := os.Remove(filepath.Join(s2.DataDir, "pg_wal", "00000002.history")); err != nil {
		t.Fatal(err)
	}
	p.Point(t, s2)
	g = newRig(t, dir, rigConfig(p.Conninfo()), nil)
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
	s := c.Standby()
	p := testkit.NewAddress(t)
	p.Point(t, c)
	dir := spoolDir(t)
	g := newRig(t, dir, rigConfig(p.Conninfo()), nil)
	c.Psql(t, "CREATE TABLE t AS SELECT generate_series(1, 100) i")
	border := segment.Size(mib).Ceil(parseLSN(t, c.Psql(t, "SELECT pg_switch_wal()")))
	g.waitFlushed(border)
	s.CaughtUp(c)
	c.Stop(syscall.SIGQUIT)
	tli, fork := promote(t, s)
	if fork != border {
		t.Fatalf("the fork is at %s, want %s", fork, border)
	}
	s.Psql(t, "INSERT INTO t SELECT generate_series(1, 20000)")
	p.Point(t, s)
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
