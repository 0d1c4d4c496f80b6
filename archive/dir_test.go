package archive_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/testkit/memstore"
)

func openDir(t *testing.T, cfg archive.DirConfig) *archive.Dir {
	t.Helper()
	d, err := archive.OpenDir(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDirStore(t *testing.T) {
	testStore(t, func(t *testing.T) archive.Store {
		return openDir(t, archive.DirConfig{Path: t.TempDir()})
	})
}

func TestMemStore(t *testing.T) {
	testStore(t, func(t *testing.T) archive.Store { return memstore.New() })
}

func TestOpenDirMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b")
	_, err := archive.OpenDir(archive.DirConfig{Path: path})
	if err == nil || errors.Is(err, archive.ErrNotExist) || errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("missing directory: %v, want an error that is no absence", err)
	}
	if len(hint.Of(err)) == 0 {
		t.Errorf("no hint: %v", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the directory was made without being asked for")
	}
	d := openDir(t, archive.DirConfig{Path: path, Create: true})
	if err := d.Put(t.Context(), "x", strings.NewReader("x")); err != nil {
		t.Error(err)
	}
	for _, path := range []string{"relative/path", filepath.Join(path, "x")} {
		if _, err := archive.OpenDir(archive.DirConfig{Path: path, Create: true}); err == nil {
			t.Errorf("OpenDir(%s) is accepted", path)
		}
	}
}

// An archive that is not mounted any more must not look like one that holds
// nothing, nor take what then would be hidden by the mount.
func TestDirUnmounted(t *testing.T) {
	root := filepath.Join(t.TempDir(), "archive")
	d := openDir(t, archive.DirConfig{Path: root, Create: true})
	ctx := t.Context()
	for _, name := range []string{"walstream.json", "wal/1"} {
		if err := d.Put(ctx, name, strings.NewReader("{}")); err != nil {
			t.Fatal(err)
		}
	}
	check := func(t *testing.T) { checkTrouble(t, d) }
	if err := os.Rename(root, root+".away"); err != nil {
		t.Fatal(err)
	}
	t.Run("missing", check)
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Run("bare mount point", check)
	if entries, err := os.ReadDir(root); err != nil || len(entries) > 0 {
		t.Errorf("the bare mount point holds %v, %v", entries, err)
	}
}

// checkTrouble expects that nothing can be done in wal/, and nothing is absent.
func checkTrouble(t *testing.T, d *archive.Dir) {
	t.Helper()
	ctx := t.Context()
	_, get := d.Get(ctx, "wal/1", 0, -1)
	_, stat := d.Stat(ctx, "wal/1")
	var listed error
	for _, err := range d.List(ctx, "wal/", "") {
		listed = err
	}
	for op, err := range map[string]error{
		"Get": get, "Stat": stat, "List": listed, "Put": d.Put(ctx, "wal/2", strings.NewReader("x")),
		"Delete": d.Delete(ctx, "wal/1"), "Confirm": d.Confirm(ctx, "wal/1"),
	} {
		if err == nil || errors.Is(err, archive.ErrNotExist) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v, want an error that is no absence", op, err)
		} else if len(hint.Of(err)) == 0 {
			t.Errorf("%s: no hint: %v", op, err)
		}
	}
}

