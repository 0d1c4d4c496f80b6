//go:build bench

package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/pprof"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/receiver"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// TestMain makes this program a contender too.
func TestMain(m *testing.M) {
	if len(os.Args) == 6 && os.Args[1] == "receive" {
		if err := receive(os.Args[2], os.Args[3], os.Args[4], os.Args[5]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// receive is what `walstream receive` does without an archive: WAL is streamed
// and made durable in a spool, and stays there, as pg_receivewal's does. It
// ends when all before end is durable, or by a signal, and prints the most
// memory that it had. With end "far" it acknowledges what is in an archive that
// is far away.
func receive(conninfo, dir, slot, end string) error {
	until, err := wal.ParseLSN(strings.Replace(end, "far", "0/0", 1))
	if err != nil {
		return err
	}
	if name := os.Getenv("BENCH_PROFILE"); name != "" {
		f, err := os.Create(fmt.Sprintf("%s.%d", name, os.Getpid()))
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	log := zerolog.New(os.Stderr).Level(zerolog.WarnLevel)
	var spool *segment.Spool
	var recv *receiver.Receiver
	conf := receiver.Config{
		Options: pg.Options{Conninfo: conninfo, ApplicationName: "bench"}, Slot: slot, Log: log,
		OpenSink: func(_ context.Context, id segment.Identity, _ receiver.SlotState) (receiver.Sink, error) {
			spool, err = segment.OpenSpool(segment.SpoolConfig{Dir: dir + "/spool", Identity: id, Log: log})
			return spool, err
		},
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT)
	defer stop()
	if end == "far" {
		archiving(ctx, &conf, &recv, dir, log)
	}
	if recv, err = receiver.New(conf); err != nil {
		return err
	}
	if until > 0 {
		go func() {
			defer stop()
			for recv.Status().Flushed < until && ctx.Err() == nil {
				time.Sleep(10 * time.Millisecond)
			}
		}()
	}
	if err := recv.Run(ctx); err != nil {
		return err
	}
	status, err := os.ReadFile("/proc/self/status")
	_, peak, _ := strings.Cut(string(status), "VmHWM:")
	fmt.Fprintln(os.Stderr, peak)
	return errors.Join(err, spool.Close())
}
