package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/walstream/walstream/internal/hint"
)

// fail is an operation's error in the terms of [Store]. An object counts as
// absent only where the root is surely there.
func (d *Dir) fail(op, name string, err error) error {
	switch {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%s %s: %w", op, name, ErrExists)
	case errors.Is(err, fs.ErrNotExist), op != "put" && errors.Is(err, unix.ENOTDIR):
		if err := d.present(); err != nil {
			return fmt.Errorf("%s %s: %w", op, name, err)
		}
		if op == "put" {
			return fmt.Errorf("%s %s: %w", op, name, opaque{cause(err)})
		}
		return fmt.Errorf("%s %s: %w", op, name, ErrNotExist)
	}
	return fmt.Errorf("%s %s: %w", op, name, d.hint(cause(err)))
}

// cause strips what package os says of the operation and path: the caller
// names both.
func cause(err error) error {
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		return path.Err
	case errors.As(err, &link):
		return link.Err
	}
	return err
}

func (d *Dir) hint(err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return hint.With(err, "make room for the archive: df -h %s", hint.Quote(d.root))
	case errors.Is(err, unix.EROFS):
		return hint.With(err, "the file system is mounted read-only: %s", hint.Mount(d.root))
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPERM), errors.Is(err, unix.EMLINK):
		return hint.With(err, "the archive needs a file system with hard links, to never overwrite an object: %s", hint.Mount(d.root))
	case errors.Is(err, fs.ErrPermission):
		return hint.With(err, "%s", hint.Access(d.root))
	case errors.Is(err, unix.ENOTDIR):
		return hint.With(err, "something that is no directory is in the way: ls -lR %s", hint.Quote(d.root))
	case errors.Is(err, unix.EIO):
		return hint.With(err, "the disk fails: dmesg")
	}
	return err
}
