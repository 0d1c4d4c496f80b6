package segment_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/testkit/memfs"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

const mb = wal.LSN(testSize)

// bench is a spool on a disk of its own, fed with the theWorld's streams.
type bench struct {
	*segment.Spool
	t    *testing.T
	w    *world
	disk *memfs.FS
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, w: newWorld(), disk: memfs.New()}
	b.restart()
	return b
}

func (b *bench) restart() {
	b.t.Helper()
	if b.Spool != nil {
		b.ok(b.Close())
	}
	s, err := open(b.disk)
	b.ok(err)
	b.Spool = s
}

func (b *bench) crash() {
	b.disk = b.disk.CrashClone()
	b.restart()
}

func (b *bench) ok(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// send begins at the segment of from and sends up to to, then syncs.
func (b *bench) send(tli wal.Timeline, from, to wal.LSN) {
	b.t.Helper()
	from = testSize.Floor(from)
	b.ok(b.Begin(tli, from))
	b.ok(b.Append(tli, from, b.w.streams[tli].At(from, to)))
	durable, err := b.Sync()
	b.ok(err)
	if durable < to {
		b.t.Fatalf("Sync returned %s after sending up to %s", durable, to)
	}
}

func (b *bench) saveHistory() {
	b.t.Helper()
	b.ok(b.SaveHistory(2, fmt.Appendf(nil, history2, b.w.fork)))
}

// end ends a timeline and returns up to where it is held.
func (b *bench) end(tli wal.Timeline, lsn wal.LSN) wal.LSN {
	b.t.Helper()
	held, err := b.EndTimeline(tli, lsn)
	b.ok(err)
	return held
}

// next is what Next hands out without waiting.
func (b *bench) next() (all []segment.Sealed) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for {
		p, err := b.Next(ctx)
		if err != nil {
			return all
		}
		all = append(all, p)
	}
}

func (b *bench) files() (names []string) {
	b.t.Helper()
	entries, err := b.disk.ReadDir(spoolDir)
	b.ok(err)
	for _, e := range entries {
		if e.Name() != "walstream.json" {
			names = append(names, e.Name())
		}
	}
	return names
}

func (b *bench) wantFiles(want ...string) {
	b.t.Helper()
	if diff := cmp.Diff(want, b.files()); diff != "" {
		b.t.Errorf("files in the spool (-want +got):\n%s", diff)
	}
}

func (b *bench) wantResume(tli wal.Timeline, lsn wal.LSN) {
	b.t.Helper()
	if pos, ok := b.Resume(); !ok || pos != (segment.Position{Timeline: tli, LSN: lsn}) {
		b.t.Errorf("Resume = %v, %v; want timeline %s at %s", pos, ok, tli, lsn)
	}
}

func names(pieces []segment.Sealed) (names []string) {
	for _, p := range pieces {
		names = append(names, strings.TrimPrefix(p.Path, spoolDir+"/"))
	}
	return names
}

// want checks that err is a T and returns it.
func want[T error](t *testing.T, err error) (as T) {
	t.Helper()
	if !errors.As(err, &as) {
		t.Fatalf("got error %v, want a %T", err, as)
	}
	return as
}

func TestEmptySpoolHasNoPosition(t *testing.T) {
	b := newBench(t)
	if pos, ok := b.Resume(); ok {
		t.Errorf("Resume = %v", pos)
	}
	if _, ok := b.OpenSegment(); ok {
		t.Error("there is an open segment")
	}
	if err := b.Append(1, worldBase, []byte("x")); err == nil {
		t.Error("Append without Begin")
	}
	if err := b.Begin(2, worldBase); err == nil {
		t.Error("Begin on timeline 2 without its history")
	}
	b.ok(b.Begin(1, worldBase+5*mb))
	b.ok(b.Begin(1, worldBase)) // nothing is held: any position will do
	if pos, ok := b.Resume(); ok {
		t.Errorf("Resume = %v", pos)
	}
	if lsn, err := b.Sync(); err != nil || lsn != worldBase {
		t.Errorf("Sync = %s, %v", lsn, err)
	}
	b.wantFiles()
}

