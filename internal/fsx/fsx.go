// Package fsx is the thin file layer under everything that must survive a
// power loss: the spool and the directory store. [OS] is the real one.
//
// The layer adds no cleverness: no caching, no retries. After a failed fsync
// the caller must give the file up, because the kernel may report success the
// next time although the data is gone.
package fsx

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// FS is a file system. Changes to directories (Create, Rename, Link, Remove,
// Mkdir) are durable only after SyncDir on each directory involved; bytes only
// after Sync or Datasync of the file. Errors are those of package os. All
// methods may be called concurrently.
type FS interface {
	// Open opens a file for reading.
	Open(name string) (File, error)
	// OpenRW opens an existing file for reading and writing.
	OpenRW(name string) (File, error)
	// Create makes a new file for reading and writing; it fails with
	// fs.ErrExist when the name is taken.
	Create(name string, perm fs.FileMode) (File, error)
	Mkdir(name string, perm fs.FileMode) error
	// Rename replaces an existing file of the new name.
	Rename(oldName, newName string) error
	// Link gives a file a second name; it fails with fs.ErrExist when the
	// name is taken.
	Link(oldName, newName string) error
	Remove(name string) error
	// ReadDir lists a directory by name, in order.
	ReadDir(name string) ([]fs.DirEntry, error)
	Stat(name string) (fs.FileInfo, error)
	// SyncDir makes the entries of a directory durable.
	SyncDir(name string) error
}

// File is an open file.
type File interface {
	io.Reader
	io.Writer
	io.ReaderAt
	io.WriterAt
	io.Closer
	Name() string
	Stat() (fs.FileInfo, error)
	Truncate(size int64) error
	// Allocate makes a new file size bytes long, zeros, and takes room for
	// them on the disk if its file system can do that.
	Allocate(size int64) error
	// Sync makes contents and metadata durable.
	Sync() error
	// Datasync makes contents durable, and of the metadata what is needed
	// to read them back.
	Datasync() error
}

// disk is the operating system's file system, see [OS].
type disk struct{}

type osFile struct {
	*os.File
	fd int
}

// Allocate implements [File].
func (f osFile) Allocate(size int64) error {
	for {
		err := unix.Fallocate(f.fd, 0, 0, size)
		switch {
		case errors.Is(err, unix.EOPNOTSUPP):
			return f.Truncate(size)
		case !errors.Is(err, unix.EINTR):
			return os.NewSyscallError("fallocate", err)
		}
	}
}

// Datasync must not run beside Close.
func (f osFile) Datasync() error {
	for {
		err := unix.Fdatasync(f.fd)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("fdatasync "+f.Name(), err)
		}
	}
}

func open(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return osFile{f, int(f.Fd())}, nil
}

// Open implements [FS].
func (disk) Open(name string) (File, error) { return open(name, os.O_RDONLY, 0) }

// OpenRW implements [FS].
func (disk) OpenRW(name string) (File, error) { return open(name, os.O_RDWR, 0) }

// Create implements [FS].
func (disk) Create(name string, perm fs.FileMode) (File, error) {
	return open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
}

// Mkdir implements [FS].
func (disk) Mkdir(name string, perm fs.FileMode) error { return os.Mkdir(name, perm) }

// Rename implements [FS].
func (disk) Rename(oldName, newName string) error { return os.Rename(oldName, newName) }

// Link implements [FS].
func (disk) Link(oldName, newName string) error { return os.Link(oldName, newName) }

// Remove implements [FS].
func (disk) Remove(name string) error { return os.Remove(name) }

// ReadDir implements [FS].
func (disk) ReadDir(name string) ([]fs.DirEntry, error) { return os.ReadDir(name) }

// Stat implements [FS].
func (disk) Stat(name string) (fs.FileInfo, error) { return os.Stat(name) }

// SyncDir implements [FS].
func (disk) SyncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	if err := d.Sync(); err != nil {
		d.Close()
		return fmt.Errorf("fsync directory: %w", err)
	}
	return d.Close()
}

// MkdirAll makes dir and whatever is missing above it, each level durable in
// its parent before the next. A directory that exists already is trusted: who
// relies on one that an earlier run may not have synced calls [SyncParents].
func MkdirAll(fsys FS, dir string, perm fs.FileMode) error {
	dir = filepath.Clean(dir)
	parent := filepath.Dir(dir)
	info, err := fsys.Stat(dir)
	switch {
	case err == nil && !info.IsDir():
		return &fs.PathError{Op: "mkdir", Path: dir, Err: unix.ENOTDIR}
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if parent != dir {
		if err := MkdirAll(fsys, parent, perm); err != nil {
			return err
		}
	}
	if err := fsys.Mkdir(dir, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := fsys.SyncDir(parent); err != nil {
		fsys.Remove(dir) // so that nobody trusts it
		return err
	}
	return nil
}

// SyncParents makes the name of dir durable, and those of the directories
// above it: an earlier run may have made them and died before it synced them.
// One that may not be read was made by somebody else and is left out.
func SyncParents(fsys FS, dir string) error {
	for dir = filepath.Clean(dir); filepath.Dir(dir) != dir; dir = filepath.Dir(dir) {
		if err := fsys.SyncDir(filepath.Dir(dir)); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	return nil
}

// ReadFile reads a whole file.
func ReadFile(fsys FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// WriteFile makes the file name hold data, durably and all at once: a
// temporary file beside it is written, fsynced, renamed over name, and the
// directory fsynced. After an error name holds its old contents or the new.
func WriteFile(fsys FS, name string, data []byte, perm fs.FileMode) error {
	tmp := name + ".tmp"
	if err := fsys.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := WriteNew(fsys, tmp, bytes.NewReader(data), perm)
	if err == nil {
		err = fsys.Rename(tmp, name)
	}
	if err != nil {
		fsys.Remove(tmp)
		return err
	}
	return fsys.SyncDir(filepath.Dir(name))
}

// WriteNew makes a file that must not exist yet and writes body to it, durably
// but for its name. After an error it is not there.
func WriteNew(fsys FS, name string, body io.Reader, perm fs.FileMode) error {
	f, err := fsys.Create(name, perm)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, body)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		fsys.Remove(name)
	}
	return err
}
