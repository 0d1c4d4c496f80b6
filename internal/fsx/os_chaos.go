//go:build chaos

package fsx

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// OS is the operating system's file system as `make chaos` runs it: it keeps a
// journal of what it did ([Record]), from which a power loss can be worked out
// afterwards, and has the faults that it is told to have ([Fault]).
type OS struct {
	disk
	own *journalWriter // nil: the process's
}

// NewJournaled keeps a journal of its own in dir, none if dir is empty.
func NewJournaled(dir string) OS { return OS{own: newJournal(dir)} }

func (o OS) journal() *journalWriter {
	if o.own != nil {
		return o.own
	}
	return processJournal()
}

// Open implements [FS].
func (o OS) Open(name string) (File, error) { return o.wrap(o.disk.Open(name)) }

// OpenRW implements [FS].
func (o OS) OpenRW(name string) (File, error) { return o.wrap(o.disk.OpenRW(name)) }

// Create implements [FS].
func (o OS) Create(name string, perm fs.FileMode) (f File, err error) {
	err = o.journal().change(Record{Kind: OpCreate, Path: name, Mode: perm}, func() (uint64, error) {
		if f, err = o.wrap(o.disk.Create(name, perm)); err != nil {
			return 0, err
		}
		return f.(*chaosFile).inode, nil
	})
	return f, err
}

// Mkdir implements [FS].
func (o OS) Mkdir(name string, perm fs.FileMode) error {
	return o.journal().change(Record{Kind: OpMkdir, Path: name, Mode: perm}, func() (uint64, error) { return 0, o.disk.Mkdir(name, perm) })
}

// Rename implements [FS].
func (o OS) Rename(oldName, newName string) error {
	return o.journal().change(Record{Kind: OpRename, Path: newName, Old: oldName}, func() (uint64, error) { return 0, o.disk.Rename(oldName, newName) })
}

// Link implements [FS].
func (o OS) Link(oldName, newName string) error {
	return o.journal().change(Record{Kind: OpLink, Path: newName, Old: oldName}, func() (uint64, error) { return 0, o.disk.Link(oldName, newName) })
}

// Remove implements [FS].
func (o OS) Remove(name string) error {
	return o.journal().change(Record{Kind: OpRemove, Path: name}, func() (uint64, error) { return 0, o.disk.Remove(name) })
}

// SyncDir implements [FS].
func (o OS) SyncDir(name string) error {
	return o.journal().sync(Record{Kind: OpSyncDir, Path: name}, func() error { return o.disk.SyncDir(name) })
}

func (o OS) wrap(f File, err error) (File, error) {
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &chaosFile{f: f, inode: info.Sys().(*syscall.Stat_t).Ino, journal: o.journal()}, nil
}

// chaosFile spells all methods out: one that is new must not pass by the
// journal.
type chaosFile struct {
	f       File
	inode   uint64
	journal *journalWriter

	mu  sync.Mutex
	pos int64
}

func (f *chaosFile) Name() string                            { return f.f.Name() }
func (f *chaosFile) Close() error                            { return f.f.Close() }
func (f *chaosFile) Stat() (fs.FileInfo, error)              { return f.f.Stat() }
func (f *chaosFile) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }

func (f *chaosFile) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.f.ReadAt(p, f.pos)
	f.pos += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

func (f *chaosFile) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.WriteAt(p, f.pos)
	f.pos += int64(n)
	return n, err
}

func (f *chaosFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.journal.change(Record{Kind: OpWrite, Path: f.Name(), Inode: f.inode, Off: off, Data: p}, func() (uint64, error) {
		n, err = f.f.WriteAt(p, off)
		return f.inode, err
	})
	return n, err
}

func (f *chaosFile) Truncate(size int64) error {
	return f.journal.change(Record{Kind: OpTruncate, Path: f.Name(), Off: size}, func() (uint64, error) { return f.inode, f.f.Truncate(size) })
}

// Allocate implements [File].
func (f *chaosFile) Allocate(size int64) error {
	return f.journal.change(Record{Kind: OpTruncate, Path: f.Name(), Off: size}, func() (uint64, error) { return f.inode, f.f.Allocate(size) })
}

// Sync implements [File].
func (f *chaosFile) Sync() error {
	return f.journal.sync(Record{Kind: OpSync, Path: f.Name(), Inode: f.inode}, f.f.Sync)
}

// Datasync implements [File].
func (f *chaosFile) Datasync() error {
	return f.journal.sync(Record{Kind: OpDatasync, Path: f.Name(), Inode: f.inode}, f.f.Datasync)
}

// processJournal is opened by the first operation.
var processJournal = sync.OnceValue(func() *journalWriter { return newJournal(os.Getenv(ChaosEnv)) })

func absolute(name string) string {
	path, err := filepath.Abs(name)
	if err != nil {
		return name
	}
	return path
}
