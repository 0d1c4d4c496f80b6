package receiver

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// The slot gives up what is not archived only beyond the limit, only as much
// as that takes, and never what is not durable here.
func TestHoldMaxGoal(t *testing.T) {
	const limit = 4 * mib
	for _, tc := range []struct {
		name                               string
		archived, restart, durable, server wal.LSN
		timeline                           wal.Timeline // of what is durable
		limit                              wal.LSN
		want                               wal.LSN
		over                               bool
	}{
		{"below the limit", 3 * mib, 2 * mib, 7 * mib, 7 * mib, 1, limit, 3 * mib, false},
		{"beyond", 3 * mib, 2 * mib, 9*mib + 5, 9*mib + 5, 1, limit, 6 * mib, true},
		{"nothing archived", 0, 2*mib + 7, 9*mib + 5, 9*mib + 5, 1, limit, 6 * mib, true},
		{"not durable", 3 * mib, 2 * mib, 5*mib + 7, 90 * mib, 1, limit, 5 * mib, true},
		{"nothing more is durable", 3 * mib, 2 * mib, 3 * mib, 90 * mib, 1, limit, 3 * mib, false},
		{"durable of another timeline", 3 * mib, 2 * mib, 80 * mib, 90 * mib, 2, limit, 3 * mib, false},
		{"no limit", 3 * mib, 2 * mib, 90 * mib, 90 * mib, 1, 0, 3 * mib, false},
		{"the archive ahead of the server", 9 * mib, 2 * mib, 5 * mib, 5 * mib, 1, limit, 0, false},
	} {
		h := newHoldSlot(Slot{Name: "s"}, time.Second, zerolog.Nop())
		h.identity.SegmentSize = mib
		h.max, h.history = tc.limit, segment.History{Timeline: 1}
		h.durable = func() segment.Position { return segment.Position{Timeline: tc.timeline, LSN: tc.durable} }
		h.Advance(0, segment.Position{Timeline: 1, LSN: tc.archived})
		to, over := h.goal(segment.Position{Timeline: 1, LSN: tc.server}, tc.restart)
		if to != tc.want || over != tc.over {
			t.Errorf("%s: the slot may move to %s, %v; want %s, %v", tc.name, to, over, tc.want, tc.over)
		}
	}
}

// TestHoldMax: with an archive that takes nothing the server keeps no more than
// the limit, which is told until the archive has caught up.
func TestHoldMax(t *testing.T) {
	t.Parallel()
	c := testkit.Start(t, small)
	c.Psql(t, "CREATE TABLE t (i int)")
	cfg := rigConfig(c.Conninfo())
	cfg.SlotInterval, cfg.HoldMax = 100*time.Millisecond, 3*mib
	g := newRig(t, spoolDir(t), cfg, nil)
	hold := keepSlot(t, g)
	g.wait("the stream", func(st Status) bool { return st.State == Streaming })
	fill(t, c, 8)
	end := currentLSN(t, c)
	testkit.Wait(t, "the slot to follow the spool", func() (bool, string) {
		at := parseLSN(t, c.Psql(t, "SELECT restart_lsn FROM pg_replication_slots"))
		if held := g.Status().Flushed; at > held {
			t.Errorf("the slot is at %s, durable is %s", at, held)
		}
		return at+4*mib > end && !hold.Status().OverMax.IsZero(), fmt.Sprintf("%s of %s, %+v", at, end, hold.Status())
	})
	g.waitFlushed(end)
	hold.Advance(0, segment.Position{Timeline: 1, LSN: segment.Size(mib).Floor(end)})
	testkit.Wait(t, "the alarm to end", func() (bool, string) { return hold.Status().OverMax.IsZero(), fmt.Sprintf("%+v", hold.Status()) })
	g.stop()
}

// keepSlot runs the hold slot of g until the test ends.
func keepSlot(t *testing.T, g *rig) *HoldSlot {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.HoldSlot().Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return g.HoldSlot()
}

// TestStreamSlot: with slot_mode stream the slot follows what is durable here.
// One that was dropped or given up meanwhile is made anew, and streaming goes
// on.
func TestStreamSlot(t *testing.T) {
	t.Parallel()
	c := testkit.Start(t, small)
	c.Psql(t, "CREATE TABLE t (i int)")
	cfg := rigConfig(c.Conninfo())
	cfg.SlotInterval, cfg.StatusInterval, cfg.StreamSlot = 100*time.Millisecond, 100*time.Millisecond, true
	g := newRig(t, spoolDir(t), cfg, nil)
	hold := keepSlot(t, g)
	follows := func() {
		t.Helper()
		fill(t, c, 2)
		end := currentLSN(t, c)
		testkit.Wait(t, "the slot to follow", func() (bool, string) {
			at := c.Psql(t, "SELECT coalesce(max(restart_lsn), '0/0') FROM pg_replication_slots WHERE active")
			return parseLSN(t, at) >= end, at + " of " + end.String()
		})
		testkit.Wait(t, "status to tell", func() (bool, string) {
			st := hold.Status()
			return st.Active && st.Streamed && st.RestartLSN >= end && st.Failure == nil, fmt.Sprintf("%+v", st)
		})
	}
	follows()
	testkit.Wait(t, "the slot to be dropped", func() (bool, string) {
		_, err := c.Query("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots")
		if err == nil {
			_, err = c.Query("SELECT pg_drop_replication_slot('walstream')")
		}
		return err == nil, fmt.Sprint(err)
	})
	follows()
	if n := hold.Status().Recreated; n != 1 {
		t.Errorf("made anew %d times", n)
	}
	g.stop()
}

// TestSlotInUse: a slot that somebody streams through does not keep what is
// not archived. That is told once it lasts, and over when it is.
func TestSlotInUse(t *testing.T) {
	t.Parallel()
	c := testkit.Start(t, small)
	c.Psql(t, "CREATE TABLE t (i int)")
	cfg := rigConfig(c.Conninfo())
	cfg.SlotInterval = 100 * time.Millisecond
	g := newRig(t, spoolDir(t), cfg, nil)
	g.wait("the stream", func(st Status) bool { return st.State == Streaming })
	other := cfg
	other.StreamSlot = true
	other.Options.ApplicationName = "other"
	user := newRig(t, spoolDir(t), other, nil)
	user.wait("the other's stream", func(st Status) bool { return st.State == Streaming })
	hold := keepSlot(t, g)
	fill(t, c, 1)
	hold.Advance(0, segment.Position{Timeline: 1, LSN: currentLSN(t, c)})
	testkit.Wait(t, "an explanation", func() (bool, string) {
		f := hold.Status().Failure
		return f != nil && strings.Contains(f.Error, "streams through slot") && strings.Contains(strings.Join(f.Hints, " "), "--slot"), fmt.Sprintf("%+v", f)
	})
	third := newRig(t, spoolDir(t), other, nil)
	third.wait("the refusal", func(st Status) bool {
		return st.Failure != nil && strings.Contains(strings.Join(st.Failure.Hints, " "), "slot_mode: hold")
	})
	third.stop()
	user.stop()
	testkit.Wait(t, "the slot to be free", func() (bool, string) { return hold.Status().Failure == nil, "" })
	g.stop()
}
