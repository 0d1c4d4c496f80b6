package recovery

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walstream/walstream/archive"
)

// Trouble that passes is waited for; trouble that does not, for as long as was
// asked for; damage not at all.
func TestWalGetRetries(t *testing.T) {
	g := newGetter(t)
	run := func(t *testing.T, failures int, file string, mangle func(string, []byte) []byte) (out Outcome, took time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			calls := 0
			store := faulty{Store: g.store, mangle: mangle, get: func(name string) error {
				if calls++; calls <= failures && name != "walstream.json" {
					return errors.New("timeout")
				}
				return nil
			}}
			begin := time.Now()
			out, _ = WalGet(context.Background(), WalGetConfig{
				Open:  func(ctx context.Context) (*archive.Archive, error) { return archive.Open(ctx, store) },
				Spool: g.spool,
			}, file, g.target())
			took = time.Since(begin)
		})
		return out, took
	}
	if out, took := run(t, 20, seg(1, 1), nil); out != Delivered || took < time.Second {
		t.Errorf("passing trouble: %d after %s", out.ExitCode(), took)
	}
	g.spool = filepath.Join(g.dir, "mistyped")
	if out, took := run(t, 0, seg(1, 1), nil); out != Trouble || took > 0 {
		t.Errorf("no spool: %d after %s", out.ExitCode(), took)
	}
	g.spool = ""
	if out, took := run(t, 1<<30, seg(1, 1), nil); out != Trouble || took < DefaultRetry-time.Minute || took > DefaultRetry+time.Minute {
		t.Errorf("lasting trouble: %d after %s", out.ExitCode(), took)
	}
	flip := func(name string, b []byte) []byte {
		if strings.Contains(name, seg(1, 1)) {
			b[len(b)/2] ^= 1
		}
		return b
	}
	if out, took := run(t, 0, seg(1, 1), flip); out != Trouble || took != 0 {
		t.Errorf("damage: %d after %s", out.ExitCode(), took)
	}
	if out, took := run(t, 0, seg(1, 6), nil); out != Absent || took != 0 {
		t.Errorf("absence: %d after %s", out.ExitCode(), took)
	}
}

// A request that is cancelled is trouble too.
func TestWalGetCancelled(t *testing.T) {
	g := newGetter(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	out, err := WalGet(ctx, WalGetConfig{Open: func(ctx context.Context) (*archive.Archive, error) { return archive.Open(ctx, g.store) }}, seg(1, 6), g.target())
	if out != Trouble || err == nil {
		t.Errorf("%d, %v", out.ExitCode(), err)
	}
}
