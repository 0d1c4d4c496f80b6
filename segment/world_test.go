package segment_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/testkit/walgen"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// world is everything around a spool: a server with two timelines, a receiver,
// an archive, and the book of what was acknowledged.
type world struct {
	streams map[wal.Timeline]*walgen.WAL
	last    map[wal.Timeline]wal.LSN // how far the server sends each
	fork    wal.LSN                  // where timeline 1 ended on the server
	newest  wal.Timeline
	chunk   int

	acked    map[wal.Timeline]wal.LSN
	archived map[string][]byte // by file name
}

const (
	spoolDir = "/var/spool/wal"
	testSize = segment.MinSize
)

var (
	identity  = segment.Identity{SystemIdentifier: 7_300_000_000_000_000_001, MajorVersion: 15, SegmentSize: testSize}
	worldBase = wal.LSN(7 * testSize)
	history2  = "1\t%s\tno recovery target specified\n"
)

// newWorld has records that cross segments, one that fills more than one, a
// switch, and a receiver that is ahead of the fork by more than a record.
func newWorld() *world { return theWorld().snapshot() }

var theWorld = sync.OnceValue(func() *world {
	const mb = wal.LSN(testSize)
	one := walgen.New(identity.ScanConfig(segment.At(1, worldBase, testSize)), 1)
	one.Fill(worldBase + mb/2)
	one.Noise(int(2 * mb)) // all of the second segment lies inside
	one.Fill(worldBase + 3*mb + mb/3)
	two := one.Fork(2)
	fork := one.End()
	one.Fill(fork + 9000)
	two.Fill(worldBase + 4*mb + mb/4)
	two.Switch()
	two.Records[len(two.Records)-1].End = two.End() // the zeros behind it count
	two.Fill(worldBase + 5*mb + mb/3)
	return &world{
		streams:  map[wal.Timeline]*walgen.WAL{1: one, 2: two},
		last:     map[wal.Timeline]wal.LSN{1: one.End(), 2: two.End()},
		fork:     fork,
		newest:   2,
		chunk:    150_000,
		acked:    map[wal.Timeline]wal.LSN{},
		archived: map[string][]byte{},
	}
})

// lastEnd is the end of the last record of g at or before lsn; where g begins
// when there is none.
func lastEnd(g *walgen.WAL, lsn wal.LSN) wal.LSN {
	for _, r := range slices.Backward(g.Records) {
		if r.End <= lsn {
			return r.End
		}
	}
	return g.Config.Start
}

// snapshot is the world at this moment, for a test that goes on from here.
func (w *world) snapshot() *world {
	c := *w
	c.last, c.acked, c.archived = maps.Clone(w.last), maps.Clone(w.acked), maps.Clone(w.archived)
	return &c
}

func open(fsys fsx.FS) (*segment.Spool, error) {
	return segment.OpenSpool(segment.SpoolConfig{Dir: spoolDir, FS: fsys, Identity: identity})
}

// run receives and archives everything that the spool does not hold yet.
func (w *world) run(fsys fsx.FS) (err error) {
	s, err := open(fsys)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	pos, ok := s.Resume()
	if !ok {
		pos = segment.Position{Timeline: 1, LSN: worldBase}
	}
	for tli := pos.Timeline; ; tli++ {
		from := testSize.Floor(pos.LSN)
		if tli > 1 {
			if err := s.SaveHistory(tli, fmt.Appendf(nil, history2, w.fork)); err != nil {
				return err
			}
		}
		if tli > pos.Timeline {
			from = testSize.Floor(w.fork)
		}
		if err := w.stream(s, tli, from); err != nil {
			return err
		}
		if tli == w.newest {
			return w.archive(s)
		}
		if _, err := s.EndTimeline(tli, w.fork); err != nil {
			return err
		}
		w.acked[tli] = w.last[tli] // it has synced the rest
	}
}

