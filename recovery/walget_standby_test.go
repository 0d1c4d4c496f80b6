package recovery

import (
	"context"
	"errors"
	"testing"

	"github.com/walstream/walstream/archive"
)

// A standby is not stopped by trouble, but by a restore_command that is wrong or
// crashes.
func TestWalGetStandby(t *testing.T) {
	g := newGetter(t)
	ask := func(file string, get func(string) error) Outcome {
		out, err := WalGet(t.Context(), WalGetConfig{
			Open: func(ctx context.Context) (*archive.Archive, error) {
				return archive.Open(ctx, faulty{Store: g.store, get: get})
			},
			RetryFor: -1, Standby: true,
		}, file, g.target())
		if (err == nil) != (out == Delivered) {
			t.Errorf("%s: %d, %v", file, out.ExitCode(), err)
		}
		return out
	}
	well := func(string) error { return nil }
	away := func(string) error { return errors.New("connection reset") }
	bug := func(string) error { panic("bug") }
	for _, c := range []struct {
		file string
		get  func(string) error
		want Outcome
	}{
		{seg(1, 1), well, Delivered}, {seg(1, 6), well, Absent}, {seg(1, 1), away, Absent}, {"00000002.history", away, Absent},
		{seg(1, 1), bug, Trouble}, {"RECOVERYXLOG", well, Trouble}, {"000000010000000000FFFFFF", well, Trouble},
	} {
		if got := ask(c.file, c.get); got != c.want {
			t.Errorf("%s: %d, want %d", c.file, got.ExitCode(), c.want.ExitCode())
		}
	}
}
