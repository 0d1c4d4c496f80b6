//go:build chaos

package chaos

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/testkit/memfs"
)

// reconcile changes, without a sync, what the disk does not know yet.
func (d *Disk) reconcile() error {
	found, err := d.look()
	if err != nil {
		return err
	}
	for path, inode := range found {
		if d.names[path] == inode && inode != 0 {
			continue
		}
		if err := d.adopt(path, inode, found); err != nil {
			return err
		}
	}
	for path := range d.names {
		if _, ok := found[path]; !ok {
			if err := d.remove(path); err != nil {
				return err
			}
		}
	}
	for path, inode := range found {
		if inode != 0 {
			if err := d.refill(path, d.inodes[inode]); err != nil {
				return err
			}
		}
	}
	return d.prune(found)
}

// look lists what is really there: files with their inodes, directories with 0.
func (d *Disk) look() (map[string]uint64, error) {
	found := map[string]uint64{}
	for _, root := range d.roots {
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			if !e.IsDir() && !e.Type().IsRegular() {
				return nil // a socket
			}
			info, err := e.Info()
			if err != nil {
				return err
			}
			found[path] = 0
			if !e.IsDir() {
				found[path] = info.Sys().(*syscall.Stat_t).Ino
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// adopt gives the disk a directory or a file that its journals do not know by
// this name.
func (d *Disk) adopt(path string, inode uint64, found map[string]uint64) error {
	if inode == 0 {
		return fsx.MkdirAll(unsynced{d.mem}, path, 0o750)
	}
	if err := fsx.MkdirAll(unsynced{d.mem}, filepath.Dir(path), 0o750); err != nil {
		return err
	}
	if _, taken := d.names[path]; taken {
		if err := d.remove(path); err != nil {
			return err
		}
	}
	for old, have := range d.names {
		if have != inode {
			continue
		}
		if found[old] == inode {
			return d.link(old, path)
		}
		return d.rename(old, path)
	}
	f, err := d.mem.Create(path, 0o600)
	if err != nil {
		return err
	}
	d.inodes[inode], d.names[path] = f, inode
	return nil
}

// unsynced is a file system that syncs no directory.
type unsynced struct{ *memfs.FS }

func (unsynced) SyncDir(string) error { return nil }

// refill writes what differs from the real file.
func (d *Disk) refill(path string, f fsx.File) error {
	want, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	have, err := fsx.ReadFile(d.mem, path)
	if err != nil || bytes.Equal(have, want) {
		return err
	}
	if err := f.Truncate(int64(len(want))); err != nil {
		return err
	}
	_, err = f.WriteAt(want, 0)
	return err
}

// prune removes directories that are not there.
func (d *Disk) prune(found map[string]uint64) error {
	for _, root := range d.roots {
		if err := d.pruneBelow(root, found); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (d *Disk) pruneBelow(dir string, found map[string]uint64) error {
	entries, err := d.mem.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := d.pruneBelow(filepath.Join(dir, e.Name()), found); err != nil {
				return err
			}
		}
	}
	if _, there := found[dir]; !there {
		return d.mem.Remove(dir)
	}
	return nil
}