// A folder of the archive may be a symbolic link. What it leads to is listed,
// is never taken for absent, and outlives the deletion of its last object.
func TestDirSymlinks(t *testing.T) {
	ctx, root, other := t.Context(), t.TempDir(), t.TempDir()
	d := openDir(t, archive.DirConfig{Path: root})
	if err := d.Put(ctx, "walstream.json", strings.NewReader("{}")); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(root, "wal")
	if err := errors.Join(os.Mkdir(filepath.Join(other, "1"), 0o755), os.Symlink(other, link), os.Symlink("1", filepath.Join(other, "2"))); err != nil {
		t.Fatal(err)
	}
	names := func() (names []string) {
		for info, err := range d.List(ctx, "wal/", "") {
			if err != nil {
				t.Error(err)
			}
			names = append(names, info.Name)
		}
		return names
	}
	for _, name := range []string{"wal/1/a", "wal/2/b/c"} {
		if err := d.Put(ctx, name, strings.NewReader("x")); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"wal/1/a", "wal/1/b/c", "wal/2/a", "wal/2/b/c"}, names()); diff != "" {
		t.Error(diff)
	}
	for _, name := range []string{"wal/2/b/c", "wal/1/a"} {
		if err := d.Delete(ctx, name); err != nil {
			t.Error(err)
		}
		for _, name := range []string{link, filepath.Join(other, "2")} {
			if _, err := os.Lstat(name); err != nil {
				t.Errorf("deleting an object removed a link: %v", err)
			}
		}
	}
	if err := os.Rename(other, other+".away"); err != nil {
		t.Fatal(err)
	}
	checkTrouble(t, d)
}

// A file system that goes away while an object is stored took the object along.
func TestDirUnmountedDuringPut(t *testing.T) {
	root := t.TempDir()
	fault := &faultFS{FS: fsx.OS{}}
	d := openDir(t, archive.DirConfig{Path: root, FS: fault})
	if err := d.Put(t.Context(), "walstream.json", strings.NewReader("{}")); err != nil {
		t.Fatal(err)
	}
	fault.linked = func() {
		if err := os.Remove(filepath.Join(root, "walstream.json")); err != nil {
			t.Error(err)
		}
	}
	if err := d.Put(t.Context(), "wal/1", strings.NewReader("x")); err == nil || errors.Is(err, archive.ErrExists) {
		t.Errorf("Put: %v, want an error", err)
	}
}

func TestDirLeftovers(t *testing.T) {
	root := t.TempDir()
	d := openDir(t, archive.DirConfig{Path: root})
	if err := d.Put(t.Context(), "a/b", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(root, ".tmp", "left")
	for _, name := range []string{left, filepath.Join(root, "lost+found"), filepath.Join(root, "a", ".nfs0001")} {
		if err := os.WriteFile(name, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for info, err := range d.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, info.Name)
	}
	if len(names) != 1 || names[0] != "a/b" {
		t.Errorf("List = %q, want only a/b", names)
	}
	exists := func() bool {
		_, err := os.Stat(left)
		return err == nil
	}
	openDir(t, archive.DirConfig{Path: root})
	if !exists() {
		t.Error("a temporary file that may be in use was removed")
	}
	openDir(t, archive.DirConfig{Path: root, Now: func() time.Time { return time.Now().Add(25 * time.Hour) }})
	if exists() {
		t.Error("an old temporary file was not removed")
	}
}

// faultFS fails one kind of operation.
type faultFS struct {
	fsx.FS
	link, sync, create error
	linked             func() // after a link was made
}

func (f faultFS) Link(o, n string) error {
	if f.link != nil {
		return &os.LinkError{Op: "link", Old: o, New: n, Err: f.link}
	}
	err := f.FS.Link(o, n)
	if f.linked != nil {
		f.linked()
	}
	return err
}

func (f faultFS) SyncDir(name string) error {
	if f.sync != nil && filepath.Base(name) == "a" {
		return f.sync
	}
	return f.FS.SyncDir(name)
}

func (f faultFS) Create(name string, perm fs.FileMode) (fsx.File, error) {
	if f.create != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: f.create}
	}
	return f.FS.Create(name, perm)
}

