package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// List implements [Store].
func (d *Dir) List(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		l := lister{d: d, ctx: ctx, prefix: prefix, after: after, yield: yield}
		start, _ := path.Split(prefix)
		if start != "" && CheckName(strings.TrimSuffix(start, "/")) != nil {
			return // no object has such a name
		}
		more, err := l.walk(start)
		if err == nil && more {
			err = d.present() // otherwise all that was not seen may be there
		}
		if err != nil {
			yield(Info{}, fmt.Errorf("list %s: %w", prefix, err))
		}
	}
}

type lister struct {
	d             *Dir
	ctx           context.Context
	prefix, after string
	yield         func(Info, error) bool
}

// walk lists what is below dir, which is empty or ends in a slash. more is
// false when the consumer wants no more.
func (l *lister) walk(dir string) (more bool, err error) {
	entries, err := l.d.fs.ReadDir(l.d.path(dir))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return true, nil // present looks at whether that is all there is to it
	}
	if err != nil {
		return false, l.d.hint(err)
	}
	wanted, err := l.sorted(dir, entries)
	if err != nil {
		return false, l.d.hint(err)
	}
	for _, e := range wanted {
		if err := context.Cause(l.ctx); err != nil {
			return false, err
		}
		if e.dir {
			more, err = l.walk(e.name)
		} else {
			more, err = l.object(e)
		}
		if !more || err != nil {
			return more, err
		}
	}
	return true, nil
}

type listed struct {
	name  string // full; of a directory with a slash behind
	dir   bool
	entry fs.DirEntry
}

// sorted is the entries of dir that can lead to wanted objects, ordered so
// that walking through them visits objects in byte order of their names: a
// directory counts with its slash, "a.b" lies before "a/x". A symbolic link
// stands for what it leads to, as it does for Get: a folder of the archive may
// be on another disk.
func (l *lister) sorted(dir string, entries []fs.DirEntry) ([]listed, error) {
	var wanted []listed
	for _, e := range entries {
		if !validElement(e.Name()) {
			continue
		}
		if e.Type()&fs.ModeSymlink != 0 {
			info, err := l.d.fs.Stat(l.d.path(dir + e.Name()))
			if err != nil {
				return nil, opaque{err} // not an absence: it may be on a disk that is not mounted
			}
			e = fs.FileInfoToDirEntry(info)
		}
		x := listed{name: dir + e.Name(), dir: e.IsDir(), entry: e}
		if x.dir {
			x.name += "/"
		}
		switch {
		case !x.dir && (!e.Type().IsRegular() || !strings.HasPrefix(x.name, l.prefix) || x.name <= l.after):
		case x.dir && !strings.HasPrefix(x.name, l.prefix) && !strings.HasPrefix(l.prefix, x.name):
		case x.dir && x.name <= l.after && !strings.HasPrefix(l.after, x.name):
		default:
			wanted = append(wanted, x)
		}
	}
	slices.SortFunc(wanted, func(a, b listed) int { return strings.Compare(a.name, b.name) })
	return wanted, nil
}

func (l *lister) object(e listed) (more bool, err error) {
	info, err := e.entry.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil // deleted a moment ago
	}
	if err != nil {
		return false, l.d.hint(err)
	}
	return l.yield(Info{Name: e.name, Size: info.Size(), Modified: info.ModTime()}, nil), nil
}
