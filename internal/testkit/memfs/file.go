package memfs

import (
	"io"
	"io/fs"
	"path"
	"syscall"
	"time"

	"github.com/walstream/walstream/internal/fsx"
)

// memFile is an open file of an [FS].
type memFile struct {
	m        *FS
	node     *inode
	name     string
	writable bool

	// Guarded by m.mu.
	pos    int64
	closed bool
}

type memInfo struct {
	name    string
	size    int64
	mode    fs.FileMode
	modTime time.Time
}

func (i memInfo) Name() string       { return i.name }
func (i memInfo) Size() int64        { return i.size }
func (i memInfo) Mode() fs.FileMode  { return i.mode }
func (i memInfo) ModTime() time.Time { return i.modTime }
func (i memInfo) IsDir() bool        { return i.mode.IsDir() }
func (i memInfo) Sys() any           { return nil }

func (n *inode) info(base string) fs.FileInfo {
	return memInfo{name: base, size: n.data.size, mode: n.mode, modTime: n.modTime}
}

// check locks the file system if the file can be used this way; the caller
// unlocks it.
func (f *memFile) check(op string, change bool) error {
	f.m.mu.Lock()
	err := error(nil)
	switch {
	case f.closed:
		err = fs.ErrClosed
	case change && !f.writable:
		err = syscall.EBADF
	case f.node.mode.IsDir() && op == "read":
		err = syscall.EISDIR
	}
	if err != nil {
		f.m.mu.Unlock()
		return pathError(op, f.name, err)
	}
	return nil
}

func (f *memFile) Name() string { return f.name }

func (f *memFile) Close() error {
	if err := f.check("close", false); err != nil {
		return err
	}
	defer f.m.mu.Unlock()
	f.closed = true
	return nil
}

func (f *memFile) Stat() (fs.FileInfo, error) {
	if err := f.check("stat", false); err != nil {
		return nil, err
	}
	defer f.m.mu.Unlock()
	return f.node.info(path.Base(abs(f.name))), nil
}

func (f *memFile) Read(p []byte) (int, error) {
	if err := f.check("read", false); err != nil {
		return 0, err
	}
	defer f.m.mu.Unlock()
	n := f.node.data.read(p, f.pos)
	f.pos += int64(n)
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.check("read", false); err != nil {
		return 0, err
	}
	defer f.m.mu.Unlock()
	if off < 0 {
		return 0, pathError("readat", f.name, syscall.EINVAL)
	}
	n := f.node.data.read(p, off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) Write(p []byte) (int, error) {
	f.m.mu.Lock()
	off := f.pos
	f.m.mu.Unlock()
	n, err := f.WriteAt(p, off)
	f.m.mu.Lock()
	f.pos = off + int64(n)
	f.m.mu.Unlock()
	return n, err
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	injected := f.m.hook(fsx.OpWrite, f.name)
	if err := f.check("write", true); err != nil {
		return 0, err
	}
	defer f.m.mu.Unlock()
	if off < 0 {
		return 0, pathError("writeat", f.name, syscall.EINVAL)
	}
	n := len(p)
	if injected != nil {
		n /= 2
		injected = pathError("write", f.name, injected)
	}
	if n > 0 {
		f.node.write(f.m.now(), write{off, f.m.keep(p[:n])})
	}
	return n, injected
}

func (f *memFile) Truncate(size int64) error {
	injected := f.m.hook(fsx.OpTruncate, f.name)
	if err := f.check("truncate", true); err != nil {
		return err
	}
	defer f.m.mu.Unlock()
	if size < 0 {
		injected = syscall.EINVAL
	}
	if injected != nil {
		return pathError("truncate", f.name, injected)
	}
	f.node.write(f.m.now(), write{off: size})
	return nil
}

// Allocate implements [fsx.File].
func (f *memFile) Allocate(size int64) error { return f.Truncate(size) }

func (f *memFile) sync(kind fsx.OpKind) error {
	injected := f.m.hook(kind, f.name)
	if err := f.check("sync", false); err != nil {
		return err
	}
	defer f.m.mu.Unlock()
	if injected != nil {
		f.node.pendingBytes = nil
		return pathError("sync", f.name, injected)
	}
	f.node.syncBytes()
	return nil
}

// Sync implements [fsx.File].
func (f *memFile) Sync() error { return f.sync(fsx.OpSync) }

// Datasync implements [fsx.File].
func (f *memFile) Datasync() error { return f.sync(fsx.OpDatasync) }