func TestDirFaults(t *testing.T) {
	tests := []struct {
		name  string
		fault faultFS
		want  error
		hint  string
	}{
		{"no hard links", faultFS{link: unix.EPERM}, unix.EPERM, "hard links"},
		{"full", faultFS{create: unix.ENOSPC}, unix.ENOSPC, "df -h"},
		{"read-only", faultFS{create: unix.EROFS}, unix.EROFS, "read-only"},
		{"forbidden", faultFS{create: unix.EACCES}, unix.EACCES, "chown -R"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.fault.FS = fsx.OS{}
			d := openDir(t, archive.DirConfig{Path: t.TempDir(), FS: test.fault})
			err := d.Put(t.Context(), "a/b", strings.NewReader("x"))
			if !errors.Is(err, test.want) {
				t.Errorf("Put: %v, want %v", err, test.want)
			}
			if hints := hint.Of(err); len(hints) != 1 || !strings.Contains(hints[0], test.hint) {
				t.Errorf("hints %q, want one with %q", hints, test.hint)
			}
		})
	}
}

// A directory that could not be opened was not synced: that is no lost write.
func TestDirRightsComeBack(t *testing.T) {
	fault := &faultFS{FS: fsx.OS{}, sync: &fs.PathError{Op: "open", Path: "a", Err: unix.EACCES}}
	d := openDir(t, archive.DirConfig{Path: t.TempDir(), FS: fault})
	if err := d.Put(t.Context(), "a/b", strings.NewReader("x")); !errors.Is(err, unix.EACCES) {
		t.Fatalf("Put: %v, want EACCES", err)
	}
	fault.sync = nil
	if err := d.Confirm(t.Context(), "a/b"); err != nil && !errors.Is(err, archive.ErrNotExist) {
		t.Errorf("Confirm when the rights are back: %v", err)
	}
	if err := d.Put(t.Context(), "a/c", strings.NewReader("x")); err != nil {
		t.Errorf("Put when the rights are back: %v", err)
	}
}

// The kernel reports a failed fsync once: a second one must not be believed.
func TestDirFailedSyncIsFinal(t *testing.T) {
	fault := &faultFS{FS: fsx.OS{}, sync: unix.EIO}
	d := openDir(t, archive.DirConfig{Path: t.TempDir(), FS: fault})
	if err := d.Put(t.Context(), "a/b", strings.NewReader("x")); !errors.Is(err, unix.EIO) {
		t.Fatalf("Put: %v, want EIO", err)
	}
	fault.sync = nil
	if err := d.Confirm(t.Context(), "a/b"); !errors.Is(err, unix.EIO) {
		t.Errorf("Confirm after a failed fsync: %v, want EIO", err)
	}
	if err := d.Put(t.Context(), "a/c/d", strings.NewReader("x")); !errors.Is(err, unix.EIO) {
		t.Errorf("an object below the directory that failed: %v, want EIO", err)
	}
	if err := d.Put(t.Context(), "b", strings.NewReader("x")); err != nil {
		t.Errorf("an object elsewhere: %v", err)
	}
}

func TestLocate(t *testing.T) {
	dir := t.TempDir()
	for _, location := range []string{dir, "file://" + dir, "file://localhost" + dir} {
		s, err := archive.Locate(t.Context(), location, false, archive.S3Config{})
		if err != nil || s.String() != dir {
			t.Errorf("Locate(%s) = %v, %v", location, s, err)
		}
	}
	fresh := filepath.Join(dir, "new")
	if s, err := archive.Locate(t.Context(), fresh, true, archive.S3Config{}); err != nil || s == nil {
		t.Errorf("Locate(%s, create): %v", fresh, err)
	}
	for _, location := range []string{"s3://", "s3://bucket?x=1", "s3://key:secret@bucket/x", "s3://bucket/a b", "rel/ative", "", "file://host" + dir, "ftp://x/y", "file://%zz", "file://" + dir + "?x=1", dir + "/no"} {
		s, err := archive.Locate(t.Context(), location, false, archive.S3Config{})
		if err == nil || s != nil {
			t.Errorf("Locate(%q) = %v, %v, want a refusal", location, s, err)
		} else if len(hint.Of(err)) == 0 {
			t.Errorf("Locate(%q): no hint: %v", location, err)
		}
	}
}
