package archive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

func TestUploader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, g := newUpload(t), newWAL(1, 1, 1)
		g.FillSegments(5)
		u.receive(g)
		u.store.onPut = func(name string) error { // the first segment is slow, the third faster than any
			if strings.HasSuffix(name, "1.zst") {
				time.Sleep(time.Minute)
			}
			return nil
		}
		u.run(2 * time.Minute)
		u.wantConfirmed("1:0/200000", "1:0/300000", "1:0/400000", "1:0/500000", "1:0/600000")
		if u.waiting() != 0 {
			t.Errorf("%d pieces are not released", u.waiting())
		}
		for i := range 5 {
			p, data := segmentOf(g, i)
			var got bytes.Buffer
			h, err := u.a.Fetch(t.Context(), p.ID, &got)
			if err != nil || !bytes.Equal(got.Bytes(), data) {
				t.Errorf("segment %d: %v", i, err)
			} else if h.UnknownCarry || h.RunningMaxSince != g.Config.Start {
				t.Errorf("segment %d does not continue the one before: %+v", i, h)
			}
		}
		s := u.up.Status()
		if s.Segments != 5 || s.Failures != 0 || s.Failure != nil || s.LastSuccess.IsZero() || s.Confirmed[1] != 0x600000 {
			t.Errorf("status %+v", s)
		}
	})
}

// A store that is down is asked again until it answers; then everything goes
// on where it was.
func TestUploaderRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, g := newUpload(t), newWAL(1, 1, 1)
		g.FillSegments(2)
		u.receive(g)
		down := errors.New("store is down")
		u.store.onPut = func(string) error { return down }
		u.run(time.Hour)
		u.wantConfirmed()
		s := u.up.Status()
		if s.Failure.String() != down.Error() || s.Failures < 100 || s.Failure.Count != s.Failures || s.Failure.Last != s.LastFailure || s.LastFailure.Sub(s.Failure.Since) < 50*time.Minute || !s.LastSuccess.IsZero() || s.LastFailure.IsZero() {
			t.Errorf("status after an hour without the store: %+v", s)
		}
		if u.waiting() != 2 || len(s.Stopped) != 0 {
			t.Errorf("%d pieces wait, stopped: %v", u.waiting(), s.Stopped)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		u, g := newUpload(t), newWAL(1, 1, 1)
		g.FillSegments(2)
		u.receive(g)
		var n atomic.Int64
		u.store.onPut = func(string) error {
			if n.Add(1) < 20 {
				return errors.New("store is down")
			}
			return nil
		}
		u.run(time.Hour)
		u.wantConfirmed("1:0/200000", "1:0/300000")
		if s := u.up.Status(); s.Failure != nil || s.Segments != 2 || s.Failures != 19 {
			t.Errorf("status after the store came back: %+v", s)
		}
	})
}

// Another server's WAL under the same name stops the timeline, and only that.
func TestUploaderConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, g := newUpload(t), newWAL(1, 1, 1)
		g.FillSegments(3)
		g.Switch()
		other := newWAL(1, 2, 2)
		other.FillSegments(1)
		p, data := segmentOf(other, 0)
		putPiece(t, u.a, p, data, nil)
		u.receive(g)
		u.must(u.spool.SaveHistory(2, []byte("1\t0/500000\tpromoted\n")))
		u.end(1, 0x500000)
		next := newWAL(2, 5, 3)
		next.Last = g.Last
		next.FillSegments(1)
		u.receive(next)
		u.store.onPut = func(name string) error {
			if strings.HasSuffix(name, "2.zst") {
				time.Sleep(time.Minute) // the segments behind it could overtake it
			}
			return nil
		}
		u.run(time.Hour)
		u.wantConfirmed("1:0/200000", "2:0/600000")
		s := u.up.Status()
		var conflict *archive.ConflictError
		if !errors.As(s.Stopped[1], &conflict) || len(s.Stopped) != 1 {
			t.Errorf("stopped: %v, want a conflict on timeline 1", s.Stopped)
		}
		if u.waiting() != 3 {
			t.Errorf("%d pieces wait, want those of the stopped timeline", u.waiting())
		}
		if _, err := u.a.Header(t.Context(), archive.Piece{ID: p.ID.Next(), To: p.To}); !errors.Is(err, archive.ErrNotExist) {
			t.Errorf("WAL of ours behind another server's: %v, want ErrNotExist", err)
		}
		var got bytes.Buffer
		if _, err := u.a.Fetch(t.Context(), p.ID, &got); err != nil || !bytes.Equal(got.Bytes(), data) {
			t.Errorf("the other server's segment was touched: %v", err)
		}
	})
}

