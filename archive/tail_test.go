package archive_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/testkit/walgen"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// trickle is a server that writes a little at a time, and counts what that
// costs.
type trickle struct {
	*upload
	g *walgen.WAL

	now    chan struct{}
	mu     sync.Mutex
	puts   int
	live   map[string]bool
	most   int
	stored []segment.Position
}

func newTrickle(t *testing.T, cfg archive.TailConfig) *trickle {
	u := newUpload(t)
	r := &trickle{upload: u, g: newWAL(1, 1, 1), live: map[string]bool{}, now: make(chan struct{}, 1)}
	if cfg.Window > 0 {
		cfg.Now = r.now
	}
	cfg.OnStored = func(end segment.Position) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.stored = append(r.stored, end)
	}
	u.up = archive.NewUploader(archive.UploaderConfig{Archive: u.a, Source: u.spool, Tail: cfg})
	u.store.onPut = func(name string) error {
		time.Sleep(30 * time.Millisecond)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.puts++
		if strings.Contains(name, ".tail/") {
			r.live[name] = true
			r.most = max(r.most, len(r.live))
		}
		return nil
	}
	u.store.onDelete = func(name string) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.live, name)
		return nil
	}
	u.must(u.spool.Begin(1, r.g.Config.Start))
	return r
}

// write writes n bytes or a little more, and a commit, durably.
func (r *trickle) write(n int) {
	r.t.Helper()
	at := r.g.End()
	if n > 0 {
		r.g.Noise(n)
	}
	r.g.Commit(r.g.Now)
	r.must(r.spool.Append(1, at, r.g.At(at, r.g.End())))
	_, err := r.spool.Sync()
	r.must(err)
	select {
	case r.now <- struct{}{}:
	default:
	}
}

// told is the end that was told last.
func (r *trickle) told() wal.LSN {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.stored) == 0 {
		return 0
	}
	return r.stored[len(r.stored)-1].LSN
}

// inArchive checks that the archive alone has everything before end.
func (r *trickle) inArchive(end wal.LSN) {
	r.t.Helper()
	for lsn := r.g.Config.Start; lsn < end; lsn += wal.LSN(testSize) {
		id := segment.At(1, lsn, testSize)
		want := r.g.At(lsn, min(end, id.End(testSize)))
		var got writerAt
		n, err := r.a.FetchTail(r.t.Context(), id, &got)
		if err != nil || n < int64(len(want)) || !bytes.Equal(got[:len(want)], want) {
			r.t.Errorf("segment at %s: %d of %d bytes, %v", lsn, n, len(want), err)
		}
	}
}

// A trickle of commits costs one put each interval, and few objects; what is
// idle costs nothing. All that is durable is in the archive an interval later.
func TestTrickle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTrickle(t, archive.TailConfig{Interval: time.Second})
		ran := make(chan struct{})
		go func() { r.run(400 * time.Second); close(ran) }()
		for i := range 300 {
			r.write(9000) // 2.7 MB: three segments
			before := r.g.End()
			time.Sleep(1200 * time.Millisecond)
			synctest.Wait()
			if i%10 == 0 { // it takes a while
				r.inArchive(before)
			}
			if last := r.told(); last < before {
				t.Fatalf("told of %s, want %s", last, before)
			}
		}
		r.mu.Lock()
		puts := r.puts
		r.mu.Unlock()
		if puts > 320 {
			t.Errorf("%d puts", puts)
		}
		if r.most > 64 {
			t.Errorf("%d tail objects at one time", r.most)
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if r.puts != puts {
			t.Errorf("%d puts while nothing was written", r.puts-puts)
		}
		if !slices.IsSortedFunc(r.stored, func(a, b segment.Position) int { return int(a.LSN) - int(b.LSN) }) {
			t.Errorf("told of %v", r.stored)
		}
		for name := range r.live {
			if !strings.Contains(name, segment.At(1, r.g.End(), testSize).Name(testSize)) {
				t.Errorf("%s is left although its segment is stored whole", name)
			}
		}
		<-ran
	})
}

// However much comes, an interval costs a put or two.
func TestTailInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTrickle(t, archive.TailConfig{Interval: time.Second})
		ran := make(chan struct{})
		go func() { r.run(20 * time.Second); close(ran) }()
		for range 1000 { // 1.5 MB
			r.write(1000)
			time.Sleep(10 * time.Millisecond)
		}
		<-ran
		if r.puts > 15 {
			t.Errorf("%d puts in 10 s", r.puts)
		}
		r.inArchive(r.g.End())
	})
}

