package segment_test

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/wal"
)

// prepare calls Prepare and returns what is unfinished then.
func (b *bench) prepare(ahead wal.LSN) (partials string) {
	b.t.Helper()
	b.ok(b.Prepare(context.Background(), ahead))
	for _, name := range b.files() {
		if strings.Contains(name, ".partial") {
			partials += name[20:24] + " "
		}
	}
	return partials
}

// TestPrepareWhen: in time, but not while half of the open segment is empty,
// unless more is about to come than has room in it.
func TestPrepareWhen(t *testing.T) {
	b := newBench(t)
	if got := b.prepare(worldBase + 9*mb); got != "" {
		t.Errorf("without a stream %q", got)
	}
	b.send(1, worldBase, worldBase+mb/2-8192)
	if got := b.prepare(worldBase + 2*mb - 1); got != "0007 " {
		t.Errorf("early %q", got)
	}
	b.ok(b.Append(1, worldBase+mb/2-8192, b.w.streams[1].At(worldBase+mb/2-8192, worldBase+mb/2)))
	for range 2 { // once is enough
		if got := b.prepare(0); got != "0007 0008 " {
			t.Errorf("half full %q", got)
		}
	}
	if u := b.Usage(); u.Bytes != 2*int64(testSize) {
		t.Errorf("Usage = %+v", u)
	}
	b.ok(b.Append(1, worldBase+mb/2, b.w.streams[1].At(worldBase+mb/2, worldBase+mb+8192)))
	if got := b.prepare(worldBase + 3*mb); got != "0007 0008 0009 " {
		t.Errorf("far ahead %q", got)
	}
}

// TestPreparedIsUsed: nothing is made, named or synced where the reader would
// wait for it, and what was prepared holds what was sent.
func TestPreparedIsUsed(t *testing.T) {
	for name, ahead := range map[string]wal.LSN{"zeros": 0, "a hole": worldBase + 2*mb} {
		b := newBench(t)
		b.send(1, worldBase, worldBase+mb/2)
		b.prepare(ahead)
		b.disk.OnOp = func(op fsx.Op) error {
			if op.Kind != fsx.OpWrite {
				t.Errorf("%s: %s %s in Append", name, op.Kind, op.Path)
			}
			return nil
		}
		b.ok(b.Append(1, worldBase+mb/2, b.w.streams[1].At(worldBase+mb/2, worldBase+2*mb-8192)))
		b.disk.OnOp = nil
		b.ok(b.w.sync(b.Spool, 1, worldBase+2*mb-8192))
		b.crash()
		b.ok(b.w.check(b.disk))
		b.wantFiles("000000010000000000000007", "000000010000000000000008.partial")
	}
}

// TestNothingDurableBehindAnUnsealedSegment: what the next segment holds
// already does not count before the full one has its name.
func TestNothingDurableBehindAnUnsealedSegment(t *testing.T) {
	b := newBench(t)
	b.send(1, worldBase, worldBase+mb/2)
	b.prepare(0)
	b.ok(b.Append(1, worldBase+mb/2, b.w.streams[1].At(worldBase+mb/2, worldBase+mb+8192)))
	b.disk.OnOp = func(op fsx.Op) error {
		if op.Kind == fsx.OpRename {
			return syscall.EIO
		}
		return nil
	}
	if lsn, err := b.Sync(); !errors.Is(err, syscall.EIO) || lsn > worldBase+mb {
		t.Errorf("Sync returned %s, %v", lsn, err)
	}
}

// TestPreparedIsDropped: where the timeline ends, where it is not needed after
// all, and when making it is given up.
func TestPreparedIsDropped(t *testing.T) {
	b := newBench(t)
	b.send(1, worldBase, worldBase+mb/2)
	b.prepare(0)
	b.end(1, worldBase+mb/2)
	b.crash()
	b.wantFiles("000000010000000000000007.00080000.tail")

	b = newBench(t)
	b.send(1, worldBase, worldBase+mb/2)
	b.prepare(0)
	b.crash()
	b.wantFiles("000000010000000000000007.partial")

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	b.send(1, worldBase, worldBase+mb/2+8192)
	b.ok(b.Prepare(ctx, 0))
	b.wantFiles("000000010000000000000007.partial")
}
