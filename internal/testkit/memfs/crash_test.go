package memfs_test

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/testkit/memfs"
)

// steps runs script lines on m, failing the test on any error.
func steps(t *testing.T, m *memfs.FS, files map[string]fsx.File, lines ...[]string) {
	t.Helper()
	for _, l := range lines {
		if _, err := do(m, "/", files, l); err != nil {
			t.Fatalf("%v: %v", l, err)
		}
	}
}

func words(w ...string) []string { return w }

func TestCrashKeepsOnlyWhatWasSynced(t *testing.T) {
	for _, c := range []struct {
		name  string
		lines [][]string
		want  string // contents of /d/f after the crash, "absent" for none
	}{
		{"nothing synced", [][]string{words("create", "a", "d/f"), words("write", "a", "x")}, "absent"},
		{"bytes but no name", [][]string{words("create", "a", "d/f"), words("write", "a", "x"), words("sync", "a")}, "absent"},
		{"name but no bytes", [][]string{words("create", "a", "d/f"), words("write", "a", "x"), words("syncdir", "d")}, ""},
		{"both", [][]string{words("create", "a", "d/f"), words("write", "a", "x"), words("sync", "a"), words("syncdir", "d")}, "x"},
		{"fdatasync keeps the size", [][]string{words("create", "a", "d/f"), words("syncdir", "d"), words("write", "a", "xyz"), words("datasync", "a")}, "xyz"},
		{"written behind the sync", [][]string{words("create", "a", "d/f"), words("syncdir", "d"), words("write", "a", "abc"), words("sync", "a"), words("writeat", "a", "1", "XYZ")}, "abc"},
		{"unsynced truncation", [][]string{words("create", "a", "d/f"), words("syncdir", "d"), words("write", "a", "abc"), words("sync", "a"), words("truncate", "a", "1")}, "abc"},
		{"synced truncation", [][]string{words("create", "a", "d/f"), words("syncdir", "d"), words("write", "a", "abc"), words("truncate", "a", "1"), words("sync", "a")}, "a"},
		{"unsynced rename", [][]string{words("create", "a", "d/g"), words("write", "a", "x"), words("sync", "a"), words("syncdir", "d"), words("rename", "d/g", "d/f")}, "absent"},
		{"synced rename", [][]string{words("create", "a", "d/g"), words("write", "a", "x"), words("sync", "a"), words("rename", "d/g", "d/f"), words("syncdir", "d")}, "x"},
		{"rename over another", [][]string{words("create", "b", "d/f"), words("write", "b", "old"), words("sync", "b"), words("syncdir", "d"), words("create", "a", "d/g"), words("write", "a", "new"), words("sync", "a"), words("rename", "d/g", "d/f")}, "old"},
		{"unsynced removal", [][]string{words("create", "a", "d/f"), words("write", "a", "x"), words("sync", "a"), words("syncdir", "d"), words("remove", "d/f")}, "x"},
		{"synced removal", [][]string{words("create", "a", "d/f"), words("syncdir", "d"), words("remove", "d/f"), words("syncdir", "d")}, "absent"},
		{"link to a synced file", [][]string{words("create", "a", "d/g"), words("write", "a", "x"), words("sync", "a"), words("link", "d/g", "d/f"), words("syncdir", "d")}, "x"},
		{"from another directory", [][]string{words("mkdir", "e"), words("syncdir", "."), words("create", "a", "e/f"), words("write", "a", "x"), words("sync", "a"), words("syncdir", "e"), words("rename", "e/f", "d/f"), words("syncdir", "d")}, "x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := memfs.New()
			steps(t, m, map[string]fsx.File{}, append([][]string{words("mkdir", "d"), words("syncdir", ".")}, c.lines...)...)
			crashed := m.CrashClone()
			got, err := fsx.ReadFile(crashed, "/d/f")
			switch {
			case errors.Is(err, fs.ErrNotExist):
				got = []byte("absent")
			case err != nil:
				t.Fatal(err)
			}
			if string(got) != c.want {
				t.Errorf("after the crash %q, want %q", got, c.want)
			}
			if again, err := fsx.ReadFile(crashed.CrashClone(), "/d/f"); err == nil && !bytes.Equal(again, got) {
				t.Errorf("a second crash changed it to %q", again)
			}
		})
	}
}

func TestUnsyncedDirectoryTakesItsFilesAlong(t *testing.T) {
	m := memfs.New()
	steps(t, m, map[string]fsx.File{}, words("mkdir", "d"), words("create", "a", "d/f"), words("sync", "a"), words("syncdir", "d"))
	if _, err := m.CrashClone().Stat("/d"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stat = %v", err)
	}
}

