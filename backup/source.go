package backup

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/unpack"
)

const (
	manifestFile  = "backup_manifest"
	labelFile     = "backup_label"
	mapFile       = "tablespace_map"
	versionFile   = "PG_VERSION"
	walDir        = "pg_wal"
	tablespaceDir = "pg_tblspc"
)

// Source is a base backup that pg_basebackup left in a directory: as tar
// files, which may be compressed, or as plain files.
type Source struct {
	Dir string
	// Size is about how many bytes there are to read.
	Size int64

	tars []tarFile // the data directory last; nil for plain files
	wal  string    // pg_wal.tar, "" for none
}

type tarFile struct {
	path       string
	tablespace uint32
}

var tarName = regexp.MustCompile(`^(base|pg_wal|[1-9][0-9]*)\.tar$`)

// FindSource looks for a base backup in a directory; without one it returns
// nil. A backup that cannot be verified, because it has no manifest, is an
// error.
func FindSource(dir string) (*Source, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	s := &Source{Dir: dir}
	var base, plain, manifest bool
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch name := unpack.Name(e.Name()); {
		case e.Name() == manifestFile:
			manifest = true
		case e.Name() == versionFile:
			plain = true
		case tarName.MatchString(name) && e.Type().IsRegular():
			if err := s.addTar(path, strings.TrimSuffix(name, ".tar")); err != nil {
				return nil, err
			}
			base = base || name == "base.tar"
		}
	}
	switch {
	case !base && !plain:
		return nil, nil
	case !manifest:
		return nil, hint.Errorf("take a new one: walstream backup",
			"%s: the base backup has no backup_manifest (pg_basebackup --no-manifest, or PostgreSQL 12), so it cannot be checked", dir)
	case !base:
		s.tars = nil
		s.Size, err = plainSize(dir)
	}
	return s, err
}

func (s *Source) addTar(path, name string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	s.Size += info.Size()
	switch name {
	case "pg_wal":
		s.wal = path
	case "base":
		s.tars = append(s.tars, tarFile{path: path})
	default:
		oid, err := strconv.ParseUint(name, 10, 32)
		if err != nil {
			return fmt.Errorf("%s is the tar file of no tablespace", path)
		}
		s.tars = append(s.tars, tarFile{path, uint32(oid)})
	}
	slices.SortFunc(s.tars, func(a, b tarFile) int { return int(int64(b.tablespace) - int64(a.tablespace)) })
	return nil
}

func plainSize(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	return size, err
}

// WAL gives the files that hold the WAL of the backup, if it came with any.
// From tar files they are unpacked into the directory that temp makes.
func (s *Source) WAL(temp func() (string, error)) ([]string, error) {
	if s.tars == nil {
		dir := filepath.Join(s.Dir, walDir)
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		var paths []string
		for _, e := range entries {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
		return paths, err
	}
	from, prefix := s.wal, ""
	if from == "" { // pg_basebackup -X fetch
		from, prefix = s.tars[len(s.tars)-1].path, walDir+"/"
	}
	dir, err := temp()
	if err != nil {
		return nil, err
	}
	var paths []string
	err = readTar(from, func(h *tar.Header, body io.Reader) error {
		name, ok := strings.CutPrefix(h.Name, prefix)
		if !ok || h.Typeflag != tar.TypeReg || strings.Contains(name, "/") || !localPath(name) {
			return nil
		}
		path := filepath.Join(dir, name)
		paths = append(paths, path)
		return writeFile(path, body)
	})
	return paths, err
}

func writeFile(path string, body io.Reader) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, body)
	return errors.Join(err, f.Close())
}

// readTar calls each for every entry of a tar file, which may be compressed.
func readTar(path string, each func(h *tar.Header, body io.Reader) error) error {
	r, err := unpack.Open(path)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := entries(r, each); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
