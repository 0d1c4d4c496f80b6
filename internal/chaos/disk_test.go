//go:build chaos

package chaos

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/testkit/memfs"
)

// tree is the files below root with their contents, and the directories.
func tree(t *testing.T, fsys fsx.FS, root string) map[string]string {
	t.Helper()
	found := map[string]string{}
	var walk func(string)
	walk = func(dir string) {
		entries, err := fsys.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if e.IsDir() {
				found[path] = "directory"
				walk(path)
				continue
			}
			body, err := fsx.ReadFile(fsys, path)
			if err != nil {
				t.Fatal(err)
			}
			found[path] = fmt.Sprintf("%x", body)
		}
	}
	if _, err := fsys.Stat(root); err == nil {
		walk(root)
	}
	return found
}

// change does one thing at random, and has the same result on every file
// system that is in the same state.
func change(fsys fsx.FS, root string, rnd *rand.Rand) error {
	dir := filepath.Join(root, []string{"", "sub"}[rnd.IntN(2)])
	name := func() string { return filepath.Join(dir, fmt.Sprint("f", rnd.IntN(4))) }
	switch rnd.IntN(8) {
	case 0:
		f, err := fsys.Create(name(), 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = fmt.Fprint(f, "new ", rnd.IntN(100))
		return err
	case 1:
		return fsys.Mkdir(filepath.Join(root, "sub"), 0o700)
	case 2:
		return fsys.Rename(name(), name())
	case 3:
		return fsys.Link(name(), name())
	case 4:
		return fsys.Remove(name())
	case 5:
		return fsys.SyncDir(dir)
	default:
		f, err := fsys.OpenRW(name())
		if err != nil {
			return err
		}
		defer f.Close()
		if rnd.IntN(3) > 0 {
			_, err = f.WriteAt([]byte(fmt.Sprint("written ", rnd.IntN(100))), rnd.Int64N(20000))
			return err
		}
		return f.Sync()
	}
}

// What a journal tells of the real file system is what a Mem says that went
// the same way: now, and after a power loss.
func TestJournalEqualsModel(t *testing.T) {
	journals := t.TempDir()
	for seed := range uint64(50) {
		root := filepath.Join(t.TempDir(), "root")
		disk, err := NewDisk(root)
		if err != nil {
			t.Fatal(err)
		}
		model := memfs.New()
		if err := fsx.MkdirAll(model, filepath.Dir(root), 0o755); err != nil {
			t.Fatal(err)
		}
		journaled := fsx.NewJournaled(journals)
		for _, fsys := range []fsx.FS{journaled, model} {
			if err := fsx.MkdirAll(fsys, root, 0o700); err != nil {
				t.Fatal(err)
			}
			rnd := rand.New(rand.NewPCG(seed, 0))
			for range 60 {
				_ = change(fsys, root, rnd)
			}
		}
		if diff := cmp.Diff(tree(t, model, root), tree(t, fsx.OS{}, root)); diff != "" {
			t.Fatalf("seed %d: the model is wrong (-model +real):\n%s", seed, diff)
		}
		apply(t, disk, journals)
		if diff := cmp.Diff(tree(t, fsx.OS{}, root), tree(t, disk.mem, root)); diff != "" {
			t.Fatalf("seed %d: the disk (-real +disk):\n%s", seed, diff)
		}
		if err := disk.PowerLoss(nil); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tree(t, model.CrashClone(), root), tree(t, fsx.OS{}, root)); diff != "" {
			t.Fatalf("seed %d: after the power loss (-model +real):\n%s", seed, diff)
		}
	}
}

func apply(t *testing.T, disk *Disk, journals string) {
	t.Helper()
	records, err := fsx.TakeJournals(journals)
	if err == nil {
		err = disk.Apply(records)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// What no journal tells, because a process was killed before it wrote it down,
// is there until the power is lost, and not any more then.
func TestUnknownChanges(t *testing.T) {
	journals := t.TempDir()
	for seed := range uint64(50) {
		root := filepath.Join(t.TempDir(), "root")
		disk, err := NewDisk(root)
		if err != nil {
			t.Fatal(err)
		}
		journaled := fsx.NewJournaled(journals)
		if err := fsx.MkdirAll(journaled, root, 0o700); err != nil {
			t.Fatal(err)
		}
		rnd := rand.New(rand.NewPCG(seed, 1))
		for range 40 {
			_ = change(journaled, root, rnd)
		}
		apply(t, disk, journals)
		durable := tree(t, disk.mem.CrashClone(), root)
		for range 20 {
			_ = change(fsx.NewJournaled(""), root, rnd)
		}
		apply(t, disk, journals)
		if diff := cmp.Diff(tree(t, fsx.OS{}, root), tree(t, disk.mem, root)); diff != "" {
			t.Fatalf("seed %d: the disk (-real +disk):\n%s", seed, diff)
		}
		if err := disk.PowerLoss(nil); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(durable, tree(t, fsx.OS{}, root)); diff != "" {
			t.Fatalf("seed %d: after the power loss (-durable +real):\n%s", seed, diff)
		}
		if info, err := os.Stat(root); err == nil && info.Mode() != fs.ModeDir|0o700 {
			t.Errorf("the mode of the root is %v", info.Mode())
		}
	}
}
