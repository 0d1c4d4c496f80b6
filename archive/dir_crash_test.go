package archive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/testkit/memfs"
)

const crashRoot = "/srv/archive"

func TestDirStoreOnMemFS(t *testing.T) {
	testStore(t, func(t *testing.T) archive.Store {
		return openDir(t, archive.DirConfig{Path: crashRoot, Create: true, FS: memfs.New()})
	})
}

func crashBody(name string) []byte { return bytes.Repeat([]byte(name+"\n"), 1700) }

var crashNames = []string{
	"walstream.json", "wal/00000001/1.zst", "wal/00000001/2.tail/0-1.zst", "wal/00000001/2.zst",
	"wal/00000002.history", "wal/00000002/2.zst", "backup/x/data/000000.tar.zst",
}

// crashRun stores crashNames as the uploader does (an object that exists is
// confirmed) and notes in stored what it may rely on.
func crashRun(fsys fsx.FS, stored map[string]bool) error {
	d, err := archive.OpenDir(archive.DirConfig{Path: crashRoot, Create: true, FS: fsys})
	if err != nil {
		return err
	}
	ctx := context.Background()
	for _, name := range crashNames {
		err := d.Put(ctx, name, bytes.NewReader(crashBody(name)))
		if errors.Is(err, archive.ErrExists) {
			err = d.Confirm(ctx, name)
		}
		if err != nil {
			return err
		}
		stored[name] = true
	}
	var old []byte // of the run that was killed
	if r, err := d.Get(ctx, "state/step", 0, -1); err == nil {
		if old, err = io.ReadAll(r); err != nil {
			return err
		}
		r.Close()
	}
	for _, step := range []string{"one", "two", "three"} {
		body := crashBody("state/" + step)
		if err := d.Swap(ctx, "state/step", old, body); err != nil {
			return err
		}
		stored["state/"+step] = true
		old = body
	}
	return d.Delete(ctx, "wal/00000001/2.tail/0-1.zst")
}

// checkCrash looks at the archive after a power cut: what was reported as
// stored is there, and nothing is there in part.
func checkCrash(fsys fsx.FS, stored map[string]bool) error {
	d, err := archive.OpenDir(archive.DirConfig{Path: crashRoot, FS: fsys})
	if err != nil {
		if len(stored) == 0 {
			return nil
		}
		return err
	}
	found := map[string]bool{}
	for info, err := range d.List(context.Background(), "", "") {
		if err != nil {
			return err
		}
		r, err := d.Get(context.Background(), info.Name, 0, -1)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			return err
		}
		if info.Name == "state/step" { // the last contents that were promised, or those behind
			line, _, _ := strings.Cut(string(body), "\n")
			for _, step := range []string{"state/one", "state/two", "state/three"} {
				found[step] = found[step] || !found[line]
			}
			info.Name = line
		}
		if !bytes.Equal(body, crashBody(info.Name)) {
			return fmt.Errorf("%s holds %d bytes, not what was stored", info.Name, len(body))
		}
		found[info.Name] = true
	}
	for name := range stored {
		if !found[name] && !strings.Contains(name, ".tail/") {
			return fmt.Errorf("%s was stored and is lost", name)
		}
	}
	return nil
}

// killAt runs on fsys and dies before operation n.
func killAt(n int, mem *memfs.FS, fsys fsx.FS, stored map[string]bool) (dead bool) {
	ops := 0
	mem.OnOp = func(fsx.Op) error {
		if ops++; ops > n {
			panic(killed{})
		}
		return nil
	}
	defer func() {
		mem.OnOp = nil
		if r := recover(); r != nil {
			dead = r == killed{}
		}
	}()
	if err := crashRun(fsys, stored); err != nil {
		panic(err)
	}
	return false
}

type killed struct{}

// crashEverywhere cuts the power at every operation: with everything unsynced
// lost, and with a random part of it kept.
func crashEverywhere(wrap func(fsx.FS) fsx.FS) error {
	for n, dead := 0, true; dead; n++ {
		mem, stored := memfs.New(), map[string]bool{}
		dead = killAt(n, mem, wrap(mem), stored)
		if err := checkCrash(mem.CrashClone(), stored); err != nil {
			return fmt.Errorf("power cut before operation %d: %w", n, err)
		}
		for seed := range uint64(2) {
			if err := checkCrash(mem.CrashCloneKeeping(rand.New(rand.NewPCG(seed, 1))), stored); err != nil {
				return fmt.Errorf("power cut before operation %d, seed %d: %w", n, seed, err)
			}
		}
	}
	return nil
}

func TestDirPowerCut(t *testing.T) {
	if err := crashEverywhere(func(fsys fsx.FS) fsx.FS { return fsys }); err != nil {
		t.Error(err)
	}
}

// A process is killed at every operation and another takes over; then the
// power is cut. What the first left unsynced is the second's to make durable.
func TestDirKillThenPowerCut(t *testing.T) {
	for n, dead := 0, true; dead; n++ {
		mem, stored := memfs.New(), map[string]bool{}
		dead = killAt(n, mem, mem, stored)
		if err := crashRun(mem, stored); err != nil {
			t.Fatalf("after a kill before operation %d: %v", n, err)
		}
		if err := checkCrash(mem.CrashClone(), stored); err != nil {
			t.Fatalf("killed before operation %d: %v", n, err)
		}
	}
}

// Each operation fails once, and the writer tries again without restarting.
func TestDirFaultThenPowerCut(t *testing.T) {
	for _, fault := range []error{unix.EIO, unix.ENOSPC} {
		for n, hit := 0, true; hit; n++ {
			mem, stored, ops := memfs.New(), map[string]bool{}, 0
			mem.OnOp = func(fsx.Op) error {
				if ops++; ops == n+1 {
					return fault
				}
				return nil
			}
			d, err := archive.OpenDir(archive.DirConfig{Path: crashRoot, Create: true, FS: mem})
			if err == nil {
				for _, name := range crashNames {
					stubbornPut(d, name, stored)
				}
			}
			hit = ops > n
			if err := checkCrash(mem.CrashClone(), stored); err != nil {
				t.Fatalf("%v at operation %d: %v", fault, n, err)
			}
		}
	}
}

func stubbornPut(d *archive.Dir, name string, stored map[string]bool) {
	for range 3 {
		err := d.Put(context.Background(), name, bytes.NewReader(crashBody(name)))
		if errors.Is(err, archive.ErrExists) {
			err = d.Confirm(context.Background(), name)
		}
		if err == nil {
			stored[name] = true
			return
		}
	}
}

// The tests above must notice a store that forgets to sync.
func TestDirPowerCutIsSharp(t *testing.T) {
	for name, wrap := range map[string]func(fsx.FS) fsx.FS{
		"directories": func(fsys fsx.FS) fsx.FS { return noSyncDir{fsys} },
		"files":       func(fsys fsx.FS) fsx.FS { return noSync{fsys} },
	} {
		if err := crashEverywhere(wrap); err == nil {
			t.Errorf("without syncing %s a power cut loses nothing: the test is blunt", name)
		}
	}
}

type noSyncDir struct{ fsx.FS }

func (noSyncDir) SyncDir(string) error { return nil }

type noSync struct{ fsx.FS }

type noSyncFile struct{ fsx.File }

func (noSyncFile) Sync() error { return nil }

func (f noSync) Create(name string, perm fs.FileMode) (fsx.File, error) {
	file, err := f.FS.Create(name, perm)
	return noSyncFile{file}, err
}
