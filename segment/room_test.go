package segment_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/testkit/memfs"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// Room lets WAL in up to the limit, waits then for what is released, and gives
// up waiting with its context. A spool in which nothing waits is never full.
func TestRoom(t *testing.T) {
	w := newWorld()
	s, err := segment.OpenSpool(segment.SpoolConfig{Dir: spoolDir, FS: memfs.New(), Identity: identity, MaxSize: 2 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	stopped, stop := context.WithCancelCause(t.Context())
	stop(errors.New("enough"))
	room := func(end, want wal.LSN) {
		t.Helper()
		got, err := s.Room(stopped, end)
		if waits := errors.Is(err, context.Canceled); waits != (want == 0) || err != nil && !waits || got != want {
			t.Errorf("room for WAL up to %s: up to %s, %v; want %s", end, got, err, want)
		}
	}
	send := func(from, to wal.LSN) {
		t.Helper()
		ok(s.Append(1, from, w.streams[1].At(from, to)))
		_, err := s.Sync()
		ok(err)
	}
	ok(s.Begin(1, worldBase))
	room(worldBase+5, worldBase+mb)
	send(worldBase, worldBase+mb+5)
	room(worldBase+2*mb, worldBase+2*mb) // there is a file for it
	if u := s.Usage(); u.Bytes != 2<<20 || u.Waiting != 1 || !u.FullSince.IsZero() {
		t.Errorf("before it is full: %+v", u)
	}
	room(worldBase+2*mb+1, 0)
	if s.Usage().FullSince.IsZero() {
		t.Error("it does not say that it is full")
	}
	ok(s.Prepare(t.Context(), worldBase+5*mb))
	if u := s.Usage(); u.Bytes != 2<<20 {
		t.Errorf("Prepare took %d bytes beyond the limit", u.Bytes-2<<20)
	}

	got := make(chan wal.LSN)
	go func() {
		lsn, _ := s.Room(t.Context(), worldBase+2*mb+1)
		got <- lsn
	}()
	p, err := s.Next(t.Context())
	ok(err)
	ok(s.Release(p))
	// It is kept for recovery, but its release will not help any more.
	if lsn := <-got; lsn != worldBase+3*mb {
		t.Errorf("after a release there is room up to %s", lsn)
	}
	if u := s.Usage(); !u.FullSince.IsZero() || u.Waiting != 0 {
		t.Errorf("after the release: %+v", u)
	}
	send(worldBase+mb+5, worldBase+3*mb)
}

// fullDisk is a disk without room while it is set.
func fullDisk(disk *memfs.FS) *atomic.Bool {
	var full atomic.Bool
	disk.OnOp = func(op fsx.Op) error {
		if full.Load() && op.Kind == fsx.OpWrite {
			return syscall.ENOSPC
		}
		return nil
	}
	return &full
}

// A disk that is full takes nothing, loses nothing that was synced, and is not
// final: once there is room the same spool goes on.
func TestDiskFullWhileReceiving(t *testing.T) {
	b := newBench(t)
	full := fullDisk(b.disk)
	b.send(1, worldBase, worldBase+mb)
	full.Store(true)
	for range 3 {
		b.ok(b.Begin(1, worldBase+mb))
		b.ok(b.Prepare(t.Context(), worldBase+3*mb))
		err := b.Append(1, worldBase+mb, b.w.streams[1].At(worldBase+mb, worldBase+mb+100))
		if want[*segment.FullError](t, err); len(hint.Of(err)) == 0 {
			t.Errorf("no hint: %v", err)
		}
		if durable, err := b.Sync(); durable != worldBase+mb || err != nil {
			t.Errorf("durable %s, %v", durable, err)
		}
	}
	if names := files(t, b.disk); strings.Contains(strings.Join(names, " "), "tmp") {
		t.Errorf("the attempts took room: %v", names)
	}
	full.Store(false)
	b.send(1, worldBase+mb, worldBase+mb+5)
	b.ok(b.Prepare(t.Context(), worldBase+5*mb)) // takes no room yet
	b.send(1, worldBase+mb, worldBase+2*mb)
	full.Store(true)
	for range 2 {
		b.ok(b.Begin(1, worldBase+2*mb))
		want[*segment.FullError](t, b.Append(1, worldBase+2*mb, b.w.streams[1].At(worldBase+2*mb, worldBase+2*mb+1000)))
		if durable, err := b.Sync(); durable != worldBase+2*mb || err != nil {
			t.Errorf("durable %s, %v", durable, err)
		}
	}
	full.Store(false)
	b.send(1, worldBase+2*mb, worldBase+3*mb+5)
	b.crash()
	b.ok(b.w.run(b.disk))
}

func files(t *testing.T, disk *memfs.FS) (names []string) {
	t.Helper()
	entries, err := disk.ReadDir(spoolDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// A spool whose disk is full cannot be opened, but what is sealed in it can be
// archived without any room. Nothing that recovery needs is removed, so that
// it ends where it would have ended.
func TestDrainWhenDiskIsFull(t *testing.T) {
	b := newBench(t)
	b.send(1, worldBase, worldBase+2*mb+1000) // inside the record that fills a segment
	at, _ := b.Resume()
	b.ok(b.Close())
	b.disk = b.disk.CrashClone()
	full := fullDisk(b.disk)
	full.Store(true)
	for range 2 {
		if _, err := open(b.disk); err == nil {
			t.Fatal("it can be opened")
		} else if want[*segment.FullError](t, err); len(hint.Of(err)) == 0 {
			t.Errorf("no hint: %v", err)
		}
	}
	d, err := segment.OpenDrain(b.disk, spoolDir)
	b.ok(err)
	if d.Identity() != identity {
		t.Errorf("identity %+v", d.Identity())
	}
	var handed []uint64
	for range 2 {
		p, err := d.Next(t.Context())
		b.ok(err)
		handed = append(handed, p.ID.No)
		select {
		case <-d.Done():
			t.Error("done before all is released")
		default:
		}
		b.ok(d.Release(p))
	}
	<-d.Done()
	if diff := cmp.Diff([]uint64{7, 8}, handed); diff != "" {
		t.Error(diff)
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if _, err := d.Next(stopped); !errors.Is(err, context.Canceled) {
		t.Errorf("nothing is left: %v", err)
	}
	b.ok(d.Close())
	full.Store(false)
	s, err := open(b.disk)
	b.ok(err)
	defer s.Close()
	if now, _ := s.Resume(); now.LSN < b.w.lastRecord(at.LSN) {
		t.Errorf("the spool ends at %s, it was %s", now.LSN, at.LSN)
	}
}

func (w *world) lastRecord(lsn wal.LSN) wal.LSN { return lastEnd(w.streams[1], lsn) }
