package segment_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/testkit/memfs"
)

// stride is how many operations the tests go on between two power cuts. The
// race detector has nothing to find in them, but makes them ten times slower:
// there it is only a part of the operations, another one each time.
const stride = 1 + 6*raceDetector

// powerCuts runs a whole life of a spool and cuts the power before each of its
// operations. On what then is left, and has survived, every acknowledged byte
// must be found, and a new process must be able to finish the work. It returns
// the first thing that is wrong, and the number of cuts.
func powerCuts(wrap func(fsx.FS) fsx.FS, crash func(m *memfs.FS, op int) *memfs.FS) (ops int, err error) {
	w := newWorld()
	disk := memfs.New()
	offset := rand.IntN(stride)
	disk.OnOp = func(op fsx.Op) error {
		if ops++; err == nil && ops%stride == offset {
			if err = survive(w.snapshot(), crash(disk, ops)); err != nil {
				err = fmt.Errorf("power cut at operation %d (%s %s): %w", ops, op.Kind, op.Path, err)
			}
		}
		return nil
	}
	if rerr := w.run(wrap(disk)); rerr != nil && err == nil {
		err = rerr
	}
	disk.OnOp = nil
	if err == nil {
		err = w.complete(disk.CrashClone())
	}
	return ops, err
}

func survive(w *world, disk *memfs.FS) error {
	if err := w.check(disk); err != nil {
		return err
	}
	if err := w.run(disk); err != nil {
		return fmt.Errorf("the next process: %w", err)
	}
	return w.complete(disk.CrashClone())
}

func plain(f fsx.FS) fsx.FS { return f }

func strict(m *memfs.FS, _ int) *memfs.FS { return m.CrashClone() }

func keeping(seed uint64) func(*memfs.FS, int) *memfs.FS {
	return func(m *memfs.FS, op int) *memfs.FS {
		return m.CrashCloneKeeping(rand.New(rand.NewPCG(seed, uint64(op))))
	}
}

// losses are what a power cut can do to a disk.
var losses = map[string]func(m *memfs.FS, op int) *memfs.FS{
	"only what was synced survives": strict,
	"unsynced parts survive":        keeping(1),
	"other unsynced parts survive":  keeping(2),
}

func TestPowerCutAnywhere(t *testing.T) {
	for name, crash := range losses {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ops, err := powerCuts(plain, crash)
			if err != nil {
				t.Fatal(err)
			}
			if ops < 100 {
				t.Errorf("only %d operations: the test lost its scenario", ops)
			}
		})
	}
}

// TestErrorAnywhere lets each operation fail in turn. The process must not
// acknowledge anything wrong, and the next one must recover: both after a
// crash and when the page cache still shows what a failed sync lost.
func TestErrorAnywhere(t *testing.T) {
	t.Parallel()
	total := 0
	disk := memfs.New()
	disk.OnOp = func(fsx.Op) error { total++; return nil }
	if err := newWorld().run(disk); err != nil {
		t.Fatal(err)
	}
	for op := 1 + rand.IntN(stride); op <= total; op += stride {
		injected := []error{syscall.EIO, syscall.ENOSPC}[op%2]
		if err := failAt(op, injected); err != nil {
			t.Fatalf("%v at operation %d: %v", injected, op, err)
		}
	}
}

func failAt(failing int, injected error) error {
	w := newWorld()
	disk := memfs.New()
	ops := 0
	var failed fsx.Op
	disk.OnOp = func(op fsx.Op) error {
		if ops++; ops == failing {
			failed = op
			return injected
		}
		return nil
	}
	// A file that cannot be removed is no reason to stop, nor is too little
	// room for what is only prepared.
	err := w.run(disk)
	tolerable := failed.Kind == fsx.OpRemove || injected == syscall.ENOSPC && strings.Contains(failed.Path, ".partial") //nolint:errorlint // injected here
	if !errors.Is(err, injected) && !tolerable {
		return errors.Join(fmt.Errorf("%s %s: run did not return the error", failed.Kind, failed.Path), err)
	}
	if err := w.snapshot().check(disk.CrashClone()); err != nil {
		return fmt.Errorf("%s %s, then a crash: %w", failed.Kind, failed.Path, err)
	}
	if err := w.run(disk); err != nil {
		return fmt.Errorf("%s %s, then a restart: %w", failed.Kind, failed.Path, err)
	}
	if err := w.complete(disk.CrashClone()); err != nil {
		return fmt.Errorf("%s %s, a restart, then a crash: %w", failed.Kind, failed.Path, err)
	}
	return nil
}

// TestKillAnywhere ends the process before each operation. The next one finds
// what was written in the page cache, and must not take it for durable.
func TestKillAnywhere(t *testing.T) {
	t.Parallel()
	for op, done := 1+rand.IntN(stride), false; !done; op += stride {
		w := newWorld()
		disk := memfs.New()
		ops := 0
		disk.OnOp = func(fsx.Op) error {
			if ops++; ops == op {
				panic(errKilled)
			}
			return nil
		}
		var err error
		if done, err = w.killed(disk); err != nil {
			t.Fatal(err)
		}
		disk.OnOp = nil
		if err := w.run(disk); err != nil {
			t.Fatalf("killed at operation %d: the next process: %v", op, err)
		}
		if err := w.complete(disk.CrashClone()); err != nil {
			t.Fatalf("killed at operation %d, then a crash: %v", op, err)
		}
	}
}

var errKilled = errors.New("killed")

// killed runs until it is done or killed.
func (w *world) killed(disk *memfs.FS) (done bool, err error) {
	defer func() {
		p := recover()
		if cause, ok := p.(error); p != nil && (!ok || !errors.Is(cause, errKilled)) {
			panic(p)
		}
	}()
	err = w.run(disk)
	return true, err
}

// lying leaves out one kind of sync.
type lying struct {
	fsx.FS
	noSyncDir, noDatasync, noSync bool
}

type lyingFile struct {
	fsx.File
	l lying
}

func (l lying) SyncDir(name string) error {
	if l.noSyncDir {
		return nil
	}
	return l.FS.SyncDir(name)
}

func (l lying) OpenRW(name string) (fsx.File, error) {
	f, err := l.FS.OpenRW(name)
	return lyingFile{f, l}, err
}

func (l lying) Create(name string, perm fs.FileMode) (fsx.File, error) {
	f, err := l.FS.Create(name, perm)
	if err != nil {
		return nil, err
	}
	return lyingFile{f, l}, nil
}

func (f lyingFile) Sync() error {
	if f.l.noSync {
		return nil
	}
	return f.File.Sync()
}

func (f lyingFile) Datasync() error {
	if f.l.noDatasync {
		return nil
	}
	return f.File.Datasync()
}

// TestPowerCutsFindMissingSyncs shows that the test above would notice.
func TestPowerCutsFindMissingSyncs(t *testing.T) {
	for name, l := range map[string]lying{
		"directory fsync": {noSyncDir: true},
		"fdatasync":       {noDatasync: true},
		"fsync":           {noSync: true},
	} {
		t.Run("without "+name, func(t *testing.T) {
			wrap := func(f fsx.FS) fsx.FS { l := l; l.FS = f; return l }
			if _, err := powerCuts(wrap, strict); err == nil {
				t.Errorf("nothing was lost without %s", name)
			} else {
				t.Log(err)
			}
		})
	}
}
