//go:build matrix

package receiver

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/segment"
)

// TestMatrix keeps the slot on servers of each major version, by SQL and by
// the replication protocol, and makes it anew when the server has given it up.
func TestMatrix(t *testing.T) {
	for _, major := range testkit.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Run("hold", func(t *testing.T) { holdOn(t, major) })
			t.Run("failover", func(t *testing.T) { failoverOn(t, major) })
			t.Run("lost by sql", func(t *testing.T) { holdSlotLost(t, major, "sql", outgrown) })
			if major >= 15 {
				t.Run("lost by protocol", func(t *testing.T) { holdSlotLost(t, major, "protocol", outgrown) })
			}
			if major >= 18 {
				t.Run("idle by sql", func(t *testing.T) { holdSlotLost(t, major, "sql", idle) })
				t.Run("idle by protocol", func(t *testing.T) { holdSlotLost(t, major, "protocol", idle) })
				t.Run("create", func(t *testing.T) { createOverIdle(t, major) })
			}
		})
	}
}

func holdOn(t *testing.T, major int) {
	cfg := small
	cfg.Major = major
	c := testkit.Start(t, cfg)
	c.Psql(t, "CREATE TABLE t (i int)")
	holdSlot(t, c, "sql")
	allowOnlyReplication(t, c)
	if major >= 15 {
		holdSlot(t, c, "protocol")
		return
	}
	// These have no command to ask for a slot.
	rig := rigConfig(strings.ReplaceAll(c.Conninfo(), "user=postgres", "user=walstream"))
	err := newRig(t, spoolDir(t), rig, nil).ended()
	if err == nil || !strings.Contains(err.Error(), "slot walstream") || !strings.Contains(strings.Join(hint.Of(err), " "), "pg_reload_conf(): local postgres walstream") {
		t.Errorf("without SQL: %v, hints %q", err, hint.Of(err))
	}
}

// failoverOn: the slot is kept on a standby, which is followed when it is
// promoted beside its primary.
func failoverOn(t *testing.T, major int) {
	cfg := small
	cfg.Major = major
	c := testkit.Start(t, cfg)
	s := copyOf(t, c)
	rig := rigConfig("host=" + c.SocketDir + "," + s.SocketDir + " port=5432 user=postgres")
	rig.SlotInterval = 100 * time.Millisecond
	g := newRig(t, spoolDir(t), rig, nil)
	ctx, cancel := context.WithCancel(timeout(t))
	done := make(chan error, 1)
	go func() { done <- g.HoldSlot().Run(ctx) }()
	c.Psql(t, "CREATE TABLE t AS SELECT generate_series(1, 50000) i")
	archived := currentLSN(t, c)
	g.waitFlushed(archived)
	s.CaughtUp(c)
	g.HoldSlot().Advance(0, segment.Position{Timeline: 1, LSN: archived})
	testkit.Wait(t, "the slot on the standby", func() (bool, string) {
		at := s.Psql(t, "SELECT coalesce(max(restart_lsn), '0/0') FROM pg_replication_slots")
		return at == archived.String(), at
	})
	promote(t, s)
	s.Psql(t, "CREATE TABLE u AS SELECT generate_series(1, 50000) i")
	g.wait("the new timeline", func(st Status) bool { return st.State == Streaming && st.Timeline == 2 })
	g.waitFlushed(currentLSN(t, s))
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	g.stop()
}

// copyOf makes a standby that takes the files of c's WAL: not every build of
// the servers can stream, and pg_basebackup is of one version only.
func copyOf(t *testing.T, c *testkit.Cluster) *testkit.Cluster {
	c.Stop(syscall.SIGINT)
	dir := filepath.Join(testkit.Dir(t), "data")
	testkit.Run(t, "cp", "-a", c.DataDir, dir)
	c.Start()
	testkit.Run(t, "touch", filepath.Join(dir, "standby.signal"))
	s := testkit.Adopt(t, dir)
	s.Configure("restore_command = 'cp "+c.DataDir+"/pg_wal/%f %p'", "wal_retrieve_retry_interval = 100ms", "hot_standby = on")
	s.Start()
	return s
}

// idle lets the slot be invalidated because nobody used it.
func idle(t *testing.T, c *testkit.Cluster) {
	c.Psql(t, "ALTER SYSTEM SET idle_replication_slot_timeout = '1s'")
	c.Reload()
	testkit.Wait(t, "the slot to time out", func() (bool, string) {
		c.Psql(t, "CHECKPOINT")
		reason := c.Psql(t, "SELECT coalesce(invalidation_reason, 'none') FROM pg_replication_slots")
		return reason == "idle_timeout", reason
	})
	c.Psql(t, "ALTER SYSTEM RESET idle_replication_slot_timeout")
	c.Reload()
}

// createOverIdle: a slot that has timed out keeps nothing and is replaced,
// although the server still tells where it stood.
func createOverIdle(t *testing.T, major int) {
	c := testkit.Start(t, testkit.Config{Major: major})
	s := Slot{Options: pg.Options{Conninfo: c.Conninfo()}, Name: "walstream"}
	if _, err := s.Create(timeout(t)); err != nil {
		t.Fatal(err)
	}
	idle(t, c)
	if created, err := s.Create(timeout(t)); err != nil || !created {
		t.Errorf("created %v, %v", created, err)
	}
	if st, err := s.Show(timeout(t)); err != nil || !st.Holds() {
		t.Errorf("replaced: %+v, %v", st, err)
	}
}
