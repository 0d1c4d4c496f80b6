package segment_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

func TestSaveHistory(t *testing.T) {
	b := newBench(t)
	body := []byte("1\t0/900000\tno recovery target specified\n\n2\t0/A00028\tbefore 2026-11-22\n")
	b.ok(b.SaveHistory(3, body))
	b.ok(b.SaveHistory(3, body))
	b.crash()
	b.ok(b.SaveHistory(3, body))
	other := []byte("1\t0/900008\tno recovery target specified\n")
	want[*segment.DivergenceError](t, b.SaveHistory(3, other))
	parsed, err := segment.ParseHistory(3, body)
	b.ok(err)
	if got, ok := b.History(3); !ok || !got.Equal(parsed) || !b.NewestHistory().Equal(parsed) {
		t.Errorf("History = %+v, %v, the newest %+v", got, ok, b.NewestHistory())
	}
	if got, ok := b.History(2); ok {
		t.Errorf("History of an unknown timeline: %+v", got)
	}
	if err := b.SaveHistory(2, []byte("nonsense")); err == nil {
		t.Error("a body that is no history was saved")
	}
	if diff := cmp.Diff(map[wal.Timeline][]byte{3: body}, b.Histories()); diff != "" {
		t.Error(diff)
	}
	b.wantFiles("00000003.history")
}

func TestEndOfATimeline(t *testing.T) {
	b := newBench(t)
	b.send(1, worldBase, b.w.last[1])
	_, err := b.EndTimeline(2, b.w.fork)
	want[*segment.TimelineError](t, err)
	b.end(1, b.w.fork)
	b.end(1, b.w.fork)
	tail := fmt.Sprintf("00000001000000000000000A.%08X.tail", testSize.Offset(b.w.last[1]))
	b.wantFiles("000000010000000000000007", "000000010000000000000008", "000000010000000000000009", tail)
	b.wantResume(1, b.w.last[1])

	pieces := b.next()
	if diff := cmp.Diff(b.files(), names(pieces)); diff != "" {
		t.Errorf("Next (-want +got):\n%s", diff)
	}
	last := pieces[len(pieces)-1]
	if last.Complete || last.Ahead != b.w.fork || pieces[2].Ahead != 0 {
		t.Errorf("the remainder is %+v", last)
	}
	b.saveHistory()
	b.crash() // only the history says now where it ended
	pieces = b.next()
	if last := pieces[len(pieces)-1]; last.Ahead != b.w.fork {
		t.Errorf("after a restart the remainder is %+v", last)
	}
}

func TestEndOnASegmentBorderLeavesNoRemainder(t *testing.T) {
	b := newBench(t)
	b.send(1, worldBase, worldBase+mb)
	b.end(1, worldBase+mb)
	b.wantFiles("000000010000000000000007")
	b.ok(b.SaveHistory(2, fmt.Appendf(nil, history2, worldBase+mb)))
	b.ok(b.Begin(2, worldBase+mb))
	b.wantResume(1, worldBase+mb)
}

func TestEndWithNothingDurableRemovesTheFile(t *testing.T) {
	b := newBench(t)
	b.send(1, worldBase, worldBase+mb)
	b.ok(b.Append(1, worldBase+mb, make([]byte, 8)))
	b.ok(b.Begin(1, worldBase+mb))
	b.end(1, worldBase+mb)
	b.wantFiles("000000010000000000000007")
}

// TestTimelineGoesOnBehindItsRemainder: the uploader may hold the remainder,
// so the segment gets a new file.
func TestTimelineGoesOnBehindItsRemainder(t *testing.T) {
	b := newBench(t)
	b.w.fork = worldBase + 5000 // all behind it stays marked as ahead
	b.send(1, worldBase, worldBase+5000)
	b.end(1, worldBase+5000)
	b.send(1, worldBase, worldBase+5000)
	b.wantFiles("000000010000000000000007.00001388.tail")
	b.end(1, worldBase+5000)
	b.send(1, worldBase, worldBase+9000)
	b.wantFiles("000000010000000000000007.00001388.tail", "000000010000000000000007.partial")
	b.send(1, worldBase, worldBase+2*mb)
	b.ok(b.w.archive(b.Spool))
	b.ok(b.w.checkHeld(b.disk, 1, worldBase+2*mb))
}

