package segment_test

import (
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/testkit/memfs"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// Every fdatasync of received WAL is told, once, with what it took, and nothing
// else is: not a Sync that finds nothing to do, not one that fails.
func TestOnFlush(t *testing.T) {
	mem := memfs.New()
	var synced, failing int
	mem.OnOp = func(op fsx.Op) error {
		if op.Kind == fsx.OpDatasync {
			synced++
			if failing > 0 {
				return syscall.EIO
			}
			time.Sleep(time.Millisecond)
		}
		return nil
	}
	var told []time.Duration
	s, err := segment.OpenSpool(segment.SpoolConfig{Dir: spoolDir, FS: mem, Identity: identity, OnFlush: func(d time.Duration) { told = append(told, d) }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.Begin(1, worldBase))
	g := theWorld().streams[1]
	half := worldBase + wal.LSN(testSize)/2
	for _, end := range []wal.LSN{half, half, half + 8192, worldBase + wal.LSN(testSize) + 8192} { // the last one seals a segment
		from, _ := s.Resume()
		if from.LSN == 0 {
			from.LSN = worldBase
		}
		must(s.Append(1, from.LSN, g.At(from.LSN, end)))
		_, err := s.Sync()
		must(err)
	}
	if len(told) != synced || synced < 4 {
		t.Errorf("told of %d flushes, there were %d", len(told), synced)
	}
	for _, d := range told {
		if d < time.Millisecond {
			t.Errorf("a flush took only %s", d)
		}
	}
	failing = 1
	from, _ := s.Resume()
	must(s.Append(1, from.LSN, g.At(from.LSN, from.LSN+8192)))
	if _, err := s.Sync(); err == nil || len(told) != synced-1 {
		t.Errorf("a failed flush: %v, told of %d of %d", err, len(told), synced)
	}
}

// A Sync may come between the last bytes of a segment and its end. The next one
// seals it, not only more WAL: a backup may wait for it, and the server be idle.
func TestSyncSealsAWrittenSegment(t *testing.T) {
	for range 40 { // it comes there by chance
		b := newBench(t)
		b.ok(b.Begin(1, worldBase))
		var stop atomic.Bool
		var other sync.WaitGroup
		other.Go(func() {
			for !stop.Load() {
				_, _ = b.Sync() // what fails it says below too
			}
		})
		for at := worldBase; at < worldBase+3*mb && !t.Failed(); at += mb / 64 {
			b.ok(b.Append(1, at, b.w.streams[1].At(at, at+mb/64)))
			_, err := b.Sync()
			b.ok(err)
			if open, ok := b.OpenSegment(); ok && open.To == int64(testSize) {
				t.Errorf("%s is not sealed", open.Path)
			}
		}
		stop.Store(true)
		other.Wait()
	}
}
