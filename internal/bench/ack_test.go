//go:build bench

package bench

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/receiver"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// storeTrip is how far away the store is.
const storeTrip = 30 * time.Millisecond

// TestAckArchive: each commit waits until a store confirms it that takes its
// time. Commits of many clients go together.
func TestAckArchive(t *testing.T) {
	s := newStand(t, "max_connections = 100")
	s.primary.Psql(t, "CREATE TABLE bench (client int, n int)")
	s.primary.Configure("synchronous_standby_names = '*'")
	ours := contender{"walstream, ack: archive", func(dir, slot string) *exec.Cmd {
		return testkit.Command(s.t, s.self, "receive", s.primary.Conninfo(), dir, slot, "far")
	}}
	fmt.Printf("\n### Commits that wait for the archive\n\n%s; a store with a round trip of %s, %s each.\n\n", s.conditions(), storeTrip, s.plan.round)
	fmt.Println("| clients | commits/s | p99 ms | CPU µs/commit | commits/s against one client |")
	fmt.Println("|---:|---:|---:|---:|---:|")
	one := 0.0
	for _, clients := range []int{1, 8, 64} {
		r := s.commits(ours, clients)
		if clients == 1 {
			one = r.rate
		}
		fmt.Printf("| %d | %.0f | %.2f | %.1f | %.1f× |\n", clients, r.rate, r.p99, r.cpu, r.rate/one)
	}
}

// far is a store that is far away.
type far struct{ archive.Store }

func (f far) Put(ctx context.Context, name string, body io.Reader) error {
	time.Sleep(storeTrip)
	return f.Store.Put(ctx, name, body)
}

func (f far) Delete(ctx context.Context, name string) error {
	time.Sleep(storeTrip)
	return f.Store.Delete(ctx, name)
}

// archiving makes conf one that acknowledges what is in a far archive.
func archiving(ctx context.Context, conf *receiver.Config, recv **receiver.Receiver, dir string, log zerolog.Logger) {
	now := make(chan struct{}, 1)
	open := conf.OpenSink
	conf.Confirmed = true
	conf.OpenSink = func(first context.Context, id segment.Identity, slot receiver.SlotState) (receiver.Sink, error) {
		sink, err := open(first, id, slot)
		if err != nil {
			return nil, err
		}
		store, err := archive.OpenDir(archive.DirConfig{Path: filepath.Join(dir, "archive"), Create: true})
		if err != nil {
			return nil, err
		}
		a, err := archive.Pin(ctx, far{store}, id)
		if err != nil {
			return nil, err
		}
		spool, _ := sink.(*segment.Spool)
		up := archive.NewUploader(archive.UploaderConfig{Archive: a, Source: spool, Log: log, Tail: archive.TailConfig{
			Now: now, Window: 4, OnStored: func(end segment.Position) { (*recv).Confirm(end) },
		}})
		go up.Run(ctx)
		return telling{spool, now}, nil
	}
}

// telling is a spool that tells when WAL in it is durable.
type telling struct {
	*segment.Spool
	synced chan<- struct{}
}

func (s telling) Sync() (wal.LSN, error) {
	end, err := s.Spool.Sync()
	select {
	case s.synced <- struct{}{}:
	default:
	}
	return end, err
}
