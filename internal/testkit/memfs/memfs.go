// Package memfs is a file system in memory for tests of durability: it keeps
// what was written apart from what was fsynced, so that a test can cut the
// power at every step.
package memfs

import (
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/walstream/walstream/internal/fsx"
)

// FS is a file system in memory for tests of durability. What was written is
// seen at once, as on a real system, but [FS.CrashClone] keeps only what was
// made durable: bytes by Sync or Datasync of their file, names by SyncDir of
// their directory. Paths are taken from "/", relative ones too. Permissions
// are recorded, not enforced.
type FS struct {
	// OnOp, when set, is called before each operation that changes or syncs
	// something. An error that it returns is the operation's result: the
	// operation does nothing, except that a write stores its first half and
	// that a failed sync loses what it should have made durable, so that the
	// next sync succeeds without it, as in the Linux kernel. It is called
	// without locks held and must be set before the first use.
	OnOp func(fsx.Op) error
	// Now gives modification times; nil means time.Now.
	Now func() time.Time

	mu    sync.Mutex
	root  *inode
	zeros []byte // never written to
}

// New returns an empty file system.
func New() *FS { return &FS{root: newDir(0o755, time.Time{})} }

func (m *FS) hook(kind fsx.OpKind, name string) error {
	if m.OnOp == nil {
		return nil
	}
	return m.OnOp(fsx.Op{Kind: kind, Path: abs(name)})
}

func (m *FS) now() time.Time {
	if m.Now != nil {
		return m.Now()
	}
	return time.Now()
}

func abs(name string) string { return path.Clean("/" + name) }

// find walks to name. The directory that holds the last element comes back
// even when that element does not exist; for "/" there is none.
func (m *FS) find(name string) (dir *inode, base string, node *inode, err error) {
	node = m.root
	for _, elem := range strings.FieldsFunc(abs(name), func(r rune) bool { return r == '/' }) {
		switch {
		case node == nil:
			return nil, "", nil, syscall.ENOENT
		case !node.mode.IsDir():
			return nil, "", nil, syscall.ENOTDIR
		}
		dir, base, node = node, elem, node.names[elem]
	}
	return dir, base, node, nil
}

// existing is [FS.find] for what has to be there.
func (m *FS) existing(name string) (*inode, error) {
	_, _, node, err := m.find(name)
	if err == nil && node == nil {
		err = syscall.ENOENT
	}
	return node, err
}

// directory is [FS.find] for a directory that has to be there.
func (m *FS) directory(name string) (*inode, error) {
	node, err := m.existing(name)
	if err == nil && !node.mode.IsDir() {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return node, nil
}

func pathError(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: name, Err: err}
}

func linkError(op, oldName, newName string, err error) error {
	return &os.LinkError{Op: op, Old: oldName, New: newName, Err: err}
}

func (m *FS) open(name string, writable bool) (fsx.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	node, err := m.existing(name)
	if err == nil && writable && node.mode.IsDir() {
		err = syscall.EISDIR
	}
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return &memFile{m: m, node: node, name: name, writable: writable}, nil
}

// Open implements [fsx.FS].
func (m *FS) Open(name string) (fsx.File, error) { return m.open(name, false) }

// OpenRW implements [fsx.FS].
func (m *FS) OpenRW(name string) (fsx.File, error) { return m.open(name, true) }

// add gives node a new name in its directory.
func (m *FS) add(op fsx.OpKind, name string, node *inode) error {
	if err := m.hook(op, name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, old, err := m.find(name)
	switch {
	case err != nil:
		return err
	case old != nil:
		return syscall.EEXIST
	}
	dir.change(m.now(), entry{base, node})
	return nil
}

// Create implements [fsx.FS].
func (m *FS) Create(name string, perm fs.FileMode) (fsx.File, error) {
	node := newFile(perm, m.now())
	if err := m.add(fsx.OpCreate, name, node); err != nil {
		return nil, pathError("open", name, err)
	}
	return &memFile{m: m, node: node, name: name, writable: true}, nil
}

// Mkdir implements [fsx.FS].
func (m *FS) Mkdir(name string, perm fs.FileMode) error {
	if err := m.add(fsx.OpMkdir, name, newDir(perm, m.now())); err != nil {
		return pathError("mkdir", name, err)
	}
	return nil
}

// Link implements [fsx.FS].
func (m *FS) Link(oldName, newName string) error {
	m.mu.Lock()
	node, err := m.existing(oldName)
	m.mu.Unlock()
	switch {
	case err == nil && node.mode.IsDir():
		err = syscall.EPERM
	case err == nil:
		err = m.add(fsx.OpLink, newName, node)
	}
	if err != nil {
		return linkError("link", oldName, newName, err)
	}
	return nil
}

// Rename implements [fsx.FS].
func (m *FS) Rename(oldName, newName string) error {
	err := m.hook(fsx.OpRename, newName)
	if err == nil {
		err = m.rename(oldName, newName)
	}
	if err != nil {
		return linkError("rename", oldName, newName, err)
	}
	return nil
}

func (m *FS) rename(oldName, newName string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	from, oldBase, node, err := m.find(oldName)
	if err != nil {
		return err
	}
	to, newBase, target, err := m.find(newName)
	switch {
	case err != nil:
		return err
	case node == nil:
		return syscall.ENOENT
	case target != nil && target.mode.IsDir():
		return syscall.EEXIST
	case target != nil && node.mode.IsDir():
		return syscall.ENOTDIR
	case strings.HasPrefix(abs(newName), abs(oldName)+"/"):
		return syscall.EINVAL
	case node == target:
		return nil // two names of one file: POSIX leaves both
	}
	if from == to {
		from.change(m.now(), entry{oldBase, nil}, entry{newBase, node})
		return nil
	}
	from.change(m.now(), entry{oldBase, nil})
	to.change(m.now(), entry{newBase, node})
	return nil
}

// Remove implements [fsx.FS].
func (m *FS) Remove(name string) error {
	err := m.hook(fsx.OpRemove, name)
	if err == nil {
		err = m.remove(name)
	}
	if err != nil {
		return pathError("remove", name, err)
	}
	return nil
}

func (m *FS) remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, node, err := m.find(name)
	switch {
	case err != nil:
		return err
	case node == nil:
		return syscall.ENOENT
	case dir == nil:
		return syscall.EBUSY
	case len(node.names) > 0:
		return syscall.ENOTEMPTY
	}
	dir.change(m.now(), entry{base, nil})
	return nil
}

// ReadDir implements [fsx.FS].
func (m *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	node, err := m.directory(name)
	if err != nil {
		return nil, err
	}
	var list []fs.DirEntry
	for base, child := range node.names {
		list = append(list, fs.FileInfoToDirEntry(child.info(base)))
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, nil
}

// Stat implements [fsx.FS].
func (m *FS) Stat(name string) (fs.FileInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	node, err := m.existing(name)
	if err != nil {
		return nil, pathError("stat", name, err)
	}
	return node.info(path.Base(abs(name))), nil
}

// SyncDir implements [fsx.FS].
func (m *FS) SyncDir(name string) error {
	injected := m.hook(fsx.OpSyncDir, name)
	m.mu.Lock()
	defer m.mu.Unlock()
	node, err := m.directory(name)
	if err != nil {
		return err
	}
	if injected != nil {
		node.pendingNames = nil
		return pathError("fsync directory", name, injected)
	}
	node.syncNames()
	return nil
}
