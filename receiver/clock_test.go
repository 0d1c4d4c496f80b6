package receiver

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/walstream/walstream/internal/testkit"
)

// The clock of this machine jumps a day forward and two back between one look
// and the next. It dates what the status shows; nothing waits by it.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	c := testkit.Start(t, testkit.Config{SegmentSizeMB: 1})
	cfg := rigConfig(c.Conninfo())
	var looks atomic.Int64
	cfg.Now = func() time.Time {
		return time.Now().Round(0).Add(time.Duration(looks.Add(1)%3-1) * 24 * time.Hour)
	}
	cfg.StatusInterval = 10 * time.Millisecond
	g := newRig(t, spoolDir(t), cfg, nil)
	for range 3 {
		c.Psql(t, "SELECT pg_switch_wal()")
		c.Psql(t, "SELECT pg_logical_emit_message(false, 'clock', repeat('x', 100000))")
		g.waitFlushed(currentLSN(t, c))
	}
	testkit.Wait(t, "the server to know what is durable", func() (bool, string) {
		out, err := c.Query("SELECT flush_lsn >= pg_current_wal_flush_lsn() FROM pg_stat_replication")
		if err != nil {
			t.Fatal(err)
		}
		return out == "t", out
	})
	if st := g.Status(); st.Reconnects != 0 || st.Failure != nil {
		t.Errorf("the stream did not go on: %+v", st)
	}
	if looks.Load() < 10 {
		t.Errorf("the clock was looked at %d times", looks.Load())
	}
	g.stop()
}
