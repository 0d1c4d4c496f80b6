package archive

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/walstream/walstream/internal/crashpoint"
	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/mutant"
)

// Put implements [Store].
func (d *Dir) Put(ctx context.Context, name string, body io.Reader) error {
	if err := begin(ctx, "put", name); err != nil {
		return err
	}
	if err := d.present(); err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	if _, err := d.fs.Stat(d.path(name)); err == nil {
		return fmt.Errorf("put %s: %w", name, ErrExists) // spare the writing; Link decides
	}
	tmp, err := d.writeTemp(ctx, body)
	if err != nil {
		return d.fail("put", name, err)
	}
	crashpoint.Hit(crashpoint.StoreWritten)
	err = d.link(tmp, name)
	// Left behind after an error, it is removed when the store is opened
	// another day.
	d.fs.Remove(tmp)
	if err != nil {
		return d.fail("put", name, err)
	}
	crashpoint.Hit(crashpoint.StoreSynced)
	if name == identityName {
		d.setPinned()
	}
	if err := d.present(); err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	return nil
}

// writeTemp writes body to a new file in tmpDir, durably.
func (d *Dir) writeTemp(ctx context.Context, body io.Reader) (tmp string, err error) {
	dir := filepath.Join(d.root, tmpDir)
	if err := d.fs.Mkdir(dir, dirPerm); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	tmp = filepath.Join(dir, rand.Text())
	return tmp, fsx.WriteNew(d.fs, tmp, ctxReader{ctx, body}, filePerm)
}

// link gives the file tmp its name in the archive, durably.
func (d *Dir) link(tmp, name string) error {
	path := d.path(name)
	for {
		err := d.makeDirs(filepath.Dir(path))
		if err == nil {
			err = d.fs.Link(tmp, path)
		}
		if err == nil {
			crashpoint.Hit(crashpoint.StoreLinked)
			return d.syncName(name)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if _, serr := d.fs.Stat(tmp); serr != nil {
			return err
		}
		// The root is there, so a directory below was emptied and removed
		// by Delete at this moment.
	}
}

func (d *Dir) makeDirs(dir string) error {
	if dir == d.root {
		return nil
	}
	if err := d.makeDirs(filepath.Dir(dir)); err != nil {
		return err
	}
	err := d.fs.Mkdir(dir, dirPerm)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// syncName makes the entry of name durable and those of all directories on
// the way: another process may have made one and died before it synced it.
func (d *Dir) syncName(name string) error {
	for dir := d.path(name); dir != d.root && !mutant.NoDirSync; {
		dir = filepath.Dir(dir)
		if err := d.sync(dir, func() error { return d.fs.SyncDir(dir) }); err != nil {
			return err
		}
	}
	return nil
}

// sync runs the fsync of a path unless one failed before. A failure is final:
// the kernel calls the next fsync successful although what the first should
// have written is lost.
func (d *Dir) sync(path string, fsync func() error) error {
	d.mu.Lock()
	err := d.failed[path]
	d.mu.Unlock()
	if err != nil {
		return err
	}
	if err := fsync(); err != nil {
		var open *fs.PathError
		if errors.As(err, &open) && open.Op == "open" {
			return err // nothing was synced, and so nothing given up: the right to it may come back
		}
		err = hint.With(fmt.Errorf("%s is not durable: %w", path, cause(err)), "see to the disk, then restart walstream: dmesg")
		d.mu.Lock()
		defer d.mu.Unlock()
		d.failed[path] = err
		return err
	}
	return nil
}

// Confirm implements [Store].
func (d *Dir) Confirm(ctx context.Context, name string) error {
	f, _, err := d.open(ctx, "confirm", name)
	if err != nil {
		return err
	}
	err = d.sync(d.path(name), f.Sync)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = d.syncName(name)
	}
	if err != nil {
		return d.fail("confirm", name, err)
	}
	crashpoint.Hit(crashpoint.StoreConfirmed)
	return d.present()
}

// Delete implements [Store]. Directories that it empties are removed too.
func (d *Dir) Delete(ctx context.Context, name string) error {
	if err := begin(ctx, "delete", name); err != nil {
		return err
	}
	dir := d.path(name)
	err := d.fs.Remove(dir)
	for dir = filepath.Dir(dir); err == nil; dir = filepath.Dir(dir) {
		// With the slash, a symbolic link is not removed in the directory's place.
		if dir != d.root && d.fs.Remove(dir+"/") == nil {
			continue
		}
		err = d.fs.SyncDir(dir)
		if !errors.Is(err, fs.ErrNotExist) || dir == d.root {
			break // otherwise another Delete removed the directory
		}
		err = nil
	}
	if err != nil {
		err = d.fail("delete", name, err)
	}
	if errors.Is(err, ErrNotExist) {
		return nil
	}
	return err
}
