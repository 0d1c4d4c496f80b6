package receiver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

func timeout(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// TestSlotLife creates, shows and drops, with names that need quoting.
func TestSlotLife(t *testing.T) {
	t.Parallel()
	c := testkit.Start(t, testkit.Config{Settings: []string{"wal_level = logical"}})
	ctx := timeout(t)
	for _, name := range []string{"walstream", "9lives", "slot"} {
		s := Slot{Options: pg.Options{Conninfo: c.Conninfo()}, Name: name}
		if st, err := s.Show(ctx); err != nil || st.Exists || st.Holds() {
			t.Errorf("before: %+v, %v", st, err)
		}
		for i, want := range []bool{true, false} {
			if created, err := s.Create(ctx); err != nil || created != want {
				t.Errorf("create %d: %v, %v", i, created, err)
			}
		}
		st, err := s.Show(ctx)
		if err != nil || !st.Holds() || st.WALStatus != "reserved" || st.Active {
			t.Errorf("created: %+v, %v", st, err)
		}
		if got := c.Psql(t, "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = '"+name+"'"); got != st.RestartLSN.String() {
			t.Errorf("restart_lsn is %s, Show says %s", got, st.RestartLSN)
		}
		if err := s.Drop(ctx); err != nil {
			t.Error(err)
		}
		if err := s.Drop(ctx); pg.Code(err) != pg.CodeUndefinedObject {
			t.Errorf("second drop: %v", err)
		}
	}

	// A slot that was made without RESERVE_WAL holds nothing: replaced.
	c.Psql(t, "SELECT pg_create_physical_replication_slot('idle')")
	idle := Slot{Options: pg.Options{Conninfo: c.Conninfo()}, Name: "idle"}
	if created, err := idle.Create(ctx); err != nil || !created {
		t.Errorf("a slot that holds nothing: %v, %v", created, err)
	}
	if st, err := idle.Show(ctx); err != nil || !st.Holds() {
		t.Errorf("replaced: %+v, %v", st, err)
	}

	c.Psql(t, "SELECT pg_create_logical_replication_slot('logical', 'pgoutput')")
	logical := Slot{Options: pg.Options{Conninfo: c.Conninfo()}, Name: "logical"}
	if _, err := logical.Show(ctx); err == nil || !strings.Contains(err.Error(), "logical") {
		t.Errorf("show of a logical slot: %v", err)
	}
	cfg := rigConfig(c.Conninfo())
	cfg.Slot = "logical"
	if err := newRig(t, spoolDir(t), cfg, nil).ended(); err == nil || !strings.Contains(err.Error(), "logical") || len(hint.Of(err)) == 0 {
		t.Errorf("receive with a logical slot: %v", err)
	}
}

// TestHoldSlot: the slot stands still while WAL is streamed and moves with
// Advance only, never beyond it and never back; it is made anew when it has
// gone; by SQL and, where pg_hba allows none, by the replication protocol.
func TestHoldSlot(t *testing.T) {
	t.Parallel()
	c := testkit.Start(t, small)
	c.Psql(t, "CREATE TABLE t (i int)")
	for _, way := range []string{"sql", "protocol"} {
		t.Run(way, func(t *testing.T) {
			if way == "protocol" {
				allowOnlyReplication(t, c)
			}
			holdSlot(t, c, way)
		})
	}
}

// allowOnlyReplication leaves SQL to the user postgres.
func allowOnlyReplication(t *testing.T, c *testkit.Cluster) {
	c.Psql(t, "CREATE ROLE walstream LOGIN REPLICATION")
	c.Allow("local replication walstream trust", "local all postgres trust", "local replication postgres trust")
}

func holdSlot(t *testing.T, c *testkit.Cluster, way string) {
	cfg := rigConfig(c.Conninfo())
	if way == "protocol" {
		cfg.Options.Conninfo = strings.ReplaceAll(c.Conninfo(), "user=postgres", "user=walstream")
	}
	cfg.Slot, cfg.SlotInterval = "hold_"+way, 100*time.Millisecond
	g := newRig(t, spoolDir(t), cfg, nil)
	hold := g.HoldSlot()
	ctx, cancel := context.WithCancel(timeout(t))
	done := make(chan error, 1)
	go func() { done <- hold.Run(ctx) }()
	restart := func() wal.LSN {
		return parseLSN(t, c.Psql(t, "SELECT coalesce(restart_lsn, '0/0') FROM pg_replication_slots WHERE slot_name = '"+cfg.Slot+"' UNION ALL SELECT '0/0' LIMIT 1"))
	}
	g.wait("the stream", func(st Status) bool { return st.State == Streaming })
	looked := func() {
		from := time.Now()
		testkit.Wait(t, "a look at the slot", func() (bool, string) {
			st := hold.Status()
			return st.Looked.After(from) && st.Failure == nil, st.Failure.String()
		})
	}

	looked()
	first := restart()
	c.Psql(t, "INSERT INTO t SELECT generate_series(1, 30000)")
	end := currentLSN(t, c)
	g.waitFlushed(end)
	looked()
	if got := restart(); got != first || first == 0 {
		t.Errorf("the slot moved from %s to %s unasked", first, got)
	}
	archived := end - 8000
	hold.Advance(0, segment.Position{Timeline: 1, LSN: archived})
	testkit.Wait(t, "the slot to move", func() (bool, string) { return restart() == archived, restart().String() })
	hold.Advance(0, segment.Position{Timeline: 1, LSN: first}) // backward: ignored
	looked()
	if got := restart(); got != archived {
		t.Errorf("the slot is at %s, want %s", got, archived)
	}
	// Another receiver of the cluster was faster: not moved back.
	testkit.Wait(t, "our turn with the slot", func() (bool, string) {
		_, err := c.Query("SELECT pg_replication_slot_advance('" + cfg.Slot + "', '" + (archived + 4000).String() + "')")
		return err == nil, fmt.Sprint(err)
	})
	looked()
	looked()
	if got := restart(); got != archived+4000 {
		t.Errorf("the slot is at %s, want the other's %s", got, archived+4000)
	}

	testkit.Wait(t, "our turn with the slot", func() (bool, string) {
		_, err := c.Query("SELECT pg_drop_replication_slot('" + cfg.Slot + "')")
		return err == nil, fmt.Sprint(err)
	})
	testkit.Wait(t, "a new slot", func() (bool, string) {
		return restart() != 0 && hold.Status().Recreated == 1, hold.Status().Failure.String()
	})

	c.Psql(t, "INSERT INTO t SELECT generate_series(1, 30000)")
	g.waitFlushed(currentLSN(t, c))
	last := currentLSN(t, c)
	hold.Advance(0, segment.Position{Timeline: 1, LSN: last}) // the last move is made at the end
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if hold.noSQL != (way == "protocol") {
		t.Errorf("the slot was not moved by %s", way)
	}
	if got := restart(); got != last {
		t.Errorf("at the end the slot is at %s, want %s", got, last)
	}
	if g.Status().Reconnects != 0 {
		t.Errorf("the stream suffered: %+v", g.Status())
	}
	g.stop()
}

// TestHoldSlotLost: the server gave up the slot's WAL because it had grown too
// large.
func TestHoldSlotLost(t *testing.T) {
	t.Parallel()
	holdSlotLost(t, 0, "sql", outgrown)
}

// outgrown lets the slot of a server that allows it 2 MiB be invalidated.
func outgrown(t *testing.T, c *testkit.Cluster) {
	c.Psql(t, "CREATE TABLE t AS SELECT generate_series(1, 150000) i")
	c.Psql(t, "CHECKPOINT")
}

func holdSlotLost(t *testing.T, major int, way string, lose func(*testing.T, *testkit.Cluster)) {
	c := testkit.Start(t, testkit.Config{Major: major, SegmentSizeMB: 1, Settings: []string{
		"max_slot_wal_keep_size = 2MB", "max_wal_size = 32MB", "synchronous_commit = off"}})
	cfg := rigConfig(c.Conninfo())
	if way == "protocol" {
		allowOnlyReplication(t, c)
		cfg.Options.Conninfo = strings.ReplaceAll(c.Conninfo(), "user=postgres", "user=walstream")
	}
	cfg.SlotInterval = 100 * time.Millisecond
	g := newRig(t, spoolDir(t), cfg, nil)
	g.wait("the stream", func(st Status) bool { return st.State == Streaming })
	lose(t, c)
	if got := c.Psql(t, "SELECT wal_status FROM pg_replication_slots"); got != "lost" {
		t.Fatalf("the slot is %s, want it lost", got)
	}
	ctx, cancel := context.WithCancel(timeout(t))
	done := make(chan error, 1)
	go func() { done <- g.HoldSlot().Run(ctx) }()
	testkit.Wait(t, "a new slot", func() (bool, string) {
		st := g.HoldSlot().Status()
		return st.Recreated == 1 && st.Holds(), st.Failure.String()
	})
	if got := c.Psql(t, "SELECT wal_status FROM pg_replication_slots"); got != "reserved" {
		t.Errorf("the new slot is %s", got)
	}
	// The stream, connecting again, may have seen the lost slot at the same
	// time and come second.
	conn, err := pg.ConnectReplication(ctx, cfg.Options)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Done()
	seen := SlotState{Name: cfg.Slot, Exists: true, WALStatus: "lost"}
	if err := g.HoldSlot().remake(ctx, conn, Slot{cfg.Options, cfg.Slot}, seen, 0); err != nil {
		t.Error(err)
	}
	if n := g.HoldSlot().Status().Recreated; n != 1 {
		t.Errorf("the slot was made anew %d times", n)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestHoldSlotMissing: without --create-slot a missing slot ends Run before
// anything is opened, and says how to make one.
func TestHoldSlotMissing(t *testing.T) {
	t.Parallel()
	c := testkit.Start(t, testkit.Config{})
	cfg := rigConfig(c.Conninfo())
	cfg.CreateSlot = false
	g := newRig(t, spoolDir(t), cfg, nil)
	err := g.ended()
	if err == nil || !strings.Contains(strings.Join(hint.Of(err), " "), "walstream slot create") {
		t.Errorf("Run returned %v", err)
	}
	if g.sink() != nil {
		t.Error("the sink was opened")
	}
	if got := c.Psql(t, "SELECT count(*) FROM pg_replication_slots"); got != "0" {
		t.Errorf("%s slots", got)
	}

	// Once it has been there, waiting for the server is right.
	cfg.CreateSlot = true
	g = newRig(t, spoolDir(t), cfg, nil)
	g.wait("the stream", func(st Status) bool { return st.State == Streaming })
	c.Stop(syscall.SIGINT)
	g.wait("a few tries", func(st Status) bool { return st.Reconnects > 2 })
	g.stop()
}

// createSlot makes a slot on c and says which cluster that is.
func createSlot(ctx context.Context, t *testing.T, c *testkit.Cluster) (slot Slot, id segment.Identity) {
	t.Helper()
	conn, err := pg.ConnectReplication(ctx, pg.Options{Conninfo: c.Conninfo()})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Done()
	id, _, err = conn.Identity(ctx)
	if err != nil {
		t.Fatal(err)
	}
	slot = Slot{Options: pg.Options{Conninfo: c.Conninfo()}, Name: "walstream"}
	if _, err := slot.Create(ctx); err != nil {
		t.Fatal(err)
	}
	return slot, id
}

// serverOf is what the hold slot has to know of a server.
func serverOf(slot Slot, id segment.Identity, h segment.History) *pg.Server {
	return &pg.Server{Options: slot.Options, Identity: id, History: h}
}

// TestAdvanceByProtocol: walsender itself would take any position. Neither
// back, when another receiver was faster, nor beyond the server's end.
func TestAdvanceByProtocol(t *testing.T) {
	t.Parallel()
	c := testkit.Start(t, small)
	ctx := timeout(t)
	slot, id := createSlot(ctx, t, c)
	h := newHoldSlot(slot, time.Second, zerolog.Nop())
	h.follow(serverOf(slot, id, segment.History{Timeline: 1}))
	h.at = h.place()
	way := protocolAccess{h}
	c.Psql(t, "CREATE TABLE t AS SELECT generate_series(1, 10000) i")
	first := currentLSN(t, c)
	c.Psql(t, "INSERT INTO t SELECT generate_series(1, 10000)")
	end := currentLSN(t, c)
	for _, step := range []struct{ to, want wal.LSN }{{first, first}, {first - 1000, first}, {end, end}} {
		got, err := way.advance(ctx, segment.Position{Timeline: 1, LSN: step.to})
		if err != nil {
			t.Fatal(err)
		}
		st, err := slot.Show(ctx)
		if err != nil || got != step.want || st.RestartLSN != step.want {
			t.Errorf("moved to %s: at %s, Show says %+v, %v; want %s", step.to, got, st, err, step.want)
		}
	}

	got, err := way.advance(ctx, segment.Position{Timeline: 1, LSN: end + mib})
	if now := currentLSN(t, c); err != nil || got < end || got > now {
		t.Errorf("moved beyond the server's end %s: %s, %v", now, got, err)
	}

	h = newHoldSlot(slot, time.Second, zerolog.Nop())
	id.SystemIdentifier++
	h.follow(serverOf(slot, id, segment.History{Timeline: 1}))
	var foreign *segment.ForeignError
	if err := h.keep(ctx); !errors.As(err, &foreign) {
		t.Errorf("another cluster's slot, by SQL: %v", err)
	}
	if _, err := (protocolAccess{h}).advance(ctx, segment.Position{Timeline: 1, LSN: end}); !errors.As(err, &foreign) {
		t.Errorf("another cluster's slot, by protocol: %v", err)
	}
}

// A server that was restored to a point below what is archived keeps what came
// after the fork: none of that is archived, whatever its LSN.
func TestHoldSlotKeepsNewTimeline(t *testing.T) {
	slot := Slot{Name: "s"}
	h := newHoldSlot(slot, time.Second, zerolog.Nop())
	id := segment.Identity{SystemIdentifier: 1, MajorVersion: 15, SegmentSize: segment.MinSize}
	h.follow(serverOf(slot, id, segment.History{Timeline: 1}))
	h.Advance(0, segment.Position{Timeline: 1, LSN: 9 << 20})
	check := func(tli wal.Timeline, want wal.LSN) {
		t.Helper()
		if got := h.allowed(tli); got != want {
			t.Errorf("on timeline %s the slot may move to %s, want %s", tli, got, want)
		}
	}
	check(1, 9<<20)
	check(2, 0) // a server whose history is not known yet
	h.follow(serverOf(slot, id, segment.History{Timeline: 2, Ancestors: []segment.Switch{{Timeline: 1, End: 5 << 20}}}))
	check(2, 5<<20)
	check(1, 0) // the old primary came back
	h.Advance(0, segment.Position{Timeline: 1, LSN: 10 << 20})
	check(2, 5<<20)
	h.Advance(0, segment.Position{Timeline: 2, LSN: 6 << 20})
	check(2, 6<<20)
	h.follow(serverOf(slot, id, segment.History{Timeline: 3, Ancestors: []segment.Switch{{Timeline: 1, End: 4 << 20}}}))
	check(3, 0) // a branch that has nothing of timeline 2
}

// A server that went back in time, as from a snapshot, on the timeline that it
// had: the LSNs up to its end are archived, but not what it wrote there since.
func TestHoldSlotOfServerBehind(t *testing.T) {
	t.Parallel()
	c := testkit.Start(t, small)
	ctx := timeout(t)
	slot, id := createSlot(ctx, t, c)
	before, err := slot.Show(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c.Psql(t, "CREATE TABLE t AS SELECT generate_series(1, 10000) i")
	for _, noSQL := range []bool{false, true} {
		h := newHoldSlot(slot, time.Second, zerolog.Nop())
		h.noSQL = noSQL
		h.follow(serverOf(slot, id, segment.History{Timeline: 1}))
		h.Advance(0, segment.Position{Timeline: 1, LSN: currentLSN(t, c) + mib})
		if err := h.keep(ctx); err != nil {
			t.Error(err)
		}
		h.close()
		if now, err := slot.Show(ctx); err != nil || now.RestartLSN != before.RestartLSN {
			t.Errorf("without SQL %v: the slot moved from %s to %s, %v", noSQL, before.RestartLSN, now.RestartLSN, err)
		}
	}
}

// What this process archived begins behind the slot: between them something
// may be missing, of which the server has the last copy.
func TestHoldSlotStaysBeforeAHole(t *testing.T) {
	t.Parallel()
	c := testkit.Start(t, small)
	ctx := timeout(t)
	slot, id := createSlot(ctx, t, c)
	before, err := slot.Show(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c.Psql(t, "CREATE TABLE t AS SELECT generate_series(1, 100000) i")
	to := segment.Size(mib).Floor(currentLSN(t, c))
	since := to - mib
	h := newHoldSlot(slot, time.Second, zerolog.Nop())
	defer h.close()
	h.follow(serverOf(slot, id, segment.History{Timeline: 1}))
	h.Advance(since, segment.Position{Timeline: 1, LSN: to})
	network := errors.New("connection reset")
	for _, step := range []struct {
		archived wal.LSN
		err      error
		moves    bool
	}{{0, network, false}, {0, nil, false}, {since - mib, nil, false}, {since, nil, true}} {
		h.covered = func(_ context.Context, _ segment.History, from segment.Position) (wal.LSN, error) {
			if want := segment.Size(mib).Floor(before.RestartLSN); from.LSN != want {
				t.Errorf("asked for the WAL from %s on, the slot's segment begins at %s", from.LSN, want)
			}
			return step.archived, step.err
		}
		if err := h.keep(ctx); (err == nil) != step.moves || step.err != nil && !errors.Is(err, step.err) {
			t.Errorf("%+v: %v", step, err)
		}
		want := before.RestartLSN
		if step.moves {
			want = to
		}
		if now, err := slot.Show(ctx); err != nil || now.RestartLSN != want {
			t.Errorf("%+v: the slot is at %s, want %s; %v", step, now.RestartLSN, want, err)
		}
	}
}
