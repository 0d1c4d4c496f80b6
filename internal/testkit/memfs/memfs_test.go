package memfs_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/testkit/memfs"
)

// script is a list of operations, one a line, whose visible results must be
// the same on every file system. Files stay open under their letter.
const script = `
mkdir d
mkdir d
mkdir none/d
create a d/one
create b d/one
create b none/one
create b d/one/two
write a hello
write a _world
writeat a 20 end
writeat a 0 H
read d/one
readat a 6 5
readat a 22 5
readat a 99 1
truncate a 5
write a !
read d/one
open c d/one
write c x
truncate c 0
next c 3
next c 30
next c 1
openrw e none
openrw e d
open e none
open e d/one/x
rename d/one d/two
readat a 0 5
read d/one
read d/two
rename none d/three
rename none d
rename d/two d
rename d d/two
rename d d/sub
rename d/two none/two
link d/two d/three
link d/two d/three
link none d/four
link d d/five
link d/two none/two
write a ?
read d/three
rename d/two d/three
list d
remove d/two
list d
list none
list d/three
stat d/three
stat d
stat d/two
mkdir e
rename d/three e/three
list d
list e
remove e
create g d/g
rename d/g e/three
read e/three
readat a 0 3
write g new
read e/three
remove e/three
remove e/three
remove e
sync a
datasync a
close a
close a
sync a
read d/g
write a x
truncate a 1
readat a 0 1
syncdir d
syncdir none
rename d f
list f
mkdir f/sub
remove f
remove f/sub
remove f
close c
close g
`

// run executes script below root and returns what each line gave.
func run(fsys fsx.FS, root string) []string {
	files := map[string]fsx.File{}
	var out []string
	for line := range strings.Lines(strings.TrimSpace(script)) {
		f := strings.Fields(line)
		res, err := do(fsys, root, files, f)
		out = append(out, fmt.Sprintf("%s: %s %s", strings.Join(f, " "), res, class(err)))
	}
	return out
}

func class(err error) string {
	if err == nil {
		return "ok"
	}
	for _, known := range []error{fs.ErrNotExist, fs.ErrExist, fs.ErrClosed, io.EOF} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return "error"
}

func do(fsys fsx.FS, root string, files map[string]fsx.File, f []string) (res string, err error) {
	at := func(i int) string { return filepath.Join(root, f[i]) }
	num := func(i int) (n int64) { fmt.Sscan(f[i], &n); return n }
	keep := func(file fsx.File, err error) error {
		if err == nil {
			files[f[1]] = file
		}
		return err
	}
	switch f[0] {
	case "mkdir":
		return "", fsys.Mkdir(at(1), 0o700)
	case "create":
		return "", keep(fsys.Create(at(2), 0o600))
	case "open":
		return "", keep(fsys.Open(at(2)))
	case "openrw":
		return "", keep(fsys.OpenRW(at(2)))
	case "rename":
		return "", fsys.Rename(at(1), at(2))
	case "link":
		return "", fsys.Link(at(1), at(2))
	case "remove":
		return "", fsys.Remove(at(1))
	case "syncdir":
		return "", fsys.SyncDir(at(1))
	case "list":
		list, err := fsys.ReadDir(at(1))
		for _, e := range list {
			res += fmt.Sprint(e.Name(), e.IsDir(), " ")
		}
		return res, err
	case "stat":
		info, err := fsys.Stat(at(1))
		if err == nil && info.IsDir() {
			return "dir " + info.Mode().String(), nil
		}
		if err == nil {
			res = fmt.Sprint(info.Name(), info.Size(), info.Mode())
		}
		return res, err
	case "read":
		b, err := fsx.ReadFile(fsys, at(1))
		return fmt.Sprintf("%q", b), err
	case "write":
		n, err := files[f[1]].Write([]byte(f[2]))
		return fmt.Sprint(n), err
	case "writeat":
		n, err := files[f[1]].WriteAt([]byte(f[3]), num(2))
		return fmt.Sprint(n), err
	case "readat":
		b := make([]byte, num(3))
		n, err := files[f[1]].ReadAt(b, num(2))
		return fmt.Sprintf("%q", b[:n]), err
	case "next":
		b := make([]byte, num(2))
		n, err := files[f[1]].Read(b)
		return fmt.Sprintf("%q", b[:n]), err
	case "truncate":
		return "", files[f[1]].Truncate(num(2))
	case "sync":
		return "", files[f[1]].Sync()
	case "datasync":
		return "", files[f[1]].Datasync()
	case "close":
		return "", files[f[1]].Close()
	}
	panic("unknown operation " + f[0])
}

func TestMemBehavesLikeOS(t *testing.T) {
	mem := memfs.New()
	if err := fsx.MkdirAll(mem, "/some/root", 0o700); err != nil {
		t.Fatal(err)
	}
	want := run(fsx.OS{}, t.TempDir())
	for _, root := range []string{"/some/root", "some/root"} {
		if diff := cmp.Diff(want, run(mem, root)); diff != "" {
			t.Errorf("root %s: the real file system (-) and Mem (+) differ:\n%s", root, diff)
		}
	}
}
