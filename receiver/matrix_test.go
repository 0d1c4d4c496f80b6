//go:build matrix

package receiver

import (
	"fmt"
	"strings"
	"testing"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/internal/testkit"
)

// TestMatrix keeps the slot on servers of each major version, by SQL and by
// the replication protocol, and makes it anew when the server has given it up.
func TestMatrix(t *testing.T) {
	for _, major := range testkit.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Run("hold", func(t *testing.T) { holdOn(t, major) })
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
	if err == nil || !strings.Contains(err.Error(), "slot walstream") || !strings.Contains(strings.Join(hint.Of(err), " "), "pg_hba.conf: local postgres walstream") {
		t.Errorf("without SQL: %v, hints %q", err, hint.Of(err))
	}
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
