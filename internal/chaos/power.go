//go:build chaos

package chaos

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"

	"github.com/walstream/walstream/internal/fsx"
)

// PowerLoss replaces what the roots hold by what a power loss leaves: only
// what was durable, and with rnd also a random part of what was not.
func (d *Disk) PowerLoss(rnd *rand.Rand) error {
	after := d.mem.CrashClone()
	if rnd != nil {
		after = d.mem.CrashCloneKeeping(rnd)
	}
	d.use(after)
	for _, root := range d.roots {
		if err := os.RemoveAll(root); err != nil {
			return err
		}
		if err := d.dump(root); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (d *Disk) dump(path string) error {
	info, err := d.mem.Stat(path)
	if err != nil {
		return err
	}
	if info.IsDir() {
		if err := os.Mkdir(path, info.Mode().Perm()); err != nil {
			return err
		}
		entries, err := d.mem.ReadDir(path)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := d.dump(filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
		return nil
	}
	body, err := fsx.ReadFile(d.mem, path)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, body, info.Mode().Perm()); err != nil {
		return err
	}
	found, err := os.Stat(path)
	if err != nil {
		return err
	}
	inode := found.Sys().(*syscall.Stat_t).Ino
	d.names[path] = inode
	d.inodes[inode], err = d.mem.OpenRW(path)
	return err
}
