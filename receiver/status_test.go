package receiver

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/wal"
)

// CaughtUp is the newest time of which all WAL is known to be durable here.
func TestCaughtUp(t *testing.T) {
	start := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	now := start
	b := newBoard(func() time.Time { return now })
	at := func(second int) { now = start.Add(time.Duration(second) * time.Second) }
	check := func(what string, second int) {
		t.Helper()
		if got := b.read().CaughtUp; got != start.Add(time.Duration(second)*time.Second) && (second >= 0 || !got.IsZero()) {
			t.Errorf("%s: caught up at %s, want second %d", what, got, second)
		}
	}
	hear := func(second int, received, server wal.LSN) {
		at(second)
		b.streaming(1)
		b.heard(0, received, server)
	}
	check("never connected", -1)
	hear(1, 100, 300)
	check("nothing is durable", -1)
	hear(2, 200, 400)
	b.flushed(200)
	check("300 is missing", -1)
	hear(5, 300, 500)
	b.flushed(300)
	check("what the server had in second 1", 1)
	b.flushed(450)
	check("not yet what it had in second 5", 1)
	at(6)
	b.flushed(500)
	at(9)
	check("nothing is missing", 9)
	b.failed(errServerShutdown)
	at(30)
	check("what the server has now is not known", 5)
	hear(31, 600, 600)
	at(32)
	check("600 is missing", 5)
	b.flushed(600)
	b.failed(errServerShutdown)
	check("what it had when it was heard last", 31)
	if st := b.read(); !st.LastFlush.Equal(start.Add(32*time.Second)) || st.Failure.Count != 1 {
		t.Errorf("%+v", st)
	}
}

// Whether a walsender is synchronous is seen by roles that may read all
// statistics; for others it is not known.
func TestSyncStates(t *testing.T) {
	c := testkit.Start(t, testkit.Config{SegmentSizeMB: 1})
	c.Psql(t, "CREATE ROLE walstream LOGIN REPLICATION")
	cfg := rigConfig(strings.ReplaceAll(c.Conninfo(), "user=postgres", "user=walstream"))
	cfg.SlotInterval = 100 * time.Millisecond
	g := newRig(t, spoolDir(t), cfg, nil)
	ctx, cancel := context.WithCancel(timeout(t))
	done := make(chan error, 1)
	go func() { done <- g.HoldSlot().Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	await := func(what string, good func(map[uint32]string) bool) {
		t.Helper()
		testkit.Wait(t, what, func() (bool, string) {
			states := g.HoldSlot().Status().SyncStates
			return good(states), fmt.Sprintf("%v, ours is %d", states, g.Status().BackendPID)
		})
	}
	await("nothing to be seen", func(s map[uint32]string) bool { return s != nil && len(s) == 0 })
	c.Psql(t, "GRANT pg_read_all_stats TO walstream")
	await("walstream to be asynchronous", func(s map[uint32]string) bool { return s[g.Status().BackendPID] == "async" })
	c.Psql(t, "ALTER SYSTEM SET synchronous_standby_names = 'walstream'")
	c.Reload()
	await("walstream to be synchronous", func(s map[uint32]string) bool { return s[g.Status().BackendPID] == "sync" })
	g.stop()
	await("walstream to be gone", func(s map[uint32]string) bool { return s != nil && len(s) == 0 })
}
