package receiver

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// rig is a receiver with a real spool in a directory, or with the sink that
// wrap puts around it.
type rig struct {
	*Receiver
	t      testing.TB
	dir    string // of the spool
	cancel context.CancelFunc
	done   chan struct{}
	err    error // of Run, after done

	mu    sync.Mutex
	spool *segment.Spool
}

// rigConfig fills what tests leave open.
func rigConfig(conninfo string) Config {
	return Config{Options: pg.Options{Conninfo: conninfo}, Slot: "walstream", CreateSlot: true}
}

// newRig starts a receiver on the spool in dir; it is stopped when the test
// ends.
func newRig(t testing.TB, dir string, cfg Config, wrap func(Sink) Sink) *rig {
	t.Helper()
	return newRigOn(t, nil, dir, cfg, wrap)
}

func newRigOn(t testing.TB, disk fsx.FS, dir string, cfg Config, wrap func(Sink) Sink) *rig {
	t.Helper()
	g := &rig{t: t, dir: dir, done: make(chan struct{})}
	cfg.Log = zerolog.New(zerolog.NewTestWriter(t))
	cfg.OpenSink = func(_ context.Context, id segment.Identity, _ SlotState) (Sink, error) {
		spool, err := segment.OpenSpool(segment.SpoolConfig{Dir: dir, FS: disk, Identity: id, Log: cfg.Log})
		if err != nil {
			return nil, err
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		g.spool = spool
		if wrap != nil {
			return wrap(spool), nil
		}
		return spool, nil
	}
	var err error
	if g.Receiver, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.cancel = cancel
	go func() {
		defer close(g.done)
		g.err = g.Run(ctx)
		if s := g.sink(); s != nil {
			s.Close()
		}
	}()
	t.Cleanup(func() { g.cancel(); <-g.done })
	return g
}

func (g *rig) sink() *segment.Spool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.spool
}

// stop ends the receiver as a signal would.
func (g *rig) stop() {
	g.t.Helper()
	g.cancel()
	<-g.done
	if g.err != nil {
		g.t.Fatalf("Run returned %v after a stop", g.err)
	}
}

// wait waits for a state of the receiver.
func (g *rig) wait(what string, done func(Status) bool) {
	g.t.Helper()
	testkit.Wait(g.t, what, func() (bool, string) {
		st := g.Status()
		select {
		case <-g.done:
			g.t.Fatalf("waiting for %s: Run returned %v", what, g.err)
		default:
		}
		return done(st), string(st.State) + " " + st.Received.String() + " " + st.Failure.String()
	})
}

func (g *rig) waitFlushed(lsn wal.LSN) {
	g.t.Helper()
	g.wait("durable "+lsn.String(), func(st Status) bool { return st.State == Streaming && st.Flushed >= lsn })
}

// ended waits for Run to return by itself.
func (g *rig) ended() error {
	g.t.Helper()
	select {
	case <-g.done:
		return g.err
	case <-time.After(30 * time.Second):
		g.t.Fatalf("Run did not return: %+v", g.Status())
		return nil
	}
}

func spoolDir(t testing.TB) string { return filepath.Join(t.TempDir(), "spool") }

// currentLSN is how far the cluster has flushed its WAL.
func currentLSN(t testing.TB, c *testkit.Cluster) wal.LSN {
	t.Helper()
	return parseLSN(t, c.Psql(t, "SELECT pg_current_wal_flush_lsn()"))
}

func parseLSN(t testing.TB, text string) wal.LSN {
	t.Helper()
	lsn, err := wal.ParseLSN(text)
	if err != nil {
		t.Fatal(err)
	}
	return lsn
}