func TestCrashDoesNotTouchTheOriginal(t *testing.T) {
	m := memfs.New()
	files := map[string]fsx.File{}
	steps(t, m, files, words("create", "a", "f"), words("link", "f", "g"), words("syncdir", "."), words("write", "a", "x"), words("sync", "a"))
	crashed := m.CrashClone()
	f, err := crashed.OpenRW("f")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("y")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"f": "y", "g": "y"} { // still one file
		if got, _ := fsx.ReadFile(crashed, name); string(got) != want {
			t.Errorf("clone: %s = %q", name, got)
		}
		if got, _ := fsx.ReadFile(m, name); string(got) != "x" {
			t.Errorf("original: %s = %q", name, got)
		}
	}
}

// TestCrashKeeping: what was synced is always there, what was not is there
// sometimes, and nothing appears that was never written.
func TestCrashKeeping(t *testing.T) {
	m := memfs.New()
	files := map[string]fsx.File{}
	steps(t, m, files, words("create", "a", "f"), words("syncdir", "."))
	old, fresh := bytes.Repeat([]byte{'o'}, 5000), bytes.Repeat([]byte{'n'}, 20_000)
	if _, err := files["a"].WriteAt(old, 0); err != nil {
		t.Fatal(err)
	}
	steps(t, m, files, words("sync", "a"))
	if _, err := files["a"].WriteAt(fresh, 1000); err != nil {
		t.Fatal(err)
	}
	steps(t, m, files, words("create", "b", "first"), words("create", "c", "second"), words("rename", "first", "third"))

	seen := map[string]int{}
	for seed := range uint64(200) {
		crashed := m.CrashCloneKeeping(rand.New(rand.NewPCG(seed, 1)))
		got, err := fsx.ReadFile(crashed, "f")
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(got, old[:1000]) {
			t.Fatal("synced bytes are gone")
		}
		for i, c := range got[1000:] {
			at := 1000 + i
			if c != 'n' && (c != 'o' || at >= 5000) && (c != 0 || at < 5000) {
				t.Fatalf("byte %d is %q", at, c)
			}
			if i > 0 && got[at-1] != c && at%512 != 0 && at != 1000 && at != 5000 {
				t.Fatalf("torn at %d", at)
			}
		}
		switch written := bytes.Count(got, []byte{'n'}); {
		case written == 0:
			seen["none"]++
		case written == len(fresh):
			seen["all"]++
		default:
			seen["torn"]++
		}
		_, second := crashed.Stat("second")
		_, third := crashed.Stat("third")
		if second == nil {
			seen["second"]++
		}
		if second != nil && third == nil {
			seen["third without second"]++
		}
	}
	for _, kind := range []string{"none", "all", "torn", "second", "third without second"} {
		if seen[kind] == 0 {
			t.Errorf("never: %s (%v)", kind, seen)
		}
	}
}

func TestInjectedErrors(t *testing.T) {
	m := memfs.New()
	files := map[string]fsx.File{}
	steps(t, m, files, words("mkdir", "d"), words("syncdir", "."), words("create", "a", "d/f"), words("syncdir", "d"))
	var ops []fsx.Op
	var inject error
	m.OnOp = func(op fsx.Op) error { ops = append(ops, op); return inject }
	inject = syscall.ENOSPC
	if n, err := files["a"].Write([]byte("abcdef")); n != 3 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Write = %d, %v", n, err)
	}
	inject = syscall.EIO
	if err := files["a"].Datasync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("Datasync = %v", err)
	}
	inject = nil
	if err := files["a"].Sync(); err != nil {
		t.Errorf("the second sync must look like a success, got %v", err)
	}
	if got, _ := fsx.ReadFile(m, "d/f"); string(got) != "abc" {
		t.Errorf("the page cache shows %q", got)
	}
	if got, _ := fsx.ReadFile(m.CrashClone(), "d/f"); string(got) != "" {
		t.Errorf("a retried sync saved %q", got)
	}
	steps(t, m, files, words("create", "b", "d/g"))
	inject = syscall.EIO
	for _, l := range [][]string{words("syncdir", "d"), words("create", "c", "d/h"), words("mkdir", "d/h"), words("link", "d/f", "d/h"), words("rename", "d/f", "d/h"), words("remove", "d/f"), words("truncate", "a", "1")} {
		if _, err := do(m, "/", files, l); !errors.Is(err, syscall.EIO) {
			t.Errorf("%v = %v", l, err)
		}
	}
	inject = nil
	steps(t, m, files, words("syncdir", "d"))
	if _, err := m.CrashClone().Stat("d/g"); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a retried directory sync saved a name")
	}
	if got, _ := fsx.ReadFile(m, "d/f"); string(got) != "abc" {
		t.Errorf("a failed operation changed the file to %q", got)
	}
	if want := (fsx.Op{Kind: fsx.OpWrite, Path: "/d/f"}); ops[0] != want {
		t.Errorf("first operation %+v, want %+v", ops[0], want)
	}
}
