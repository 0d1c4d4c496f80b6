package receiver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// together is the connection string that names all addresses.
func together(addrs ...net.Addr) string {
	var hosts, ports []string
	for _, a := range addrs {
		host, port, _ := net.SplitHostPort(a.String())
		hosts, ports = append(hosts, host), append(ports, port)
	}
	return fmt.Sprintf("host=%s port=%s user=walstream sslmode=disable", strings.Join(hosts, ","), strings.Join(ports, ","))
}

// host describes a server: its timeline, what that descends from, its state.
type host struct {
	timeline wal.Timeline
	history  string
	standby  bool
	system   uint64
}

func (h host) start(t *testing.T) *fake {
	f := newFake(t, func(s *fakeStream) { s.copyBoth(); s.keepalive(s.flush); s.linger() })
	f.timeline, f.standby, f.flush = h.timeline, h.standby, 2*mib
	f.histories = map[wal.Timeline]string{h.timeline: h.history}
	if h.system != 0 {
		f.system = h.system
	}
	return f
}

const (
	from1 = "1\t0/180000\tno recovery target specified\n"
	from2 = "2\t0/180000\tno recovery target specified\n"
)

// TestChooseHost: of several hosts the primary with the newest timeline is
// streamed from, if it goes on with what is here and no other host is further.
func TestChooseHost(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		hosts  []host
		held   bool   // WAL of timeline 1 is here
		want   int    // index of the host, -1 for none
		reason string // why none is
	}{
		"standby last":            {[]host{{timeline: 1}, {timeline: 1, standby: true}}, false, 0, ""},
		"standby first":           {[]host{{timeline: 1, standby: true}, {timeline: 1}}, false, 1, ""},
		"two primaries":           {[]host{{timeline: 1}, {timeline: 2, history: from1}}, false, 1, ""},
		"two primaries, held":     {[]host{{timeline: 2, history: from1}, {timeline: 1}}, true, 0, ""},
		"another branch is newer": {[]host{{timeline: 3, history: from2}, {timeline: 1}}, true, 1, ""},
		"a standby is further":    {[]host{{timeline: 1}, {timeline: 2, history: from1, standby: true}}, false, -1, "an old primary"},
		"standbys only":           {[]host{{timeline: 1, standby: true}, {timeline: 1, standby: true}}, false, -1, "no primary: in recovery are"},
		"another branch only":     {[]host{{timeline: 3, history: from2}, {timeline: 1, standby: true}}, true, -1, "does not descend"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := spoolDir(t)
			if c.held {
				f := newFake(t, func(s *fakeStream) { s.copyBoth(); s.wal(mib, testWAL(mib)); s.linger() })
				g := newRig(t, dir, rigConfig(f.conninfo()), nil)
				g.wait("some WAL", func(st Status) bool { return st.Flushed >= 2*mib })
				g.stop()
			}
			var fakes []*fake
			var addrs []net.Addr
			for _, h := range c.hosts {
				f := h.start(t)
				fakes, addrs = append(fakes, f), append(addrs, f.ln.Addr())
			}
			g := newRig(t, dir, rigConfig(together(addrs...)), nil)
			if c.want < 0 {
				g.wait("the refusal", func(st Status) bool { return st.State == Waiting && strings.Contains(st.Failure.String(), c.reason) })
			} else {
				g.wait("the stream", func(st Status) bool { return st.State == Streaming })
			}
			g.stop()
			for i, f := range fakes {
				if streamed := slices.ContainsFunc(f.commands(), withoutSlot); streamed != (i == c.want) {
					t.Errorf("host %d: streamed from: %v", i, streamed)
				}
			}
		})
	}
}

// withoutSlot tells a stream from what moves the slot of a standby.
func withoutSlot(command string) bool { return !strings.Contains(command, "SLOT") }

// TestHostsOfTwoClusters: before it is known whose WAL is here, none is taken.
func TestHostsOfTwoClusters(t *testing.T) {
	a, b := host{timeline: 1}.start(t), host{timeline: 1, system: 43}.start(t)
	g := newRig(t, spoolDir(t), rigConfig(together(a.ln.Addr(), b.ln.Addr())), nil)
	var foreign *segment.ForeignError
	if err := g.ended(); !errors.As(err, &foreign) || g.sink() != nil {
		t.Errorf("Run returned %v", err)
	}
}