// The open segment of a stopped timeline is not stored at a shutdown either: it
// would pass for the end of the other server's WAL, and hide the real one.
func TestStoreTailAfterConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, g := newUpload(t), newWAL(1, 1, 1)
		g.FillSegments(1)
		g.Commit(g.Now)
		other := newWAL(1, 1, 2)
		other.FillSegments(1)
		p, data := segmentOf(other, 0)
		putPiece(t, u.a, p, data, nil)
		u.receive(g)
		u.run(time.Hour)
		open, ok := u.spool.OpenSegment()
		if !ok {
			t.Fatal("no segment is open")
		}
		var conflict *archive.ConflictError
		if err := u.up.StoreTail(t.Context(), open); !errors.As(err, &conflict) {
			t.Errorf("%v, want the conflict that stopped the timeline", err)
		}
		if tails, err := u.a.Tails(t.Context(), open.ID); err != nil || len(tails) > 0 {
			t.Errorf("stored: %v, %v", tails, err)
		}
	})
}

func TestUploaderBrokenWAL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, g := newUpload(t), newWAL(1, 1, 1)
		g.FillSegments(3)
		g.Bytes[testSize+400_000] ^= 1
		u.receive(g)
		u.run(time.Hour)
		u.wantConfirmed("1:0/200000")
		var broken *archive.BrokenError
		if err := u.up.Status().Stopped[1]; !errors.As(err, &broken) || broken.LSN < 0x200000 || broken.LSN > 0x300000 {
			t.Errorf("stopped by %v, want a *BrokenError in the second segment", err)
		}
		if diff := cmp.Diff([]string{"00000001/000000010000000000000001.zst", "walstream.json"}, u.objects()); diff != "" {
			t.Errorf("objects (-want +got):\n%s", diff)
		}
		if u.waiting() != 2 {
			t.Errorf("%d pieces wait, want 2", u.waiting())
		}
	})
}

// A promotion: the old timeline's remainder is a tail, and the history is
// stored before any object of the new timeline.
func TestUploaderTimelineSwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, g := newUpload(t), newWAL(1, 1, 1)
		g.FillSegments(1)
		g.Commit(g.Now)
		fork := g.End()
		u.receive(g)
		history := fmt.Appendf(nil, "1\t%s\tno recovery target specified\n", fork)
		u.must(u.spool.SaveHistory(2, history))
		u.end(1, fork)
		next := g.Fork(2) // its first segment begins with the old timeline's bytes
		next.FillSegments(1)
		u.receive(next)
		var n atomic.Int64
		u.store.onPut = func(name string) error {
			if name == "wal/00000002.history" && n.Add(1) < 3 {
				return errors.New("not now")
			}
			return nil
		}
		u.run(time.Hour)
		u.wantConfirmed("1:0/200000", "2:0/300000")
		tail := fmt.Sprintf("00000001/000000010000000000000002.tail/00000000-%08X.zst", testSize.Offset(fork))
		want := []string{
			"00000001/000000010000000000000001.zst", tail, "00000002.history",
			"00000002/000000020000000000000002.zst", "walstream.json",
		}
		got := u.objects()
		slices.Sort(want)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("objects (-want +got):\n%s", diff)
		}
		h := slices.Index(u.store.puts, "wal/00000002.history")
		if o := slices.Index(u.store.puts, "wal/00000002/000000020000000000000002.zst"); h < 0 || o < h {
			t.Errorf("puts in the order %q", u.store.puts)
		}
		header, err := u.a.Header(t.Context(), archive.Piece{ID: segment.ID{Timeline: 2, No: 2}, To: int64(testSize)})
		if err != nil || header.UnknownCarry || header.RunningMaxSince != g.Config.Start {
			t.Errorf("the new timeline does not continue the old one: %+v, %v", header, err)
		}
		if s := u.up.Status(); s.Tails != 1 || s.Segments != 2 || u.waiting() != 0 {
			t.Errorf("status %+v, %d wait", s, u.waiting())
		}
	})
}