// TestReleasedRemainderIsSentAgain: its bytes are in the archive, but the
// segment cannot go on without them.
func TestReleasedRemainderIsSentAgain(t *testing.T) {
	b := newBench(t)
	b.send(1, worldBase, worldBase+mb+5000)
	b.end(1, worldBase+mb+5000)
	b.ok(b.w.archive(b.Spool))
	b.wantResume(1, worldBase+mb)
	b.send(1, worldBase+mb, worldBase+mb+6000)
	b.ok(b.w.checkHeld(b.disk, 1, worldBase+mb+6000))
}

func TestNextOrder(t *testing.T) {
	b := newBench(t)
	b.send(1, worldBase, b.w.last[1])
	b.end(1, b.w.fork)
	b.saveHistory()
	b.send(2, b.w.fork, b.w.last[2])
	all := b.next()
	wantOrder := []string{"000000010000000000000007", "000000010000000000000008", "000000010000000000000009",
		names(all)[3], "00000002000000000000000A", "00000002000000000000000B"}
	if diff := cmp.Diff(wantOrder, names(all)); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	if again := b.next(); len(again) > 0 {
		t.Errorf("handed out twice: %v", names(again))
	}
	if u := b.Usage(); u.Waiting != 6 || u.Bytes != 7*int64(testSize) {
		t.Errorf("Usage = %+v", u)
	}
	b.ok(b.Release(all[1]))
	b.restart()
	if diff := cmp.Diff(append(wantOrder[:1:1], wantOrder[2:]...), names(b.next())); diff != "" {
		t.Errorf("after a restart (-want +got):\n%s", diff)
	}
}

func TestNextWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.send(1, worldBase, worldBase+mb-100)
		ctx, cancel := context.WithCancelCause(context.Background())
		got := make(chan string)
		go func() {
			for {
				p, err := b.Next(ctx)
				if err != nil {
					got <- err.Error()
					return
				}
				got <- p.ID.Name(testSize)
			}
		}()
		synctest.Wait()
		select {
		case name := <-got:
			t.Fatalf("got %s before it was sealed", name)
		default:
		}
		b.ok(b.Append(1, worldBase+mb-100, b.w.streams[1].At(worldBase+mb-100, worldBase+mb)))
		_, err := b.Sync()
		b.ok(err)
		if name := <-got; name != "000000010000000000000007" {
			t.Errorf("got %s", name)
		}
		cancel(errors.New("enough"))
		if err := <-got; err != "enough" {
			t.Errorf("got %s", err)
		}
	})
}

// TestReleaseKeepsWhatTheOpenSegmentNeeds: a record of two segments ends in
// the third, so all three are needed to check it, until the third is sealed.
func TestReleaseKeepsWhatTheOpenSegmentNeeds(t *testing.T) {
	b := newBench(t)
	b.send(1, worldBase, worldBase+2*mb+mb/2+20_000)
	for _, p := range b.next() {
		b.ok(b.Release(p))
		b.ok(b.Release(p))
	}
	b.wantFiles("000000010000000000000007", "000000010000000000000008", "000000010000000000000009.partial")
	if u := b.Usage(); u.Waiting != 0 || u.Bytes != 3*int64(testSize) {
		t.Errorf("Usage = %+v", u)
	}
	b.disk = b.disk.CrashClone()
	b.restart()
	b.wantResume(1, lastEnd(b.w.streams[1], worldBase+2*mb+mb/2+20_000))
	for _, p := range b.next() {
		b.ok(b.Release(p))
	}
	b.send(1, worldBase+2*mb, worldBase+3*mb)
	b.wantFiles("000000010000000000000009")
}

func TestReleaseReportsWhatCannotBeRemoved(t *testing.T) {
	b := newBench(t)
	b.send(1, worldBase, worldBase+3*mb)
	pieces := b.next()
	b.disk.OnOp = func(op fsx.Op) error {
		if op.Kind == fsx.OpRemove {
			return fs.ErrPermission
		}
		return nil
	}
	if err := b.Release(pieces[0]); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("Release = %v", err)
	}
	b.disk.OnOp = nil
	b.ok(b.Release(pieces[1]))
	b.wantFiles("000000010000000000000009")
}
