package segment_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/walstream/walstream/internal/testkit/memfs"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// model drives a spool by random steps. What it knows: the server's streams,
// where the receiver stands, what was acknowledged and what is archived.
type model struct {
	w    *world
	disk *memfs.FS
	s    *segment.Spool
	tli  wal.Timeline
	next wal.LSN // where the stream goes on; zero before Begin
}

func (m *model) ok(t *rapid.T, err error) {
	if err != nil {
		t.Fatal(err)
	}
}

func (m *model) open(t *rapid.T) {
	s, err := open(m.disk)
	m.ok(t, err)
	m.s, m.next = s, 0
	if pos, ok := s.Resume(); ok {
		m.tli = pos.Timeline
	}
}

// begin connects anew, mostly where the spool ends and sometimes before.
func (m *model) begin(t *rapid.T) {
	at := worldBase
	if pos, ok := m.s.Resume(); ok {
		at, m.tli = testSize.Floor(pos.LSN), pos.Timeline
	}
	back := wal.LSN(rapid.IntRange(0, 2).Draw(t, "segments back")) * mb
	start := max(at-min(back, at), m.w.streams[m.tli].Config.Start)
	err := m.s.Begin(m.tli, start)
	var order *segment.OrderError
	if errors.As(err, &order) && start < order.Want {
		start = order.Want // that much is held no more
		err = m.s.Begin(m.tli, start)
	}
	m.ok(t, err)
	m.next = start
}

func (m *model) append(t *rapid.T) {
	if m.next == 0 {
		m.begin(t)
	}
	n := rapid.OneOf(rapid.IntRange(1, 9000), rapid.IntRange(1, 1_500_000)).Draw(t, "bytes")
	to := min(m.next+wal.LSN(n), m.w.last[m.tli])
	m.ok(t, m.s.Append(m.tli, m.next, m.w.streams[m.tli].At(m.next, to)))
	m.next = to
}

func (m *model) sync(t *rapid.T) {
	if m.next > 0 {
		m.ok(t, m.w.sync(m.s, m.tli, m.next))
	}
}

// promote ends timeline 1 once the server has sent all of it.
func (m *model) promote(t *rapid.T) {
	if m.tli != 1 || m.next < m.w.last[1] {
		t.Skip("not yet")
	}
	m.ok(t, m.s.SaveHistory(2, fmt.Appendf(nil, history2, m.w.fork)))
	_, err := m.s.EndTimeline(1, m.w.fork)
	m.ok(t, err)
	m.w.acked[1] = m.w.last[1]
	m.tli, m.next = 2, testSize.Floor(m.w.fork)
	m.ok(t, m.s.Begin(2, m.next))
}

func (m *model) lose(t *rapid.T) {
	if rapid.Bool().Draw(t, "parts survive") {
		seed := rapid.Uint64().Draw(t, "seed")
		m.disk = m.disk.CrashCloneKeeping(rand.New(rand.NewPCG(seed, 0)))
	} else {
		m.disk = m.disk.CrashClone()
	}
	m.ok(t, m.w.check(m.disk))
	m.open(t)
}

func TestModel(t *testing.T) {
	fewerChecks(t)
	rapid.Check(t, func(t *rapid.T) {
		m := &model{w: newWorld(), disk: memfs.New(), tli: 1}
		m.open(t)
		t.Repeat(map[string]func(*rapid.T){
			"append":   m.append,
			"append 2": m.append, // twice as often
			"sync":     m.sync,
			"prepare": func(t *rapid.T) {
				m.ok(t, m.s.Prepare(context.Background(), m.next+wal.LSN(rapid.IntRange(0, 3).Draw(t, "segments ahead"))*mb))
			},
			"reconnect": m.begin,
			"archive":   func(t *rapid.T) { m.ok(t, m.w.archive(m.s)) },
			"promote":   m.promote,
			"restart":   func(t *rapid.T) { m.ok(t, m.s.Close()); m.open(t) },
			"crash":     m.lose,
			"":          m.look,
		})
		m.lose(t)
		m.ok(t, m.s.Close())
		m.ok(t, m.w.run(m.disk))
		m.ok(t, m.w.complete(m.disk))
	})
}

// fewerChecks divides their number where each takes ten times as long.
func fewerChecks(t *testing.T) {
	checks := flag.Lookup("rapid.checks").Value
	before := checks.String()
	n, err := strconv.Atoi(before)
	if err == nil {
		err = checks.Set(strconv.Itoa(max(1, n/(1+6*raceDetector))))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = checks.Set(before) })
}

// look compares what can be asked at any time.
func (m *model) look(t *rapid.T) {
	pos, ok := m.s.Resume()
	if acked := m.w.acked[pos.Timeline]; ok && pos.LSN > m.w.last[pos.Timeline] {
		t.Fatalf("resume at %s, acknowledged %s, the server ends at %s", pos.LSN, acked, m.w.last[pos.Timeline])
	}
	if p, ok := m.s.OpenSegment(); ok {
		f, err := p.Open()
		m.ok(t, err)
		if !beginsWith(f, m.w.want(p)) {
			t.Fatalf("%s is not what the server sent", p.Path)
		}
		m.ok(t, f.Close())
	}
}
