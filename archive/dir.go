package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/hint"
)

const (
	dirPerm  = 0o750
	filePerm = 0o640
	// tmpDir holds objects while they are written. Its name is no element
	// of an object name, so nothing in it is ever seen as an object.
	tmpDir = ".tmp"
	// tmpMaxAge is how old a file in tmpDir is before it is taken for the
	// remains of a crash. No put lasts that long.
	tmpMaxAge = 24 * time.Hour
)

// DirConfig says where a directory store lies.
type DirConfig struct {
	Path string // absolute
	// Create makes the directory if it is missing; otherwise that is an
	// error.
	Create bool
	FS     fsx.FS           // nil: the operating system's
	Now    func() time.Time // nil: time.Now
}

// Dir is a [Store] in a directory: each object is a file, written beside,
// fsynced, and linked to its name, so that names are never overwritten.
//
// A directory on a file system that is not mounted looks empty. So once the
// store has seen walstream.json at its root, it takes nothing for absent and
// nothing for stored unless that file is still there.
type Dir struct {
	root string
	fs   fsx.FS

	swap sync.Mutex // one Swap of this process at a time

	mu     sync.Mutex
	pinned bool             // walstream.json was seen
	failed map[string]error // by path: fsyncs that must not be retried
}

// OpenDir opens the store in a directory and removes what crashes left in it.
func OpenDir(cfg DirConfig) (*Dir, error) {
	if cfg.FS == nil {
		cfg.FS = fsx.OS{}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	d := &Dir{root: filepath.Clean(cfg.Path), fs: cfg.FS, failed: map[string]error{}}
	if !filepath.IsAbs(cfg.Path) {
		return nil, fmt.Errorf("archive directory %q is not an absolute path", cfg.Path)
	}
	if cfg.Create {
		err := fsx.MkdirAll(d.fs, d.root, dirPerm)
		if err == nil {
			err = fsx.SyncParents(d.fs, d.root)
		}
		if err != nil {
			return nil, d.fail("create archive directory", d.root, err)
		}
	}
	info, err := d.fs.Stat(d.root)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, hint.Errorf("is it the right place, and mounted? "+hint.Mount(d.root),
			"open archive directory %s: %w", d.root, ErrNoDirectory)
	case err != nil:
		return nil, d.fail("open archive directory", d.root, err)
	case !info.IsDir():
		return nil, fmt.Errorf("open archive directory %s: it is not a directory", d.root)
	}
	if _, err := d.fs.Stat(d.path(identityName)); err == nil {
		d.setPinned()
	}
	d.sweep(cfg.Now().Add(-tmpMaxAge))
	return d, nil
}

// sweep removes temporary files last changed before a time. Whoever only
// reads the archive may lack the right to do so: that is no error.
func (d *Dir) sweep(before time.Time) {
	tmp := filepath.Join(d.root, tmpDir)
	entries, err := d.fs.ReadDir(tmp)
	if err != nil {
		return
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.ModTime().Before(before) {
			d.fs.Remove(filepath.Join(tmp, e.Name()))
		}
	}
}

// String implements [Store].
func (d *Dir) String() string { return d.root }

func (d *Dir) path(name string) string { return filepath.Join(d.root, filepath.FromSlash(name)) }

// Get implements [Store].
func (d *Dir) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if off < 0 {
		return nil, fmt.Errorf("get %s: negative offset %d", name, off)
	}
	f, info, err := d.open(ctx, "get", name)
	if err != nil {
		return nil, err
	}
	size := max(info.Size()-off, 0)
	if n >= 0 {
		size = min(size, n)
	}
	return struct {
		io.Reader
		io.Closer
	}{ctxReader{ctx, io.NewSectionReader(f, off, size)}, f}, nil
}

// Stat implements [Store].
func (d *Dir) Stat(ctx context.Context, name string) (Info, error) {
	if err := begin(ctx, "stat", name); err != nil {
		return Info{}, err
	}
	info, err := d.fs.Stat(d.path(name))
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return Info{}, d.fail("stat", name, err)
	}
	return Info{Name: name, Size: info.Size(), Modified: info.ModTime()}, nil
}

func (d *Dir) open(ctx context.Context, op, name string) (fsx.File, fs.FileInfo, error) {
	if err := begin(ctx, op, name); err != nil {
		return nil, nil, err
	}
	f, err := d.fs.Open(d.path(name))
	if err != nil {
		return nil, nil, d.fail(op, name, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist // a directory: objects may lie below, but none is it
	}
	if err != nil {
		f.Close()
		return nil, nil, d.fail(op, name, err)
	}
	if name == identityName {
		d.setPinned()
	}
	return f, info, nil
}

// begin checks what is common to all operations on one object.
func begin(ctx context.Context, op, name string) error {
	if err := CheckName(name); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("%s %s: %w", op, name, err)
	}
	return nil
}

func (d *Dir) setPinned() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pinned = true
}

// present fails unless the archive's root is surely there.
func (d *Dir) present() error {
	d.mu.Lock()
	proof := d.root
	if d.pinned {
		proof = d.path(identityName)
	}
	d.mu.Unlock()
	if _, err := d.fs.Stat(proof); err != nil {
		return hint.Errorf("is its file system mounted? "+hint.Mount(d.root),
			"archive directory %s is not there any more: %w", d.root, opaque{cause(err)})
	}
	// A folder that is a symbolic link must not be lost with what it leads to.
	entries, err := d.fs.ReadDir(d.root)
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink != 0 && err == nil {
			_, err = d.fs.Stat(d.path(e.Name()))
		}
	}
	if err != nil {
		return hint.Errorf("is what it leads to mounted? ls -lL "+d.root, "archive directory %s: %w", d.root, opaque{err})
	}
	return nil
}

// opaque keeps an error's text but not its identity: the absence of the whole
// archive must not pass for the absence of an object.
type opaque struct{ err error }

func (o opaque) Error() string { return o.err.Error() }
