package receiver

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// brokenDisk is the operating system's file system, of which one kind of
// operation fails from some moment on. What a failed fdatasync should have made
// durable is gone then, as from the page cache of a kernel that has told.
type brokenDisk struct {
	fsx.OS
	errno syscall.Errno
	fails atomic.Pointer[fsx.OpKind]
}

func (d *brokenDisk) hit(op fsx.OpKind, name string) error {
	if fails := d.fails.Load(); fails != nil && *fails == op {
		return &fs.PathError{Op: string(op), Path: name, Err: d.errno}
	}
	return nil
}

func (d *brokenDisk) Create(name string, perm fs.FileMode) (fsx.File, error) {
	if err := d.hit(fsx.OpCreate, name); err != nil {
		return nil, err
	}
	f, err := d.OS.Create(name, perm)
	return &brokenFile{File: f, disk: d}, err
}

func (d *brokenDisk) Rename(from, to string) error {
	return errors.Join(d.hit(fsx.OpRename, from), d.OS.Rename(from, to))
}

func (d *brokenDisk) SyncDir(name string) error {
	return errors.Join(d.hit(fsx.OpSyncDir, name), d.OS.SyncDir(name))
}

type brokenFile struct {
	fsx.File
	disk *brokenDisk

	mu       sync.Mutex
	from, to int64 // written and not synced
}

func (f *brokenFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.disk.hit(fsx.OpWrite, f.Name()); err != nil {
		n, _ := f.File.WriteAt(p[:len(p)/2], off)
		return n, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.from == f.to {
		f.from = off
	}
	f.to = off + int64(len(p))
	return f.File.WriteAt(p, off)
}

func (f *brokenFile) Datasync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	from, to := f.from, f.to
	f.from = f.to
	if err := f.disk.hit(fsx.OpDatasync, f.Name()); err != nil {
		_, werr := f.File.WriteAt(make([]byte, to-from), from)
		return errors.Join(err, werr)
	}
	return f.File.Datasync()
}

// TestDiskErrors: whatever fails on the spool's disk while commits wait, the
// receiver ends and says which file. What it has acknowledged is there, what
// was not is not taken for durable from a file that is still there, and its
// successor gets it from the server: commits go on.
func TestDiskErrors(t *testing.T) {
	t.Parallel()
	c := testkit.Start(t, synchronous)
	dir := spoolDir(t)
	g := newRig(t, dir, rigConfig(c.Conninfo()), nil)
	c.Psql(t, "CREATE TABLE t (i int, filler text)")
	g.stop()
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.EROFS} {
		for _, op := range []fsx.OpKind{fsx.OpWrite, fsx.OpDatasync, fsx.OpCreate, fsx.OpRename, fsx.OpSyncDir} {
			t.Run(string(op)+" "+errno.Error(), func(t *testing.T) {
				disk := &brokenDisk{errno: errno}
				g := newRigOn(t, disk, dir, rigConfig(c.Conninfo()), nil)
				g.waitFlushed(currentLSN(t, c))
				committed(t, c, g, 0)
				disk.fails.Store(&op)
				var waiting sync.WaitGroup
				waiting.Add(1)
				go func() {
					defer waiting.Done()
					for range 4 { // over borders of segments
						if _, err := c.Query("INSERT INTO t SELECT 1, repeat('x', 500) FROM generate_series(1, 1000)"); err != nil {
							t.Error(err)
						}
					}
				}()
				err := g.ended()
				if !errors.Is(err, errno) || !strings.Contains(err.Error(), dir) {
					t.Errorf("Run returned %v", err)
				}
				checkHeld(t, c, dir, g.Status().Flushed)
				trusted := inodes(t, dir)

				g = newRig(t, dir, rigConfig(c.Conninfo()), nil)
				waiting.Wait()
				committed(t, c, g, 1)
				g.waitFlushed(currentLSN(t, c))
				for name, inode := range inodes(t, dir) {
					if trusted[name] == inode {
						t.Errorf("%s is still the file that the failed process wrote", name)
					}
				}
				g.stop()
				checkAgainstServer(t, c, dir)
			})
		}
	}
}

// inodes is the files of unfinished segments.
func inodes(t *testing.T, dir string) map[string]uint64 {
	t.Helper()
	files := map[string]uint64{}
	for _, name := range readDir(t, dir) {
		if strings.HasSuffix(name, ".partial") {
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			files[name] = info.Sys().(*syscall.Stat_t).Ino
		}
	}
	return files
}

// checkHeld compares what the spool holds of the last segment before end with
// the server's own file.
func checkHeld(t *testing.T, c *testkit.Cluster, dir string, end wal.LSN) {
	t.Helper()
	id := segment.At(1, end-1, mib)
	n := int(end - id.Start(mib))
	files, err := filepath.Glob(filepath.Join(dir, id.Name(mib)+"*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("nothing holds %s, in which %s was acknowledged: %v", id.Name(mib), end, err)
	}
	if got := readFile(t, files[0])[:n]; !bytes.Equal(got, readFile(t, filepath.Join(c.DataDir, "pg_wal", id.Name(mib)))[:n]) {
		t.Errorf("%s is not what was acknowledged up to %s", files[0], end)
	}
}
