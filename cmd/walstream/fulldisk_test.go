package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/internal/testkit/walgen"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// With the archive away the spool fills up to spool.max_size. Then commits
// wait, the connection is kept, nothing is dropped, and all goes on by itself
// once the archive is back. A stop need not wait for that.
func TestSpoolFull(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1, Settings: []string{"wal_sender_timeout = 3s", "autovacuum = off"}})
	w.env = []string{"WALSTREAM_SPOOL_MAX_SIZE=4MiB"}
	r := w.receive("--create-slot")
	w.must("backup", "--checkpoint", "fast")
	away := w.archive + ".away"
	ws := write(t, w.primary, 4)
	ws.atLeast(t, 50)

	fillUp := func() *statusView {
		move(t, w.archive, away)
		w.primary.Psql(t, "SET synchronous_commit = off; CREATE TABLE IF NOT EXISTS bulk (t text); ALTER TABLE bulk ALTER t SET STORAGE EXTERNAL")
		w.primary.Psql(t, "SET synchronous_commit = off; INSERT INTO bulk SELECT repeat('x', 100000) FROM generate_series(1, 80)")
		var v *statusView
		testkit.Wait(t, "the spool to be full", func() (bool, string) {
			v, _ = w.statusView()
			return !v.Spool.FullSince.IsZero(), strings.Join(v.Problems, "\n")
		})
		return v
	}
	v := fillUp()
	if v.Spool.Bytes > 4<<20 || v.Spool.Limit != 4<<20 || !strings.Contains(strings.Join(v.Problems, "\n"), "spool is full") {
		t.Errorf("%+v %v", v.Spool, v.Problems)
	}
	if !strings.Contains(r.output(), "the spool is full") {
		t.Errorf("no alarm:\n%s", r.output())
	}
	time.Sleep(4 * time.Second) // longer than the server waits for a sign of life
	before := ws.count()
	v, code := w.statusView()
	if code != 3 || v.Reconnects != 0 || v.State != "streaming" || v.Spool.Bytes > 4<<20 {
		t.Errorf("exit code %d, %+v", code, v)
	}
	time.Sleep(time.Second)
	if now := ws.count(); now != before {
		t.Errorf("%d commits were acknowledged with a full spool", now-before)
	}
	move(t, away, w.archive)
	ws.atLeast(t, 50)
	if v, _ := w.statusView(); v.Reconnects != 0 || !v.Spool.FullSince.IsZero() {
		t.Errorf("%+v", v)
	}

	fillUp()
	r.stop()
	move(t, away, w.archive)
	w.receive()
	ws.atLeast(t, 50)
	ws.stop()
	w.archived()
	if list := w.must("list", "wal"); strings.Contains(list, "missing") {
		t.Errorf("list wal:\n%s", list)
	}
	w.crash()
	dir := filepath.Join(w.dir, "restored")
	w.must("restore", dir)
	if lost := ws.lost(t, w.startRestored(dir)); len(lost) > 0 {
		t.Errorf("lost: %v", lost)
	}
}

// The spool is deleted under the receiver, and while it is stopped: the slot
// has everything that is not archived.
func TestDeletedSpool(t *testing.T) {
	t.Parallel()
	for _, ack := range []string{"spool", "archive"} {
		t.Run(ack, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
			w.env = append(w.env, "WALSTREAM_ACK="+ack)
			r := w.receive("--create-slot")
			w.must("backup", "--checkpoint", "fast")
			ws := write(t, w.primary, 4)
			ws.atLeast(t, 50)
			remove := func() {
				if err := os.RemoveAll(w.spool); err != nil {
					t.Fatal(err)
				}
			}
			remove()
			select {
			case err := <-r.done:
				if err == nil {
					t.Errorf("it ended as if all were well:\n%s", r.output())
				}
			case <-time.After(time.Minute):
				t.Fatalf("it goes on without a spool:\n%s", r.output())
			}
			r = w.receive()
			ws.atLeast(t, 50)
			r.kill()
			remove()
			r = w.receive()
			ws.atLeast(t, 50)
			w.wantNoHole(ws, r)
			w.crash()
			w.rescue("restored", ws)
		})
	}
}

// A receiver that starts with a full disk archives what waits in the spool, and
// opens it then.
func TestMakeRoom(t *testing.T) {
	id := segment.Identity{SystemIdentifier: 7_300_000_000_000_000_001, MajorVersion: 15, SegmentSize: segment.MinSize}
	location := filepath.Join(t.TempDir(), "archive")
	c := &config.Loaded{Config: config.Config{Archive: location, SpoolDir: filepath.Join(t.TempDir(), "spool"), CompressionLevel: "fastest"}}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	store, err := locate(ctx, c, true, true)
	ok(err)
	arch, err := archive.Pin(ctx, store, id)
	ok(err)

	g := walgen.New(id.ScanConfig(segment.ID{Timeline: 1, No: 7}), 1)
	start := g.Config.Start
	g.Fill(start + 5*wal.LSN(mib)/2)
	spool, err := segment.OpenSpool(segment.SpoolConfig{Dir: c.SpoolDir, Identity: id})
	ok(err)
	ok(spool.Begin(1, start))
	ok(spool.Append(1, start, g.At(start, g.End())))
	held, err := spool.Sync()
	ok(err)
	d := newDaemon(c, zerolog.Nop())
	var locked *segment.LockedError
	if err := d.makeRoom(ctx, &segment.FullError{Err: syscall.ENOSPC}); !errors.As(err, &locked) {
		t.Errorf("of a spool that another process has: %v", err)
	}
	ok(spool.Close())

	ok(d.makeRoom(ctx, &segment.FullError{Err: syscall.ENOSPC}))
	defer d.close()
	if missing, err := arch.Missing(ctx, 1, 7, 8); len(missing) > 0 || err != nil {
		t.Errorf("not archived: %v, %v", missing, err)
	}
	// The one before the open segment stays, for the next recovery.
	if u := d.spoolOpen().Usage(); u.Waiting > 1 || u.Bytes > 2*int64(mib) {
		t.Errorf("still in the spool: %+v", u)
	}
	if at, _ := d.spoolOpen().Resume(); at.LSN != held {
		t.Errorf("the spool ends at %s, it was %s", at.LSN, held)
	}
	if err := d.makeRoom(ctx, syscall.EROFS); !errors.Is(err, syscall.EROFS) {
		t.Errorf("another error is %v", err)
	}
}
