package fsx

import (
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// OpKind is a kind of operation that changes a [Mem] or makes changes durable.
type OpKind string

// The operations that [Mem.OnOp] is told of, named for the methods.
const (
	OpCreate   OpKind = "create"
	OpMkdir    OpKind = "mkdir"
	OpRename   OpKind = "rename" // Path is the new name
	OpLink     OpKind = "link"   // Path is the new name
	OpRemove   OpKind = "remove"
	OpWrite    OpKind = "write"
	OpTruncate OpKind = "truncate"
	OpSync     OpKind = "sync"
	OpDatasync OpKind = "datasync"
	OpSyncDir  OpKind = "syncdir"
)

// Op is one operation on a [Mem]. Path is absolute; for operations on an open
// file it is the name under which the file was opened.
type Op struct {
	Kind OpKind
	Path string
}

// Mem is a file system in memory for tests of durability. What was written is
// seen at once, as on a real system, but [Mem.CrashClone] keeps only what was
// made durable: bytes by Sync or Datasync of their file, names by SyncDir of
// their directory. Paths are taken from "/", relative ones too. Permissions
// are recorded, not enforced.
type Mem struct {
	// OnOp, when set, is called before each operation that changes or syncs
	// something. An error that it returns is the operation's result: the
	// operation does nothing, except that a write stores its first half and
	// that a failed sync loses what it should have made durable, so that the
	// next sync succeeds without it, as in the Linux kernel. It is called
	// without locks held and must be set before the first use.
	OnOp func(Op) error
	// Now gives modification times; nil means time.Now.
	Now func() time.Time

	mu    sync.Mutex
	root  *inode
	zeros []byte // never written to
}

// NewMem returns an empty file system.
func NewMem() *Mem { return &Mem{root: newDir(0o755, time.Time{})} }

func (m *Mem) hook(kind OpKind, name string) error {
	if m.OnOp == nil {
		return nil
	}
	return m.OnOp(Op{kind, abs(name)})
}

func (m *Mem) now() time.Time {
	if m.Now != nil {
		return m.Now()
	}
	return time.Now()
}

func abs(name string) string { return path.Clean("/" + name) }

// find walks to name. The directory that holds the last element comes back
// even when that element does not exist; for "/" there is none.
func (m *Mem) find(name string) (dir *inode, base string, node *inode, err error) {
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

// existing is [Mem.find] for what has to be there.
func (m *Mem) existing(name string) (*inode, error) {
	_, _, node, err := m.find(name)
	if err == nil && node == nil {
		err = syscall.ENOENT
	}
	return node, err
}

// directory is [Mem.find] for a directory that has to be there.
func (m *Mem) directory(name string) (*inode, error) {
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

func (m *Mem) open(name string, writable bool) (File, error) {
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

// Open implements [FS].
func (m *Mem) Open(name string) (File, error) { return m.open(name, false) }

// OpenRW implements [FS].
func (m *Mem) OpenRW(name string) (File, error) { return m.open(name, true) }

// add gives node a new name in its directory.
func (m *Mem) add(op OpKind, name string, node *inode) error {
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

// Create implements [FS].
func (m *Mem) Create(name string, perm fs.FileMode) (File, error) {
	node := newFile(perm, m.now())
	if err := m.add(OpCreate, name, node); err != nil {
		return nil, pathError("open", name, err)
	}
	return &memFile{m: m, node: node, name: name, writable: true}, nil
}

// Mkdir implements [FS].
func (m *Mem) Mkdir(name string, perm fs.FileMode) error {
	if err := m.add(OpMkdir, name, newDir(perm, m.now())); err != nil {
		return pathError("mkdir", name, err)
	}
	return nil
}

// Link implements [FS].
func (m *Mem) Link(oldName, newName string) error {
	m.mu.Lock()
	node, err := m.existing(oldName)
	m.mu.Unlock()
	switch {
	case err == nil && node.mode.IsDir():
		err = syscall.EPERM
	case err == nil:
		err = m.add(OpLink, newName, node)
	}
	if err != nil {
		return linkError("link", oldName, newName, err)
	}
	return nil
}

// Rename implements [FS].
func (m *Mem) Rename(oldName, newName string) error {
	err := m.hook(OpRename, newName)
	if err == nil {
		err = m.rename(oldName, newName)
	}
	if err != nil {
		return linkError("rename", oldName, newName, err)
	}
	return nil
}

func (m *Mem) rename(oldName, newName string) error {
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

// Remove implements [FS].
func (m *Mem) Remove(name string) error {
	err := m.hook(OpRemove, name)
	if err == nil {
		err = m.remove(name)
	}
	if err != nil {
		return pathError("remove", name, err)
	}
	return nil
}

func (m *Mem) remove(name string) error {
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

// ReadDir implements [FS].
func (m *Mem) ReadDir(name string) ([]fs.DirEntry, error) {
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

// Stat implements [FS].
func (m *Mem) Stat(name string) (fs.FileInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	node, err := m.existing(name)
	if err != nil {
		return nil, pathError("stat", name, err)
	}
	return node.info(path.Base(abs(name))), nil
}

// SyncDir implements [FS].
func (m *Mem) SyncDir(name string) error {
	injected := m.hook(OpSyncDir, name)
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
