package recovery

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/walstream/walstream/internal/hint"
)

// Owner is a user and a group.
type Owner struct{ UID, GID int }

// Read is a file that an owner must be able to read, and what to do if not.
type Read struct {
	File   string
	Remedy func(*Owner) string
}

// LookupOwner finds a user by name and takes its group along.
func LookupOwner(name string) (*Owner, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, hint.With(err, "--owner postgres")
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("user %s: %w", name, err)
	}
	return &Owner{uid, gid}, nil
}

// ownerFor decides who the restored files belong to; nil is whoever restores.
// Files of root are refused, unless they are asked for: nobody could start
// PostgreSQL on them.
func ownerFor(cfg RestoreConfig) (*Owner, error) {
	if cfg.Owner != nil || os.Geteuid() != 0 {
		return cfg.Owner, nil
	}
	for _, path := range []string{cfg.Dir, filepath.Dir(cfg.Dir)} {
		info, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 {
			return &Owner{int(st.Uid), int(st.Gid)}, nil
		}
	}
	return nil, hint.Errorf("say who shall own the files: --owner postgres",
		"PostgreSQL refuses to run as root, to whom %s belongs", filepath.Dir(cfg.Dir))
}

// mayRead fails if the owner of the files, who will run PostgreSQL and with it
// the restore_command, may not read a file that this names. Root tries it in
// their name: the rights of one thread on files can be those of another user.
func (o *Owner) mayRead(file string) error {
	if o == nil || os.Geteuid() != 0 {
		return nil
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := errors.Join(unix.Setfsgid(o.GID), unix.Setfsuid(o.UID))
	if err == nil {
		var f *os.File
		if f, err = os.Open(file); err == nil {
			err = f.Close()
		}
	}
	err = errors.Join(err, unix.Setfsuid(0), unix.Setfsgid(os.Getegid()))
	if err != nil {
		err = fmt.Errorf("as the user %d, who will run PostgreSQL: %w", o.UID, err)
	}
	return err
}

func (o *Owner) give(f interface{ Chown(uid, gid int) error }) error {
	if o == nil {
		return nil
	}
	return f.Chown(o.UID, o.GID)
}

// makeDir makes a directory, if it is missing, with the mode that PostgreSQL
// demands, durably.
func makeDir(path string, owner *Owner) error {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close() // read only
	if err := errors.Join(owner.give(d), d.Chmod(0o700), d.Sync()); err != nil {
		return err
	}
	return syncPath(filepath.Dir(path))
}

// writeNew writes a file that must not exist, durably but for its directory.
func writeNew(root *os.Root, name string, body []byte, owner *Owner) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(body)
	return errors.Join(err, owner.give(f), f.Sync(), f.Close())
}

// syncIn makes a file durable, or the names in a directory.
func syncIn(root *os.Root, name string) error {
	d, err := root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func syncPath(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
