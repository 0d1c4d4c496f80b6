//go:build chaos

// Package chaos cuts the power of found processes: from the journals that
// [fsx.OS] keeps in a build with the tag chaos it works out what a disk would
// hold.
package chaos

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/testkit/memfs"
)

// Disk is a disk with some directories on it: what processes see there, and
// what of it is durable, as [memfs.FS] has it.
type Disk struct {
	roots  []string
	mem    *memfs.FS
	inodes map[uint64]fsx.File // the newest file that has the number
	names  map[string]uint64   // of files, as processes see them
	fail   bool                // the sync that comes next
}

// NewDisk is a disk that will hold the directories roots, absolute paths,
// which do not exist yet.
func NewDisk(roots ...string) (*Disk, error) {
	d := &Disk{roots: roots}
	d.use(memfs.New())
	for _, root := range roots {
		if err := fsx.MkdirAll(d.mem, filepath.Dir(root), 0o755); err != nil {
			return nil, err
		}
	}
	return d, nil
}

var errSync = errors.New("this sync failed")

func (d *Disk) use(mem *memfs.FS) {
	d.mem, d.inodes, d.names = mem, map[uint64]fsx.File{}, map[string]uint64{}
	mem.OnOp = func(op fsx.Op) error {
		if d.fail {
			return errSync
		}
		return nil
	}
}

func (d *Disk) holds(path string) bool {
	for _, root := range d.roots {
		if path == root || strings.HasPrefix(path, root+"/") {
			return true
		}
	}
	return false
}

// above says whether the name of a root is in the directory path, or of a
// directory on the way to it.
func (d *Disk) above(path string) bool {
	for _, root := range d.roots {
		if path == "/" || strings.HasPrefix(root, path+"/") {
			return true
		}
	}
	return false
}

// Apply does what processes did, and makes the disk look as they left it:
// what a process did just before it was killed may be missing in its journal.
// All of them must have ended.
func (d *Disk) Apply(records []fsx.Record) error {
	for _, r := range records {
		if d.holds(r.Path) || r.Kind == fsx.OpSyncDir && d.above(r.Path) {
			if err := d.apply(r); err != nil {
				return fmt.Errorf("replay of %s %s: %w", r.Kind, r.Path, err)
			}
		}
	}
	return d.reconcile()
}

func (d *Disk) apply(r fsx.Record) error {
	switch r.Kind {
	case fsx.OpCreate:
		f, err := d.mem.Create(r.Path, r.Mode)
		if err != nil {
			return err
		}
		d.inodes[r.Inode], d.names[r.Path] = f, r.Inode
	case fsx.OpMkdir:
		return d.mem.Mkdir(r.Path, r.Mode)
	case fsx.OpRename:
		return d.rename(r.Old, r.Path)
	case fsx.OpLink:
		return d.link(r.Old, r.Path)
	case fsx.OpRemove:
		return d.remove(r.Path)
	case fsx.OpSyncDir:
		return d.sync(r, func() error { return d.mem.SyncDir(r.Path) })
	}
	f := d.inodes[r.Inode]
	if f == nil {
		return nil // made by a process whose journal ended before
	}
	switch r.Kind {
	case fsx.OpWrite:
		_, err := f.WriteAt(r.Data, r.Off)
		return err
	case fsx.OpTruncate:
		return f.Truncate(r.Off)
	case fsx.OpSync, fsx.OpDatasync:
		return d.sync(r, f.Sync)
	}
	return nil
}

// sync applies a sync when it began; one that did not end made nothing sure.
func (d *Disk) sync(r fsx.Record, do func() error) error {
	if !r.Done && !r.Failed {
		return nil
	}
	d.fail = r.Failed
	err := do()
	d.fail = false
	if errors.Is(err, errSync) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (d *Disk) rename(from, to string) error {
	if err := d.mem.Rename(from, to); err != nil || d.names[from] == d.names[to] && d.names[to] != 0 {
		return err // two names of one file: both stay
	}
	d.names[to] = d.names[from]
	delete(d.names, from)
	return nil
}

func (d *Disk) link(from, to string) error {
	if err := d.mem.Link(from, to); err != nil {
		return err
	}
	d.names[to] = d.names[from]
	return nil
}

func (d *Disk) remove(path string) error {
	delete(d.names, path)
	return d.mem.Remove(path)
}