// The tails of a segment go when it is stored whole, except one that does not
// agree with it.
func TestUploaderTails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, g := newUpload(t), newWAL(1, 1, 1)
		g.FillSegments(1)
		g.Commit(g.Now)
		g.Noise(50_000)
		short := *g
		u.receive(&short)
		for range 2 { // repeating is harmless
			open, ok := u.spool.OpenSegment()
			if !ok {
				t.Fatal("no open segment")
			}
			u.must(u.up.StoreTail(t.Context(), open))
		}
		stray := newWAL(1, 2, 5)
		stray.FillSegments(1)
		p, data := tailOf(stray, 0, 16384)
		putPiece(t, u.a, p, data, nil)

		g.FillSegments(2)
		u.must(u.spool.Append(1, short.End(), g.Bytes[len(short.Bytes):]))
		_, err := u.spool.Sync()
		u.must(err)
		u.store.onDelete = func(string) error { return errors.New("no right to delete") }
		before := u.objects()
		u.run(time.Minute)
		u.wantConfirmed("1:0/200000", "1:0/300000")
		tail := fmt.Sprintf("00000001/000000010000000000000002.tail/00000000-%08X.zst", len(short.Bytes)-int(testSize))
		if !slices.Contains(before, tail) {
			t.Errorf("tail %s is not among %q", tail, before)
		}
		if got := u.objects(); !slices.Contains(got, tail) {
			t.Errorf("a failed delete: %q", got)
		}
		// Another process is given the segment again.
		u.store.onDelete = nil
		u2 := &upload{t: t, spool: u.spool, store: u.store, a: u.a}
		spool := newUpload(t)
		spool.receive(g)
		u2.up = archive.NewUploader(archive.UploaderConfig{Archive: u.a, Source: spool.spool})
		u2.run(time.Minute)
		want := []string{
			"00000001/000000010000000000000001.zst", "00000001/000000010000000000000002.tail/00000000-00004000.zst",
			"00000001/000000010000000000000002.zst", "walstream.json",
		}
		if diff := cmp.Diff(want, u.objects()); diff != "" {
			t.Errorf("objects (-want +got):\n%s", diff)
		}
	})
}

// A damaged object in the archive does not keep its successor out.
func TestUploaderAfterDamage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, g := newUpload(t), newWAL(1, 1, 1)
		g.FillSegments(2)
		second := *g
		second.Config.Start, second.Bytes = g.Config.Start+wal.LSN(testSize), g.Bytes[testSize:]
		u.must(u.store.Store.Put(t.Context(), "wal/00000001/000000010000000000000001.zst", strings.NewReader("damaged")))
		u.receive(&second)
		u.run(time.Hour)
		u.wantConfirmed("1:0/300000")
	})
}

func TestUploaderSourceFails(t *testing.T) {
	u := newUpload(t)
	broken := errors.New("spool is broken")
	up := archive.NewUploader(archive.UploaderConfig{Archive: u.a, Source: brokenSource{u.spool, broken}})
	if err := up.Run(t.Context()); !errors.Is(err, broken) {
		t.Errorf("Run: %v, want the source's error", err)
	}
}

type brokenSource struct {
	archive.Source
	err error
}

func (b brokenSource) Next(context.Context) (segment.Sealed, error) { return segment.Sealed{}, b.err }

// A file that somebody deletes from the spool keeps nothing behind it out of
// the archive, and whoever can have it received again is told first.
func TestUploaderMissesAFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUpload(t)
		g := newWAL(1, 1, 1)
		g.FillSegments(4)
		u.receive(g)
		told := 0
		u.up = archive.NewUploader(archive.UploaderConfig{Archive: u.a, Source: u.spool, OnLost: func() {
			told++
			if n := u.waiting(); n != 3 {
				t.Errorf("%d wait", n)
			}
		}})
		u.must(u.disk.Remove("/spool/000000010000000000000002"))
		u.run(time.Minute)
		want := []string{"00000001/000000010000000000000001.zst", "00000001/000000010000000000000003.zst", "00000001/000000010000000000000004.zst", "walstream.json"}
		if diff := cmp.Diff(want, u.objects()); diff != "" || told != 1 || u.waiting() != 0 {
			t.Errorf("told %d times, %d wait; stored (-want +got):\n%s", told, u.waiting(), diff)
		}
	})
}

// The file that is being written is deleted: that ends the uploader, so that
// all can begin anew.
func TestUploaderLosesTheOpenSegment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTrickle(t, archive.TailConfig{Interval: time.Second})
		r.write(9000)
		r.must(r.disk.Remove("/spool/000000010000000000000001.partial"))
		var deleted *segment.DeletedError
		if err := r.up.Run(t.Context()); !errors.As(err, &deleted) || len(r.stored) > 0 {
			t.Errorf("Run = %v, told of %v", err, r.stored)
		}
	})
}
