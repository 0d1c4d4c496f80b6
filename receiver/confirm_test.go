package receiver

import (
	"syscall"
	"testing"
	"time"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// What is durable is not acknowledged before the archive has it. Pings are
// answered all the time.
func TestConfirmed(t *testing.T) {
	t.Parallel()
	durable, none, half, all, done := make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan struct{})
	upTo := func(s *fakeStream, end wal.LSN) {
		if err := s.until(func(st status) bool {
			if st.flush > end {
				t.Errorf("acknowledged %s, confirmed is %s", st.flush, end)
			}
			return st.flush == end && st.write == mib+1000 && !st.reply
		}); err != nil {
			t.Errorf("up to %s: %v", end, err)
		}
	}
	f := newFake(t, func(s *fakeStream) {
		defer close(done)
		s.copyBoth()
		s.wal(mib, testWAL(1000))
		<-durable
		for range 3 {
			s.keepalive(mib + 1000)
			upTo(s, 0)
		}
		close(none)
		upTo(s, mib+500)
		close(half)
		upTo(s, mib+1000)
		close(all)
		s.linger()
	})
	cfg := rigConfig(f.conninfo())
	cfg.Confirmed = true
	g := newRig(t, spoolDir(t), cfg, nil)
	g.waitFlushed(mib + 1000)
	close(durable)
	<-none
	g.Confirm(segment.Position{Timeline: 1, LSN: mib + 500})
	g.Confirm(segment.Position{Timeline: 1, LSN: mib + 100}) // is no news
	<-half
	g.Confirm(segment.Position{Timeline: 1, LSN: 2 * mib}) // more than has come
	<-all
	g.stop()
	<-done
}

// A store that confirms nothing must not keep a server from shutting down: the
// connection is given up. As long as something is confirmed now and then, or
// nothing waits, it is not.
func TestConfirmedNothing(t *testing.T) {
	t.Parallel()
	c := testkit.Start(t, testkit.Config{SegmentSizeMB: 1})
	cfg := rigConfig(c.Conninfo())
	cfg.Confirmed, cfg.ConfirmTimeout = true, 3*time.Second
	g := newRig(t, spoolDir(t), cfg, nil)
	g.wait("the stream", func(st Status) bool { return st.State == Streaming })
	write := func() wal.LSN {
		c.Psql(t, "SELECT pg_logical_emit_message(false, 'x', 'y')")
		g.waitFlushed(currentLSN(t, c))
		return currentLSN(t, c)
	}
	g.Confirm(segment.Position{Timeline: 1, LSN: write()}) // to a server that was never told of any it is enough that they were written
	write()
	began := time.Now()
	c.Stop(syscall.SIGINT) // waits for us
	if waited := time.Since(began); waited < time.Second {
		t.Errorf("the server has shut down after %s, although nothing was acknowledged", waited)
	}
	g.wait("the connection to be given up", func(st Status) bool { return st.Failure != nil })
}
