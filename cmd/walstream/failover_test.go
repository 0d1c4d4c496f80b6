package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/wal"
)

// failover is a world with a standby.
type failover struct {
	*world
	a, b *testkit.Cluster // b is the standby at first
}

// newFailover starts a primary, a receiver that is synchronous, and a standby
// that is not. With several hosts the receiver knows both, otherwise one
// address that leads to the primary.
func newFailover(t *testing.T, settings ...string) *failover {
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1, Settings: settings})
	f := &failover{world: w, a: w.primary}
	f.b = f.a.Standby()
	return f
}

// hosts is the connection string that names all of them.
func hosts(list ...*testkit.Cluster) string {
	var dirs []string
	for _, c := range list {
		dirs = append(dirs, c.SocketDir)
	}
	return "host=" + strings.Join(dirs, ",") + " port=5432 user=postgres"
}

// running asks the receiver for its status.
func (w *world) running() statusView {
	w.t.Helper()
	out, _, _ := w.run("status", "--json") // exit code 3 if there is something to tell
	return *decode(w.t, out, &statusView{})
}

// alarmed waits until the receiver refuses its server, and checks that nothing
// was acknowledged to it.
func (w *world) alarmed(r *receiving, c *testkit.Cluster, why string) {
	w.t.Helper()
	testkit.Wait(w.t, "the receiver to refuse "+c.SocketDir, func() (bool, string) {
		return strings.Contains(r.output(), why), r.output()
	})
	if out := c.Psql(w.t, "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'walstream' AND flush_lsn IS NOT NULL"); out != "0" {
		w.t.Errorf("WAL of an old primary was acknowledged: %s\n%s", out, r.output())
	}
}

// takesOver makes c, which has been promoted, the world's primary and waits
// until r is synchronous there.
func (w *world) takesOver(c *testkit.Cluster, r *receiving) {
	w.t.Helper()
	w.primary = c
	w.synchronous(r)
}

// whole checks that the archive has no hole and that nobody saw a conflict.
func (w *world) whole(logs ...*receiving) {
	w.t.Helper()
	if out := w.must("list", "wal"); strings.Contains(out, "missing") {
		w.t.Errorf("the archive has holes:\n%s", out)
	}
	for _, r := range logs {
		for _, word := range []string{"differs", "other contents", "two servers", "diverge"} {
			if strings.Contains(r.output(), word) {
				w.t.Errorf("a conflict between equal bytes (%s):\n%s", word, r.output())
			}
		}
	}
}

// slotOf is where the slot of c keeps WAL from, zero when it has none.
func slotOf(t *testing.T, c *testkit.Cluster) wal.LSN {
	t.Helper()
	lsn, err := wal.ParseLSN(c.Psql(t, "SELECT coalesce(max(restart_lsn), '0/0') FROM pg_replication_slots WHERE slot_name = 'walstream'"))
	if err != nil {
		t.Fatal(err)
	}
	return lsn
}

// A standby is promoted while the old primary lives on: nothing of that one is
// acknowledged any more, neither then nor to a receiver that has lost its
// spool. What was acknowledged on the old timeline before is kept.
func TestOldPrimaryAlive(t *testing.T) {
	t.Parallel()
	f := newFailover(t)
	f.dbname = hosts(f.a, f.b)
	r := f.receive("--create-slot")
	f.must("backup", "--checkpoint", "fast")
	old := write(t, f.a, 4)
	old.atLeast(t, 300)
	f.archived()
	testkit.Wait(t, "the slot on the standby to follow the archive", func() (bool, string) {
		lsn := slotOf(t, f.b)
		return lsn != 0 && mib.Offset(lsn) == 0, fmt.Sprint(lsn, "\n", r.output())
	})
	old.atLeast(t, 100)

	began := time.Now()
	f.b.Psql(t, "SELECT pg_promote()")
	testkit.Wait(t, "the receiver to stream from the new primary", func() (bool, string) {
		out := f.b.Psql(t, "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'walstream' AND state = 'streaming'")
		return out == "1", r.output()
	})
	t.Logf("from promotion to streaming on the new timeline: %s", time.Since(began).Round(time.Millisecond))
	f.alarmed(r, f.a, "an old primary")
	acked := old.count()
	f.takesOver(f.b, r)
	next := write(t, f.b, 2)
	next.atLeast(t, 200)
	from := slotOf(t, f.b)
	f.archived()
	testkit.Wait(t, "the slot on the new primary to follow the archive", func() (bool, string) {
		lsn := slotOf(t, f.b)
		return lsn > from, fmt.Sprint(from, lsn, "\n", r.output())
	})

	r.kill()
	f.spool = filepath.Join(f.dir, "new-spool")
	f.b.Stop(syscall.SIGINT)
	r = f.launch()
	f.alarmed(r, f.a, "an old primary")
	f.b.Start()
	f.takesOver(f.b, r)
	next.atLeast(t, 200)
	next.stop()
	if n := old.count(); n != acked {
		t.Errorf("the old primary acknowledged %d commits after the failover", n-acked)
	}
	old.stop()
	f.archived()
	f.whole(r)
	f.a.Stop(syscall.SIGINT) // being watched does not hold it up
	f.crash()
	f.rescue("rescued", next)
	kept := f.restore(filepath.Join(f.dir, "kept"), "--target-timeline", "1")
	if lost := old.lost(t, kept); len(lost) > 0 {
		t.Errorf("%d of %d commits that were acknowledged on the old timeline are gone: %v", len(lost), old.count(), lost)
	}
}