// stream sends one timeline to its end, syncs behind every second portion, and
// behind the last one if no EndTimeline follows, and archives now and then.
func (w *world) stream(s *segment.Spool, tli wal.Timeline, from wal.LSN) error {
	if err := s.Begin(tli, from); err != nil {
		return err
	}
	for i := 1; from < w.last[tli]; i++ {
		to := min(from+wal.LSN(w.chunk), w.last[tli])
		if err := s.Append(tli, from, w.streams[tli].At(from, to)); err != nil {
			return err
		}
		from = to
		if i%3 != 0 { // now early, now late
			if err := s.Prepare(context.Background(), min(to+wal.LSN(i%4)*wal.LSN(testSize), w.last[tli])); err != nil {
				return err
			}
		}
		if to < w.last[tli] && i%2 == 0 || to == w.last[tli] && tli == w.newest {
			if err := w.sync(s, tli, to); err != nil {
				return err
			}
		}
		if i%5 == 0 {
			if err := w.archive(s); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *world) sync(s *segment.Spool, tli wal.Timeline, sent wal.LSN) error {
	durable, err := s.Sync()
	if err != nil {
		return err
	}
	if durable < sent {
		return fmt.Errorf("timeline %s: durable %s after Sync, sent %s", tli, durable, sent)
	}
	if durable > w.streams[tli].Config.Start { // at its base nothing came yet
		w.acked[tli] = max(w.acked[tli], durable)
	}
	return nil
}

// archive stores what the spool hands out. It must be what the server sent.
func (w *world) archive(s *segment.Spool) error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for {
		p, err := s.Next(ctx)
		if err != nil {
			return nil
		}
		f, err := p.Open()
		if err != nil {
			return err
		}
		body := w.want(p)
		if !beginsWith(f, body) {
			return fmt.Errorf("%s: not what the server sent", p.Path)
		}
		if err := f.Close(); err != nil {
			return err
		}
		ahead := p.ID.Timeline == 1 && p.ID.Start(testSize)+wal.LSN(p.To) > w.fork
		if ahead != (p.Ahead != 0) || ahead && p.Ahead != w.fork {
			return fmt.Errorf("%s: ahead of %s, want that to be %v", p.Path, p.Ahead, ahead)
		}
		w.archived[p.Path[strings.LastIndex(p.Path, "/")+1:]] = body
		if err := s.Release(p); err != nil {
			return err
		}
	}
}

// want is what the server sent for p.
func (w *world) want(p segment.Sealed) []byte {
	start := p.ID.Start(testSize)
	return w.streams[p.ID.Timeline].At(start, start+wal.LSN(p.To))
}

func read(p segment.Sealed) ([]byte, error) {
	r, err := p.Open()
	if err != nil {
		return nil, err
	}
	body := make([]byte, p.To)
	_, err = r.ReadAt(body, 0)
	return body, errors.Join(err, r.Close())
}

func differ(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// check opens the spool in fsys, as it is after a crash, and looks for every
// acknowledged byte.
func (w *world) check(fsys fsx.FS) error {
	s, err := open(fsys)
	if err != nil {
		return err
	}
	defer s.Close()
	if w.acked[2] > 0 {
		if _, ok := s.History(2); !ok {
			return errors.New("the history of timeline 2 is gone")
		}
	}
	for tli, acked := range w.acked {
		if err := w.checkHeld(fsys, tli, acked); err != nil {
			return err
		}
	}
	return w.checkResume(fsys, s)
}

// checkResume compares the position with what was acknowledged, and the bytes
// before it with what the server sent.
func (w *world) checkResume(fsys fsx.FS, s *segment.Spool) error {
	pos, ok := s.Resume()
	newest := wal.Timeline(0)
	for tli := range w.acked {
		newest = max(newest, tli)
	}
	switch {
	case newest == 0:
		return nil
	case !ok || pos.Timeline < newest:
		return fmt.Errorf("resume at %v, but timeline %s was acknowledged", pos, newest)
	case pos.Timeline > newest:
		return nil
	case pos.LSN < lastEnd(w.streams[newest], w.acked[newest]) && !w.remainderArchived(newest):
		return fmt.Errorf("resume at %s, before the last record that was acknowledged at %s", pos.LSN, w.acked[newest])
	}
	return w.checkHeld(fsys, pos.Timeline, pos.LSN)
}

// remainderArchived says that the spool was allowed to forget the last bytes
// of tli.
func (w *world) remainderArchived(tli wal.Timeline) bool {
	for name := range w.archived {
		if strings.HasPrefix(name, tli.Hex()) && strings.HasSuffix(name, ".tail") {
			return true
		}
	}
	return false
}

// checkHeld wants every byte of tli before upTo in spool or archive.
func (w *world) checkHeld(fsys fsx.FS, tli wal.Timeline, upTo wal.LSN) error {
	g := w.streams[tli]
	for from := g.Config.Start; from < upTo; from += wal.LSN(testSize) {
		to := min(from+wal.LSN(testSize), upTo)
		want := g.At(from, to)
		ok, err := w.holds(fsys, segment.At(tli, from, testSize).Name(testSize), want)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("timeline %s: bytes from %s to %s are in no file", tli, from, to)
		}
	}
	return nil
}

func (w *world) holds(fsys fsx.FS, name string, want []byte) (bool, error) {
	for have, body := range w.archived {
		if strings.HasPrefix(have, name) && bytes.HasPrefix(body, want) {
			return true, nil
		}
	}
	entries, err := fsys.ReadDir(spoolDir)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), name) || strings.Contains(e.Name(), ".bad-") {
			continue
		}
		f, err := fsys.Open(spoolDir + "/" + e.Name())
		if err != nil {
			return false, err
		}
		if beginsWith(f, want) {
			return true, nil
		}
	}
	return false, nil
}

func beginsWith(f io.ReaderAt, want []byte) bool {
	buf := make([]byte, 32<<10)
	for off := 0; off < len(want); off += len(buf) {
		part := buf[:min(len(buf), len(want)-off)]
		if _, err := f.ReadAt(part, int64(off)); err != nil || !bytes.Equal(part, want[off:off+len(part)]) {
			return false
		}
	}
	return true
}

// complete wants that everything the server sent is in spool or archive, and
// that nothing was put aside.
func (w *world) complete(fsys fsx.FS) error {
	for _, tli := range slices.Sorted(maps.Keys(w.streams)) {
		if tli > w.newest {
			continue
		}
		if err := w.checkHeld(fsys, tli, w.last[tli]); err != nil {
			return fmt.Errorf("at the end: %w", err)
		}
	}
	v, err := segment.ReadSpool(fsys, spoolDir)
	if err != nil {
		return err
	}
	if history := string(v.Histories[2]); w.newest > 1 && history != fmt.Sprintf(history2, w.fork) {
		return fmt.Errorf("history of timeline 2: %q", history)
	}
	entries, err := fsys.ReadDir(spoolDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.Contains(e.Name(), ".bad-") || strings.HasSuffix(e.Name(), ".tmp") {
			return fmt.Errorf("left behind: %s", e.Name())
		}
	}
	return nil
}
