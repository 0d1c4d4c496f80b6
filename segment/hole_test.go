package segment_test

import (
	"errors"
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// Files that somebody took from the spool are written anew from a stream that
// goes back to before them. What is held is compared, not written, nothing
// counts as durable before it has come to a whole again, and a crash on the way
// loses nothing.
func TestSkipBackFillsAHole(t *testing.T) {
	for name, breaks := range map[string]wal.LSN{"at once": 0, "cut in the hole": mb + mb/2, "cut behind it": 2*mb + 9000} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			last := b.w.last[1]
			b.send(1, worldBase, last)
			handed := b.next()
			b.wantFollow(last, 0, false)
			b.ok(b.disk.Remove(filepath.Join(spoolDir, "000000010000000000000008")))
			b.wantFollow(worldBase+mb, worldBase+2*mb, false)
			if breaks > 0 {
				b.ok(b.Skip(1, worldBase+mb))
				b.send(1, worldBase+mb, worldBase+breaks)
				if breaks < mb*2 {
					b.wantFollow(worldBase+breaks, worldBase+2*mb, true)
				}
				b.crash()
			}
			b.ok(b.Skip(1, worldBase+mb))
			for at := worldBase + mb; at < last; {
				to := min(at+300_000, last)
				if at == worldBase+mb {
					b.ok(b.Begin(1, at))
				}
				b.ok(b.Append(1, at, b.w.streams[1].At(at, to)))
				durable, err := b.Sync()
				b.ok(err)
				// A segment that is held is durable as a whole.
				if segmentEnd := testSize.Ceil(to); durable < to || durable > segmentEnd || breaks < 2*mb && to < worldBase+2*mb && durable != to {
					t.Errorf("%s is durable, received is %s", durable, to)
				}
				at = to
			}
			b.wantResume(1, last)
			b.wantFollow(last, 0, true)
			b.ok(b.w.check(b.disk.CrashClone()))
			var again []string
			for _, p := range b.next() {
				body, err := read(p)
				b.ok(err)
				if differ(body, b.w.want(p)) < len(body) {
					t.Errorf("%s is not what the server sent", p.Path)
				}
				again = append(again, names([]segment.Sealed{p})...)
			}
			if len(handed) != 3 || len(again) == 0 || breaks == 0 && again[0] != "000000010000000000000008" {
				t.Errorf("handed out %v, then %v", names(handed), again)
			}
			b.restart()
			b.wantResume(1, lastEnd(b.w.streams[1], last))
		})
	}
}

func TestSkipBackComparesWhatIsHeld(t *testing.T) {
	b := newBench(t)
	b.send(1, worldBase, b.w.last[1])
	b.ok(b.Skip(1, worldBase+mb))
	b.ok(b.Begin(1, worldBase+mb))
	other := append([]byte(nil), b.w.streams[1].At(worldBase+mb, worldBase+2*mb)...)
	other[77]++
	if diverges := want[*segment.DivergenceError](t, b.Append(1, worldBase+mb, other)); diverges.LSN != worldBase+mb+77 {
		t.Error(diverges)
	}
}

func (b *bench) wantFollow(end, next wal.LSN, filling bool) {
	b.t.Helper()
	gotEnd, gotNext, gotFilling := b.Follow(segment.History{Timeline: 1}, worldBase)
	if gotEnd != end || gotNext != next || gotFilling != filling && next != 0 {
		b.t.Errorf("Follow = %s, %s, %v; want %s, %s, %v", gotEnd, gotNext, gotFilling, end, next, filling)
	}
}

// The file that is being written is deleted: nothing counts as durable any more.
func TestDeletedWhileWritten(t *testing.T) {
	b := newBench(t)
	b.send(1, worldBase, worldBase+mb+5000)
	open, ok := b.After(segment.Position{Timeline: 1, LSN: worldBase + mb})
	if !ok || !open.Growing {
		t.Fatalf("After = %+v, %v", open, ok)
	}
	b.ok(b.disk.Remove(open.Path))
	_, err := open.Open()
	want[*segment.DeletedError](t, err)
	want[*segment.DeletedError](t, b.Append(1, worldBase+mb+5000, []byte("x")))
}

// A growing piece that was sealed meanwhile was not deleted.
func TestSealedMeanwhile(t *testing.T) {
	b := newBench(t)
	b.send(1, worldBase, worldBase+5000)
	open, _ := b.After(segment.Position{})
	b.send(1, worldBase, worldBase+mb+5000)
	if _, err := open.Open(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open = %v", err)
	}
	_, err := b.Sync()
	b.ok(err)
}

// While the removal of a file hangs, everybody can see what the spool holds.
func TestRemovalHangs(t *testing.T) {
	b := newBench(t)
	b.send(1, worldBase, worldBase+3*mb+5000)
	pieces := b.next()
	hangs, resume := make(chan struct{}), make(chan struct{})
	b.disk.OnOp = func(op fsx.Op) error {
		if op.Kind == fsx.OpRemove {
			close(hangs)
			<-resume
		}
		return nil
	}
	released := make(chan error)
	go func() { released <- b.Release(pieces[0]) }()
	<-hangs
	if u := b.Usage(); u.Waiting != len(pieces)-1 {
		t.Errorf("%d pieces wait", u.Waiting)
	}
	close(resume)
	b.ok(<-released)
	if u := b.Usage(); u.Bytes != int64(len(pieces))*int64(mb) {
		t.Errorf("%d bytes are left", u.Bytes)
	}
}
