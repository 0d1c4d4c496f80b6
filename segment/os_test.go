package segment_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/testkit/memfs"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openOS(dir string) (*segment.Spool, error) {
	return segment.OpenSpool(segment.SpoolConfig{Dir: dir, Identity: identity})
}

func TestLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "spool")
	s, err := openOS(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = openOS(dir)
	locked := want[*segment.LockedError](t, err)
	if locked.Path != filepath.Join(dir, "lock") || len(hint.Of(err)) == 0 {
		t.Errorf("%v, hints %q", err, hint.Of(err))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := openOS(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOpenSaysWhatToDo(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openOS(file); !errors.Is(err, syscall.ENOTDIR) || !strings.Contains(err.Error(), file) {
		t.Errorf("on a file: %v", err)
	}
	for _, cause := range []error{syscall.ENOSPC, syscall.EROFS, syscall.EACCES} {
		disk := memfs.New()
		disk.OnOp = func(op fsx.Op) error {
			if op.Kind == fsx.OpWrite {
				return cause
			}
			return nil
		}
		if _, err := open(disk); !errors.Is(err, cause) || !strings.Contains(hint.Of(err)[0], filepath.Dir(spoolDir)) {
			t.Errorf("%v: got %v, hints %q", cause, err, hint.Of(err))
		}
	}
}

// TestAllAtOnce receives, syncs, archives and looks on at the same time, on
// the real file system.
func TestAllAtOnce(t *testing.T) {
	dir := t.TempDir()
	s, err := openOS(dir)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld()
	ctx, cancel := context.WithCancelCause(t.Context())
	archived := make(chan []byte, 100)
	done := errors.New("done")
	var group, others errgroup.Group
	group.Go(func() error {
		g, tli := w.streams[1], wal.Timeline(1)
		if err := s.Begin(tli, g.Config.Start); err != nil {
			return err
		}
		for from := g.Config.Start; from < g.End(); {
			to := min(from+20_000, g.End())
			if err := s.Append(tli, from, g.At(from, to)); err != nil {
				return err
			}
			from = to
		}
		_, err := s.EndTimeline(tli, w.fork)
		return err
	})
	for range 3 {
		others.Go(func() error {
			for before := wal.LSN(0); ctx.Err() == nil; {
				lsn, err := s.Sync()
				if err != nil || lsn < before {
					return errors.Join(err, errors.New("durable end "+lsn.String()+" after "+before.String()))
				}
				before = lsn
				s.Usage()
				s.OpenSegment()
				s.Resume()
			}
			return nil
		})
	}
	for range 2 {
		others.Go(func() error { return archiveAll(ctx, s, w, archived, done) })
	}
	others.Go(func() error {
		for ctx.Err() == nil {
			if err := look(dir); err != nil {
				return err
			}
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	for range 4 {
		<-archived
	}
	cancel(done)
	if err := others.Wait(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func archiveAll(ctx context.Context, s *segment.Spool, w *world, archived chan []byte, done error) error {
	for {
		p, err := s.Next(ctx)
		if errors.Is(err, done) {
			return nil
		}
		if err != nil {
			return err
		}
		body, err := read(p)
		if err != nil {
			return err
		}
		if i := differ(body, w.want(p)); i < len(body) {
			return errors.New(p.Path + " differs")
		}
		if err := s.Release(p); err != nil {
			return err
		}
		archived <- body
	}
}

// look reads the spool as a restore would.
func look(dir string) error {
	v, err := segment.ReadSpool(fsx.OS{}, dir)
	if err != nil {
		return err
	}
	for _, p := range v.Partials {
		if _, err := v.Valid(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func TestReadSpool(t *testing.T) {
	b := newBench(t)
	b.send(1, worldBase, b.w.last[1])
	b.end(1, b.w.fork)
	b.saveHistory()
	b.send(2, b.w.fork, worldBase+3*mb+mb/2)
	// Not synced, but there: it comes from the server all the same.
	b.ok(b.Append(2, worldBase+3*mb+mb/2, b.w.streams[2].At(worldBase+3*mb+mb/2, worldBase+4*mb-8)))

	v, err := segment.ReadSpool(b.disk, spoolDir)
	b.ok(err)
	if v.Identity != identity || len(v.Histories) != 1 || len(v.Histories[2]) == 0 {
		t.Errorf("identity %+v, histories %q", v.Identity, v.Histories)
	}
	if len(v.Sealed) != 4 || len(v.Partials) != 1 || v.Sealed[3].Complete {
		t.Fatalf("view %v, %v", names(v.Sealed), names(v.Partials))
	}
	for _, p := range v.Sealed {
		got, err := read(p)
		b.ok(err)
		if differ(got, b.w.want(p)) < len(got) {
			t.Errorf("%s differs", p.Path)
		}
	}
	p, err := v.Valid(v.Partials[0])
	b.ok(err)
	if got, want := worldBase+3*mb+wal.LSN(p.To), lastEnd(b.w.streams[2], worldBase+4*mb-8); got != want {
		t.Errorf("valid up to %s, want %s", got, want)
	}
	if _, err := segment.ReadSpool(b.disk, "/var"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory without a spool: %v", err)
	}
}
