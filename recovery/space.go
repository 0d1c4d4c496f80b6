package recovery

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/walstream/walstream/internal/hint"
)

// FileSystem is the one in which a path is, or will be.
type FileSystem struct {
	Device uint64
	Free   int64 // bytes that an unprivileged user can still write
}

// FileSystemOf finds the file system of a path or of the nearest directory
// above it that exists.
func FileSystemOf(path string) (FileSystem, error) {
	for {
		var st unix.Stat_t
		var fs unix.Statfs_t
		err := errors.Join(unix.Stat(path, &st), unix.Statfs(path, &fs))
		if err == nil {
			return FileSystem{st.Dev, int64(fs.Bavail) * fs.Bsize}, nil
		}
		parent := filepath.Dir(path)
		if parent == path || !errors.Is(err, unix.ENOENT) {
			return FileSystem{}, fmt.Errorf("free space of %s: %w", path, err)
		}
		path = parent
	}
}

// checkSpace refuses a backup that does not fit. WAL comes and goes during
// recovery and is not counted, but for what is copied from a spool.
func (r *restore) checkSpace() error {
	needs := map[string]int64{r.side: int64(len(r.SpoolOnly)) * int64(r.Identity.SegmentSize)}
	for _, part := range r.Backup.Parts {
		if pl := r.place(part.Tablespace); pl != nil {
			needs[pl.path] += part.PlainBytes
		}
	}
	together := map[uint64]int64{} // places on one file system
	systems := map[string]FileSystem{}
	for path, n := range needs {
		fs, err := FileSystemOf(path)
		if err != nil {
			return err
		}
		systems[path] = fs
		together[fs.Device] += n
	}
	for _, path := range slices.Sorted(maps.Keys(systems)) {
		if fs := systems[path]; together[fs.Device] > fs.Free {
			const mib = 1 << 20
			return hint.Errorf("restore into a larger file system, or put tablespaces elsewhere by --tablespace-map",
				"the file system of %s has %d MiB free, and the backup needs %d MiB there", path, fs.Free/mib, together[fs.Device]/mib)
		}
	}
	return nil
}
