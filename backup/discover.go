package backup

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/walstream/walstream/archive"
)

// Found is what other programs left to be imported.
type Found struct {
	WAL     []archive.ImportFile
	Backups []*Source
	// Failed is what looks like WAL or a backup, but cannot be read as such.
	Failed []*archive.FileError
}

// Discover looks through a directory and those below it for WAL, histories and
// base backups.
func (f *Found) Discover(dir string) error {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir():
			return f.directory(path)
		}
		return f.file(path, false)
	})
}

// directory looks for a backup. One of plain files is a world of its own; tar
// files may lie beside WAL.
func (f *Found) directory(path string) error {
	if slices.ContainsFunc(f.Backups, func(s *Source) bool { return s.Dir == path }) {
		return fs.SkipDir
	}
	src, err := FindSource(path)
	if err != nil {
		f.Failed = append(f.Failed, &archive.FileError{Path: path, Err: err})
		return fs.SkipDir
	}
	if src == nil {
		return nil
	}
	f.Backups = append(f.Backups, src)
	if src.tars == nil {
		return fs.SkipDir
	}
	return nil
}

func (f *Found) file(path string, partial bool) error {
	file, ok, err := archive.ParseImportFile(path)
	if err != nil {
		f.Failed = append(f.Failed, &archive.FileError{Path: path, Err: err})
	}
	if !ok {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		f.Failed = append(f.Failed, &archive.FileError{Path: path, Err: err})
		return nil
	}
	if info.Mode().IsRegular() {
		file.Size, file.Partial = info.Size(), file.Partial || partial
		f.WAL = append(f.WAL, file)
	}
	return nil
}

// OpenWAL adds the WAL that came with the backups. What has to be unpacked for
// that is in a temporary directory, which the caller removes.
func (f *Found) OpenWAL() (temp string, err error) {
	temp, err = os.MkdirTemp("", "walstream-import-")
	if err != nil {
		return "", err
	}
	for _, s := range f.Backups {
		paths, err := s.WAL(func() (string, error) { return os.MkdirTemp(temp, "") })
		if err != nil {
			f.Failed = append(f.Failed, &archive.FileError{Path: s.Dir, Err: err})
			continue
		}
		for _, path := range paths {
			// pg_basebackup ends within the segment of the backup's stop.
			if err := f.file(path, true); err != nil {
				return temp, err
			}
		}
	}
	return temp, nil
}