func TestAppendRefusesWhatDoesNotFit(t *testing.T) {
	b := newBench(t)
	inside := want[*segment.OrderError](t, b.Begin(1, worldBase+8))
	if inside.Want != worldBase {
		t.Errorf("want %s", inside.Want)
	}
	b.send(1, worldBase, worldBase+1000)
	gap := want[*segment.GapError](t, b.Append(1, worldBase+1001, []byte("x")))
	if diff := cmp.Diff(&segment.GapError{Timeline: 1, Have: worldBase + 1000, Got: worldBase + 1001}, gap); diff != "" {
		t.Error(diff)
	}
	order := want[*segment.OrderError](t, b.Append(1, worldBase+999, []byte("x")))
	if diff := cmp.Diff(&segment.OrderError{Timeline: 1, Want: worldBase + 1000, Got: worldBase + 999}, order); diff != "" {
		t.Error(diff)
	}
	want[*segment.TimelineError](t, b.Append(2, worldBase+1000, []byte("x")))
	b.ok(b.Append(1, worldBase+1000, []byte("x")))
}

func TestBeginKeepsContinuity(t *testing.T) {
	b := newBench(t)
	b.send(1, worldBase, worldBase+mb+5000)
	gap := want[*segment.GapError](t, b.Begin(1, worldBase+2*mb))
	if gap.Have != worldBase+mb+5000 || gap.Got != worldBase+2*mb {
		t.Errorf("gap %+v", gap)
	}
	if err := b.Begin(2, worldBase+mb); err == nil {
		t.Error("timeline 2 without its history")
	}
	b.saveHistory()
	want[*segment.TimelineError](t, b.Begin(2, worldBase+mb)) // 1 is open
	b.end(1, b.w.fork)
	gap = want[*segment.GapError](t, b.Begin(2, testSize.Floor(b.w.fork)))
	if gap.Timeline != 1 || gap.Have != worldBase+mb+5000 {
		t.Errorf("gap %+v", gap)
	}
	b.send(1, worldBase+mb, b.w.fork)
	b.end(1, b.w.fork)
	b.send(2, b.w.fork, b.w.fork+100)
	want[*segment.TimelineError](t, b.Begin(1, testSize.Floor(b.w.fork)))
	b.ok(b.SaveHistory(5, []byte("1\t0/800000\tanother branch\n")))
	b.end(2, b.w.fork+100)
	want[*segment.TimelineError](t, b.Begin(5, worldBase+mb))
}

func TestForkBoundsWhatAnAncestorCoversForANewTimeline(t *testing.T) {
	b := newBench(t)
	b.send(1, worldBase, worldBase+2*mb)
	// Timeline 1 ended long before what is held of it; 2 is not held, and
	// 3 begins behind the fork.
	b.ok(b.SaveHistory(3, fmt.Appendf(nil, "1\t%s\t\n2\t%s\t\n", worldBase+100, worldBase+mb+100)))
	gap := want[*segment.GapError](t, b.Begin(3, worldBase+mb))
	if gap.Have != worldBase+100 {
		t.Errorf("gap %+v", gap)
	}
	b.ok(b.Begin(3, worldBase))
}

func TestSkipLeavesARemainder(t *testing.T) {
	b := newBench(t)
	b.send(1, worldBase, worldBase+5000)
	b.ok(b.Skip(1, worldBase+3*mb))
	b.wantFiles("000000010000000000000007.00001388.tail")
	b.wantResume(1, worldBase+5000) // nothing came yet
	b.ok(b.Begin(1, worldBase+3*mb))
	b.send(1, worldBase+3*mb, worldBase+3*mb+40)
	b.crash()
	b.wantFiles("000000010000000000000007.00001388.tail", "00000001000000000000000A.partial")
	if got := b.next(); len(got) != 1 || got[0].Complete || got[0].To != 5000 {
		t.Errorf("Next handed out %+v", got)
	}
	// Between the two nothing is held: to take it now would hide the hole.
	order := want[*segment.OrderError](t, b.Begin(1, worldBase))
	if order.Want != worldBase+3*mb {
		t.Errorf("want %s", order.Want)
	}
}