// The receiver lags by ten segments when the primary is lost, and the standby
// has recycled what it does not need itself: the slot there has kept the rest.
func TestLaggingAtFailover(t *testing.T) {
	t.Parallel()
	f := newFailover(t, "max_wal_size = 8MB", "min_wal_size = 2MB", "checkpoint_timeout = 1h", "autovacuum = off")
	f.dbname = hosts(f.a, f.b)
	r := f.receive("--create-slot")
	f.must("backup", "--checkpoint", "fast")
	ws := write(t, f.a, 2)
	ws.atLeast(t, 100)
	testkit.Wait(t, "the slot on the standby", func() (bool, string) { return slotOf(t, f.b) != 0, r.output() })
	ws.stop()
	f.a.Psql(t, "ALTER SYSTEM RESET synchronous_standby_names")
	f.a.Psql(t, "SELECT pg_reload_conf()")
	r.cmd.Process.Signal(syscall.SIGSTOP)
	for range 3 {
		f.a.Psql(t, "CREATE TABLE IF NOT EXISTS bulk (t text)")
		f.a.Psql(t, "INSERT INTO bulk SELECT repeat('x', 200) FROM generate_series(1, 20000)")
		f.a.Psql(t, "CHECKPOINT")
		f.b.CaughtUp(f.a)
		f.b.Psql(t, "CHECKPOINT") // a restartpoint
	}
	f.a.Stop(syscall.SIGKILL)
	f.b.Promote()
	f.b.Psql(t, "CHECKPOINT")
	r.cmd.Process.Signal(syscall.SIGCONT)
	f.takesOver(f.b, r)
	next := write(t, f.b, 2)
	next.atLeast(t, 100)
	next.inherit(ws)
	next.stop()
	f.archived()
	f.whole(r)
	f.crash()
	c := f.rescue("rescued", next)
	if got := c.Psql(t, "SELECT count(*) FROM bulk"); got != "60000" {
		t.Errorf("%s rows, want 60000", got)
	}
}

// The standby that takes over lacks acknowledged commits, behind one address
// that moves: they are kept on the old timeline, archived and reported. Then
// the old primary comes back at that address.
func TestAheadOfFork(t *testing.T) {
	t.Parallel()
	f := newFailover(t)
	address := testkit.NewAddress(t)
	address.Point(t, f.a)
	f.dbname = address.Conninfo()
	r := f.receive("--create-slot")
	f.must("backup", "--checkpoint", "fast")
	old := write(t, f.a, 2)
	old.atLeast(t, 100)
	f.b.CaughtUp(f.a)
	f.b.Stop(syscall.SIGINT)
	old.atLeast(t, 200)
	f.a.Psql(t, "CREATE TABLE bulk AS SELECT repeat('x', 200) FROM generate_series(1, 20000)")
	old.atLeast(t, 200)
	f.a.Stop(syscall.SIGKILL)
	old.stop()
	f.b.Start()
	f.b.Promote()
	address.Point(t, f.b)
	f.takesOver(f.b, r)
	next := write(t, f.b, 2)
	next.atLeast(t, 200)
	if st := f.running(); st.Orphan == nil || st.Orphan.Timeline != 1 || st.Orphan.End <= st.Orphan.Fork || len(st.Problems) == 0 {
		t.Errorf("the commits that the new primary lacks are not reported: %+v", st)
	}
	f.archived()

	f.a.Start()
	address.Point(t, f.a)
	r.kill()
	r = f.launch()
	f.alarmed(r, f.a, "an old primary")
	r.kill()
	r2 := f.launch("--spool", filepath.Join(f.dir, "new-spool"))
	f.alarmed(r2, f.a, "an old primary")
	r2.kill()
	address.Point(t, f.b)
	r = f.launch()
	f.takesOver(f.b, r)
	next.atLeast(t, 100)
	next.stop()
	f.archived()
	f.whole(r)
	f.a.Stop(syscall.SIGKILL)
	f.crash()
	f.rescue("rescued", next)
	kept := f.restore(filepath.Join(f.dir, "kept"), "--target-timeline", "1")
	if lost := old.lost(t, kept); len(lost) > 0 {
		t.Errorf("%d of %d commits that were acknowledged on the old timeline are gone: %v", len(lost), old.count(), lost)
	}
}