// TestSilentHost: a host that takes connections and never answers does not
// keep the other from being streamed from.
func TestSilentHost(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	f := host{timeline: 1}.start(t)
	g := newRig(t, spoolDir(t), rigConfig(together(silent.Addr(), f.ln.Addr())), nil)
	g.wait("the stream", func(st Status) bool { return st.State == Streaming })
	g.stop()
}

// TestNothingAcknowledgedToOldPrimary: the other host turns out to be on a
// timeline that descends from the one that is streamed, while the last bytes
// wait for the disk. They are not acknowledged, and nobody is streamed from
// before that other host's timeline has a primary.
func TestNothingAcknowledgedToOldPrimary(t *testing.T) {
	t.Parallel()
	other := host{timeline: 1, standby: true}.start(t)
	disk := make(chan struct{})
	old := newFake(t, func(s *fakeStream) {
		s.copyBoth()
		s.wal(mib, testWAL(5000))
		s.keepalive(mib + 5000)
		s.until(func(st status) bool { return st.write >= mib+5000 })
		other.set(func() { other.timeline, other.histories = 2, map[wal.Timeline]string{2: from1} })
		for silent := false; !silent; { // the receiver has turned away
			s.keepalive(mib + 5000)
			s.conn.SetReadDeadline(time.Now().Add(time.Second))
			_, err := s.b.Receive()
			silent = err != nil
		}
		close(disk)
		if err := s.until(func(st status) bool { return st.flush != 0 }); err == nil {
			t.Error("an old primary got an acknowledgement")
		}
	})
	cfg := rigConfig(together(old.ln.Addr(), other.ln.Addr()))
	cfg.WatchInterval = 10 * time.Millisecond
	g := newRig(t, spoolDir(t), cfg, func(s Sink) Sink { return &stuckSink{Sink: s, sync: disk} })
	g.wait("the alarm", func(st Status) bool { return strings.Contains(st.Alarm, "timeline 2, which descends from it") })
	testkit.Wait(t, "the newer timeline to be remembered", func() (bool, string) {
		names := strings.Join(readDir(t, g.dir), " ")
		return strings.Contains(names, segment.HistoryName(2)), names
	})
	if n := len(old.commands()); n != 1 {
		t.Errorf("the old primary was streamed from %d times", n)
	}
	other.set(func() { other.standby = false })
	g.wait("the new primary", func(st Status) bool { return st.State == Streaming && st.Server == other.ln.Addr().String() })
	if st := g.Status(); st.Alarm != "" {
		t.Errorf("%+v", st)
	}
	g.stop()
}

// TestNewerTimelineKnown: what sink or archive know counts like a host's.
func TestNewerTimelineKnown(t *testing.T) {
	f := host{timeline: 1}.start(t)
	cfg := rigConfig(f.conninfo())
	cfg.Newer = func(_ context.Context, h segment.History) (wal.Timeline, string, error) {
		return h.Timeline + 1, "archive a", nil
	}
	g := newRig(t, spoolDir(t), cfg, nil)
	g.wait("the alarm", func(st Status) bool { return strings.Contains(st.Alarm, "archive a knows timeline 2") })
	if n := len(f.commands()); n != 0 {
		t.Errorf("streamed from %d times", n)
	}
	g.stop()
}

// A standby's slot keeps what the primary's keeps, whatever may be archived,
// and one on another timeline stays where it is.
func TestStandbySlotFollowsPrimarys(t *testing.T) {
	h := newHoldSlot(Slot{Name: "s"}, time.Second, zerolog.Nop())
	h.at = holdPlace{h.slot, 2}
	h.Advance(0, segment.Position{Timeline: 2, LSN: 9 * mib})
	for tli, want := range map[wal.Timeline]wal.LSN{1: 0, 2: 5 * mib, 3: 0} {
		h.note(SlotState{Exists: true, RestartLSN: 5 * mib})
		if got := h.keptOn(tli); got != want {
			t.Errorf("timeline %s: %s, want %s", tli, got, want)
		}
	}
}