// Segments that fill within the interval are stored whole only, and yet all is
// in the archive an interval after the last.
func TestNoTailOfFastSegments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTrickle(t, archive.TailConfig{Interval: time.Second})
		ran := make(chan struct{})
		go func() { r.run(20 * time.Second); close(ran) }()
		for range 100 { // a segment each half second
			r.write(100_000)
			time.Sleep(50 * time.Millisecond)
		}
		r.mu.Lock()
		if r.most > 0 {
			t.Errorf("%d tail objects at one time", r.most)
		}
		r.mu.Unlock()
		time.Sleep(time.Second)
		synctest.Wait()
		r.inArchive(r.g.End())
		<-ran
	})
}

// Who waits for the archive is told in the order of positions, however the
// puts beside each other end, and never of what is not there.
func TestTailWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTrickle(t, archive.TailConfig{Window: 4})
		var slow atomic.Bool
		delay := r.store.onPut
		r.store.onPut = func(name string) error {
			if slow.CompareAndSwap(false, true) { // the first is overtaken by the next three
				time.Sleep(2 * time.Second)
			}
			return delay(name)
		}
		ran := make(chan struct{})
		go func() { r.run(time.Minute); close(ran) }()
		for i := range 400 {
			r.write(9000)
			time.Sleep(5 * time.Millisecond)
			if i%10 == 0 {
				r.inArchive(r.told())
			}
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if last := r.told(); last != r.g.End() {
			t.Errorf("told of %s at last, want %s", last, r.g.End())
		}
		if r.most > 64 {
			t.Errorf("%d tail objects at one time", r.most)
		}
		<-ran
	})
}

// Nothing is told while an earlier segment is not in the archive.
func TestTailBehindABacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTrickle(t, archive.TailConfig{Interval: time.Second})
		var up atomic.Bool
		r.store.onPut = func(name string) error {
			if !up.Load() && strings.HasSuffix(name, "0000000000000001.zst") {
				return errors.New("not this one")
			}
			return nil
		}
		for r.g.End() < 4<<20 {
			r.write(200_000)
		}
		ran := make(chan struct{})
		go func() { r.run(2 * time.Minute); close(ran) }()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if len(r.stored) > 0 {
			t.Errorf("told of %v behind a segment that is missing", r.stored)
		}
		if tails, err := r.a.Tails(t.Context(), segment.At(1, r.g.End(), testSize)); err != nil || len(tails) != 1 {
			t.Errorf("of the open segment there is %v, %v", tails, err)
		}
		up.Store(true)
		<-ran
		if last := r.told(); last != r.g.End() {
			t.Errorf("told of %s at last, want %s", last, r.g.End())
		}
	})
}

// However long the store was away, soon after it is back it has what was
// written meanwhile: sealed segments and the tail.
func TestSoonAfterAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTrickle(t, archive.TailConfig{Interval: time.Second})
		var up atomic.Bool
		r.store.onPut = func(string) error {
			if !up.Load() {
				return errors.New("not now")
			}
			return nil
		}
		ran := make(chan struct{})
		go func() { r.run(20 * time.Minute); close(ran) }()
		for range 10 {
			r.write(200_000)
			time.Sleep(time.Minute)
		}
		up.Store(true)
		time.Sleep(9 * time.Second)
		synctest.Wait()
		r.inArchive(r.g.End())
		if last := r.told(); last != r.g.End() {
			t.Errorf("told of %s, want %s", last, r.g.End())
		}
		<-ran
	})
}

// What a process that was killed left of tails goes with the next one: of
// segments that are stored whole, and of those that are not yet.
func TestOrphanedTails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTrickle(t, archive.TailConfig{Interval: time.Second})
		for r.g.End() < 3<<20+300_000 {
			r.write(200_000)
		}
		stray := newWAL(1, 2, 5)
		stray.FillSegments(1)
		for i := range 2 {
			for _, to := range []int64{8192, 100_000, 1 << 20} {
				p, data := tailOf(r.g, i, to)
				putPiece(t, r.a, p, data, nil)
			}
			p, data := segmentOf(r.g, i)
			putPiece(t, r.a, p, data, nil)
		}
		open := segment.At(1, r.g.End(), testSize)
		putPiece(t, r.a, archive.Piece{ID: open, Tail: true, To: 8192}, r.g.At(open.Start(testSize), open.Start(testSize)+8192), nil)
		other, otherData := tailOf(stray, 0, 16384)
		putPiece(t, r.a, other, otherData, nil)
		for range 2 { // they are archived, and the spool knows
			s, err := r.spool.Next(t.Context())
			r.must(err)
			r.must(r.spool.Release(s))
		}
		r.run(time.Minute)
		var left []string
		for _, name := range r.objects() {
			if strings.Contains(name, ".tail/") {
				left = append(left, strings.TrimPrefix(name, "00000001/0000000100000000"))
			}
		}
		want := []string{"00000002.tail/00000000-00004000.zst", fmt.Sprintf("00000003.tail/00000000-%08X.zst", uint64(r.g.End())%uint64(testSize))}
		if !slices.Equal(left, want) {
			t.Errorf("left are %q, want %q: one that differs, and the newest", left, want)
		}
	})
}