// Two promotions happen while the receiver is stopped, the first of them
// exactly where a segment ends. The slot of the last server has to be made.
func TestTwoPromotionsWhileStopped(t *testing.T) {
	t.Parallel()
	// No record of the background writer behind the switch.
	f := newFailover(t, "bgwriter_delay = 10s", "autovacuum = off", "checkpoint_timeout = 1h", "wal_keep_size = 64MB")
	c := f.a.Standby()
	f.dbname = hosts(f.a, f.b)
	r := f.receive("--create-slot")
	f.must("backup", "--checkpoint", "fast")
	ws := write(t, f.a, 2)
	ws.atLeast(t, 200)
	ws.stop()
	r.stop()
	f.a.Psql(t, "ALTER SYSTEM RESET synchronous_standby_names")
	f.a.Psql(t, "SELECT pg_reload_conf()")
	f.a.Psql(t, "INSERT INTO acked VALUES (-1)")
	border, err := wal.ParseLSN(f.a.Psql(t, "SELECT pg_switch_wal()"))
	if err != nil {
		t.Fatal(err)
	}
	border = mib.Ceil(border)
	f.b.CaughtUp(f.a)
	f.a.Stop(syscall.SIGQUIT)
	if tli := f.b.Promote(); tli != "2" {
		t.Fatalf("timeline %s", tli)
	}
	c.Follow(f.b)
	f.b.Psql(t, "CREATE TABLE second AS SELECT generate_series(1, 20000) i")
	c.CaughtUp(f.b)
	f.b.Stop(syscall.SIGQUIT)
	if tli := c.Promote(); tli != "3" {
		t.Fatalf("timeline %s", tli)
	}
	f.dbname = hosts(f.a, f.b, c)
	f.primary = c
	r = f.receive()
	next := write(t, c, 2)
	next.atLeast(t, 100)
	next.inherit(ws)
	next.stop()
	f.archived()
	f.whole(r)
	out := f.must("list", "timelines")
	if !strings.Contains(out, border.String()) {
		t.Errorf("timeline 2 did not begin at the border %s:\n%s", border, out)
	}
	f.crash()
	last := f.rescue("rescued", next)
	if got := last.Psql(t, "SELECT count(*) FROM second, acked WHERE n = -1"); got != "20000" {
		t.Errorf("%s rows, want 20000", got)
	}
}

// A standby that streams is a little ahead of the receiver when the primary
// dies. Promoted, it asks for the segment of its last record again: what the
// spool has of that must not hide what it has itself.
func TestStandbyAheadOfReceiver(t *testing.T) {
	t.Parallel()
	f := newFailover(t)
	f.b.Configure(fmt.Sprintf("restore_command = '%s wal-get --archive %s --spool %s %%f %%p'", f.bin, f.archive, f.spool))
	r := f.receive("--create-slot")
	f.b.Stop(syscall.SIGINT)
	f.b.Start()
	f.a.Psql(t, "CREATE TABLE t AS SELECT 1 AS i")
	r.cmd.Process.Signal(syscall.SIGSTOP)
	f.a.Psql(t, "SET synchronous_commit = local; INSERT INTO t VALUES (2)")
	testkit.Wait(t, "the standby to have what the receiver has not", func() (bool, string) {
		rows, err := f.b.Query("SELECT count(*) FROM t")
		return rows == "2", fmt.Sprint(rows, err)
	})
	f.a.Stop(syscall.SIGKILL)
	f.b.Psql(t, "SELECT pg_promote(false)")
	testkit.Wait(t, "the promotion", func() (bool, string) {
		if !f.b.Running() {
			t.Fatalf("the standby has ended:\n%s", f.b.Log())
		}
		state, err := f.b.Query("SELECT pg_is_in_recovery()")
		return state == "f", fmt.Sprint(state, err)
	})
	if rows := f.b.Psql(t, "SELECT count(*) FROM t"); rows != "2" {
		t.Errorf("%s rows after the promotion, want 2", rows)
	}
	r.cmd.Process.Signal(syscall.SIGCONT)
}
