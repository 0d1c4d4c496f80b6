package archive

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/unpack"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// ImportFile is a file that PostgreSQL, pg_receivewal or an archive_command
// left, compressed or not.
type ImportFile struct {
	Path string
	// Name is as PostgreSQL knows it: a segment's or a history file's.
	Name string
	// Partial says that the segment need not be filled: a file that ends in
	// .partial, or one of a base backup, whose last segment is cut off.
	Partial bool
	Size    int64 // of the file, in bytes
}

const partialSuffix = ".partial"

var (
	walName = regexp.MustCompile(`^[0-9A-F]{24}$`)
	// What PostgreSQL leaves beside WAL and nobody needs to read it: backup
	// history files say of old backups what their labels do.
	besideName = regexp.MustCompile(`^[0-9A-F]{24}\.[0-9A-F]{8}\.backup$`)
)

// ParseImportFile recognises a file of an archive by its name; ok is false for
// one that holds no WAL and no history. One that seems to, but is packed in a
// way that is not understood, is an error.
func ParseImportFile(path string) (f ImportFile, ok bool, err error) {
	base := filepath.Base(path)
	name := unpack.Name(base)
	name, partial := strings.CutSuffix(name, partialSuffix)
	f = ImportFile{Path: path, Name: unpack.Name(name), Partial: partial}
	_, herr := segment.ParseHistoryName(f.Name)
	switch {
	case walName.MatchString(f.Name), herr == nil && !partial:
		return f, true, nil
	case len(base) > 24 && walName.MatchString(base[:24]) && !besideName.MatchString(f.Name):
		return f, false, hint.Errorf("unpack it into the directory first", "%s: gzip, lz4 and zstd are understood, %q is not", path, base[24:])
	}
	return f, false, nil
}

func (f ImportFile) isHistory() bool { return !walName.MatchString(f.Name) }

// FileError says that a file could not be imported, and why. Others are not
// affected.
type FileError struct {
	Path string
	Err  error
}

func (e *FileError) Error() string { return e.Path + ": " + reason(e.Err) }

func (e *FileError) Unwrap() error { return e.Err }

// reason leaves out what the file's name says already.
func reason(err error) string {
	var broken *BrokenError
	if errors.As(err, &broken) {
		var end *wal.EndError
		if errors.As(broken.Err, &end) {
			return fmt.Sprintf("no valid WAL at %s: %s", end.LSN, end.Reason)
		}
	}
	return err.Error()
}

// ImportedCluster says of which cluster most of the segments are, by the
// headers they begin with.
func ImportedCluster(files []ImportFile) (segment.Identity, error) {
	count := map[segment.Identity]int{}
	var best segment.Identity
	err := errors.New("there is no WAL segment")
	for _, f := range files {
		if f.isHistory() {
			continue
		}
		id, ferr := f.cluster()
		if ferr != nil {
			err = &FileError{f.Path, ferr}
			continue
		}
		count[id]++
		if count[id] > count[best] {
			best = id
		}
	}
	if count[best] == 0 {
		return best, err
	}
	return best, nil
}

func (f ImportFile) cluster() (segment.Identity, error) {
	r, err := unpack.Open(f.Path)
	if err != nil {
		return segment.Identity{}, err
	}
	defer r.Close()
	head := make([]byte, wal.OriginSize)
	n, err := io.ReadFull(r, head)
	if err != nil && n == 0 && !errors.Is(err, io.EOF) {
		return segment.Identity{}, err
	}
	o, err := wal.ReadOrigin(head[:n])
	if err != nil {
		return segment.Identity{}, err
	}
	id := segment.Identity{SystemIdentifier: o.SystemIdentifier, MajorVersion: o.Major, SegmentSize: segment.Size(o.SegmentSize)}
	if !id.SegmentSize.Valid() {
		return segment.Identity{}, fmt.Errorf("%d is no wal_segment_size", o.SegmentSize)
	}
	if name := segment.At(o.Timeline, o.Start, id.SegmentSize).Name(id.SegmentSize); name[8:] != f.Name[8:] {
		return segment.Identity{}, fmt.Errorf("its contents are those of %s", name)
	}
	return id, nil
}

// open gives the plain bytes of the file, at most limit and one more, and their
// number. An error that comes with bytes says that there should be more.
func (f ImportFile) open(limit int64) (data *os.File, n int64, err error) {
	r, err := unpack.Open(f.Path)
	if err != nil {
		return nil, 0, err
	}
	defer r.Close()
	if !r.Compressed {
		if data, err = os.Open(f.Path); err == nil {
			n, err = data.Seek(0, io.SeekEnd)
		}
		return data, n, err
	}
	if data, err = os.CreateTemp("", "walstream-import-*"); err == nil {
		err = os.Remove(data.Name()) // it goes with the last who has it open
	}
	if err != nil {
		return nil, 0, fmt.Errorf("unpack into a temporary file: %w", err)
	}
	n, err = io.Copy(data, io.LimitReader(r, limit+1))
	return data, n, err
}