func TestDivergence(t *testing.T) {
	for _, c := range []struct {
		name   string
		setUp  func(b *bench)
		object string
	}{
		{"in the open segment", func(b *bench) {}, "00000001000000000000000A"},
		{"in a complete segment", func(b *bench) {
			b.send(1, worldBase+3*mb, b.w.last[1])
			b.w.last[1] = worldBase + 3*mb
		}, "000000010000000000000009"},
		{"in a remainder", func(b *bench) { b.end(1, b.w.fork) }, "00000001000000000000000A"},
		{"after a restart", func(b *bench) { b.crash() }, "00000001000000000000000A"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.send(1, worldBase, b.w.last[1])
			c.setUp(b)
			before := b.disk.CrashClone()
			at := testSize.Floor(b.w.last[1] - 1)
			other := append([]byte(nil), b.w.streams[1].At(at, b.w.last[1])...)
			other[50_000] ^= 4
			b.ok(b.Begin(1, at))
			b.ok(b.Append(1, at, other[:40_000]))
			err := want[*segment.DivergenceError](t, b.Append(1, at+40_000, other[40_000:]))
			if diff := cmp.Diff(&segment.DivergenceError{Object: c.object, Timeline: 1, LSN: at + 50_000}, err); diff != "" {
				t.Error(diff)
			}
			if err := b.Append(1, at+40_000, other[40_000:]); err == nil {
				t.Error("Append went on after a divergence")
			}
			sameFiles(t, before, b.disk)
			b.send(1, at, b.w.last[1]) // the right server is back
		})
	}
}

func sameFiles(t *testing.T, a, b *memfs.FS) {
	t.Helper()
	entries, err := a.ReadDir(spoolDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		x, _ := fsx.ReadFile(a, spoolDir+"/"+e.Name())
		y, err := fsx.ReadFile(b, spoolDir+"/"+e.Name())
		if err != nil || differ(x, y) < len(x) || len(x) != len(y) {
			t.Errorf("%s was changed at offset %d (%v)", e.Name(), differ(x, y), err)
		}
	}
}

// TestUnsyncedBytesMayChange: what nobody was told to be durable is replaced,
// not compared, when it comes again.
func TestUnsyncedBytesMayChange(t *testing.T) {
	b := newBench(t)
	b.send(1, worldBase, worldBase+5000)
	b.ok(b.Append(1, worldBase+5000, []byte("never to be seen again, not synced")))
	b.wantResume(1, worldBase+5000)
	b.ok(b.Begin(1, worldBase))
	if lsn, err := b.Sync(); err != nil || lsn != worldBase+5000 {
		t.Errorf("Sync = %s, %v", lsn, err)
	}
	b.send(1, worldBase, worldBase+6000)
	p, ok := b.OpenSegment()
	if !ok || p.To != 6000 || p.Complete {
		t.Fatalf("OpenSegment = %+v, %v", p, ok)
	}
	got, err := read(p)
	b.ok(err)
	if i := differ(got, b.w.want(p)); i < 6000 {
		t.Errorf("differs at %d", i)
	}
}

func TestFailedSyncIsFinal(t *testing.T) {
	b := newBench(t)
	b.send(1, worldBase, worldBase+mb+5000)
	b.ok(b.Append(1, worldBase+mb+5000, make([]byte, 100)))
	b.disk.OnOp = func(op fsx.Op) error {
		if op.Kind == fsx.OpDatasync {
			return syscall.EIO
		}
		return nil
	}
	if lsn, err := b.Sync(); !errors.Is(err, syscall.EIO) || lsn != worldBase+mb+5000 {
		t.Fatalf("Sync = %s, %v", lsn, err)
	}
	b.disk.OnOp = func(op fsx.Op) error {
		if op.Kind != fsx.OpRemove {
			t.Errorf("%s %s after a failed sync", op.Kind, op.Path)
		}
		return nil
	}
	for name, call := range map[string]func() error{
		"Sync":        func() error { _, err := b.Sync(); return err },
		"Append":      func() error { return b.Append(1, worldBase+mb+5100, []byte("x")) },
		"Begin":       func() error { return b.Begin(1, worldBase) },
		"SaveHistory": func() error { return b.SaveHistory(2, []byte("1\t0/800000\t\n")) },
		"EndTimeline": func() error { _, err := b.EndTimeline(1, worldBase+mb+5000); return err },
	} {
		if err := call(); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s = %v", name, err)
		}
	}
	// What is sealed can still be archived.
	if got := b.next(); len(got) != 1 || b.Release(got[0]) != nil {
		t.Errorf("Next handed out %+v", got)
	}
	b.disk.OnOp = nil
	b.restart()
	b.send(1, worldBase+mb, worldBase+mb+6000)
}

func TestClosedSpool(t *testing.T) {
	b := newBench(t)
	b.send(1, worldBase, worldBase+100)
	b.ok(b.Close())
	b.ok(b.Close())
	if _, err := b.Sync(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Sync = %v", err)
	}
	if err := b.Append(1, worldBase+100, []byte("x")); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Append = %v", err)
	}
}
