package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/walstream/walstream/internal/controlfile"
)

// autoConf is what pg_basebackup -R adds lines to, behind the manifest's back.
const autoConf = "postgresql.auto.conf"

// maxKept bounds what is kept of a file in memory.
const maxKept = 1 << 20

var errStop = errors.New("found")

// packer turns the files of a backup into the tar streams that PostgreSQL
// would have sent.
type packer struct {
	in   *intake
	size map[string]int64
	// kept is the contents of the small files that say something of the
	// whole.
	kept map[string]*bytes.Buffer
	// control is the header of the control file, which goes last: with
	// pg_basebackup -X fetch more comes behind it.
	control *tar.Header
	links   []Tablespace // of plain files
	moved   func(int64)
}

func newPacker(w *partWriter, cfg ImportConfig, m *Manifest) *packer {
	p := &packer{size: map[string]int64{}, kept: map[string]*bytes.Buffer{}, moved: cfg.Progress}
	for _, name := range []string{controlfile.Path, versionFile, mapFile} {
		p.kept[name] = &bytes.Buffer{}
	}
	algorithms := map[string]string{}
	for _, f := range m.Files {
		p.size[f.Path], algorithms[f.Path] = f.Size, f.Algorithm
	}
	p.in = newIntake(w, cfg.PartSize)
	p.in.algorithm = func(path string) string { return algorithms[path] }
	return p
}

func (p *packer) run(ctx context.Context, src *Source) error {
	if src.tars == nil {
		return p.plain(ctx, src.Dir)
	}
	for _, t := range src.tars {
		p.in.tablespace = t.tablespace
		err := readTar(t.path, func(h *tar.Header, body io.Reader) error {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			return p.add(h, body)
		})
		if err == nil {
			err = p.end()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *packer) end() error {
	if h := p.control; h != nil && p.in.tablespace == 0 {
		if err := p.in.add(h, bytes.NewReader(p.kept[controlfile.Path].Bytes())); err != nil {
			return err
		}
	}
	return p.in.parts.end()
}

// add passes on one entry of the tablespace, unless it is no part of the
// backup: WAL is archived on its own, and what pg_basebackup -R adds is for a
// standby. A backup of a standby lists such a file.
func (p *packer) add(h *tar.Header, body io.Reader) error {
	if !p.wanted(h.Name, h.Typeflag) {
		return nil
	}
	out := &tar.Header{Typeflag: h.Typeflag, Name: h.Name, Mode: h.Mode, Size: h.Size, ModTime: h.ModTime}
	if listed, ok := p.size[h.Name]; ok && h.Name == autoConf && p.in.tablespace == 0 {
		out.Size = min(h.Size, listed) // the rest is of -R; the checksum proves it
	}
	defer p.moved(out.Size)
	kept := p.kept[h.Name]
	if kept == nil || p.in.tablespace != 0 {
		return p.in.add(out, body)
	}
	if out.Size > maxKept {
		return fmt.Errorf("%s has %d bytes", h.Name, out.Size)
	}
	if h.Name == controlfile.Path {
		p.control = out
		_, err := io.CopyN(kept, body, out.Size)
		return err
	}
	return p.in.add(out, io.TeeReader(body, kept))
}

func (p *packer) wanted(name string, kind byte) bool {
	_, listed := p.size[name]
	switch {
	case name == "" || name == ".":
		return false
	case p.in.tablespace != 0:
		return true
	case strings.HasPrefix(name, walDir+"/"):
		return listed || kind == tar.TypeDir // archive_status of pg_basebackup -X fetch
	}
	return listed || !slices.Contains([]string{manifestFile, "standby.signal", "recovery.signal"}, name)
}

// plain passes on a backup of plain files: the tablespaces first, as
// PostgreSQL does.
func (p *packer) plain(ctx context.Context, dir string) error {
	links, err := os.ReadDir(filepath.Join(dir, tablespaceDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, link := range links {
		oid, err := strconv.ParseUint(link.Name(), 10, 32)
		if err != nil || link.Type() != fs.ModeSymlink {
			continue // the walk below meets it
		}
		path := filepath.Join(dir, tablespaceDir, link.Name())
		at, err := os.Readlink(path)
		if err != nil {
			return err
		}
		p.links = append(p.links, Tablespace{OID: uint32(oid), Location: at})
		p.in.tablespace = uint32(oid)
		if err := p.walk(ctx, path+"/."); err != nil {
			return err
		}
		if err := p.end(); err != nil {
			return err
		}
	}
	p.in.tablespace = 0
	if err := p.walk(ctx, dir); err != nil {
		return err
	}
	return p.end()
}

func (p *packer) walk(ctx context.Context, dir string) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || name == "." {
			return err
		}
		switch {
		case p.in.tablespace == 0 && e.Type() == fs.ModeSymlink && filepath.Dir(name) == tablespaceDir:
			return nil
		case p.in.tablespace == 0 && name == walDir && e.Type() == fs.ModeSymlink: // pg_basebackup --waldir
			return p.add(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o700}, nil)
		}
		return p.file(dir, name)
	})
}

// file passes on a file or directory of a plain backup.
func (p *packer) file(dir, name string) error {
	path := filepath.Join(dir, name)
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	h := &tar.Header{Name: filepath.ToSlash(name), Mode: int64(info.Mode().Perm()), ModTime: info.ModTime()}
	switch {
	case info.IsDir():
		h.Typeflag = tar.TypeDir
		return p.add(h, nil)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is neither file nor directory", path)
	}
	h.Typeflag, h.Size = tar.TypeReg, info.Size()
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() // only read
	if err := p.add(h, f); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// tablespaces is where the backup says that its tablespaces were: tar files
// come with a map, plain ones have links.
func (p *packer) tablespaces() ([]Tablespace, error) {
	if len(p.links) > 0 {
		return p.links, nil
	}
	return ParseTablespaceMap(p.kept[mapFile].String())
}

// label reads the backup_label.
func (s *Source) label() (label, error) {
	if s.tars == nil {
		body, err := os.ReadFile(filepath.Join(s.Dir, labelFile))
		if err != nil {
			return label{}, err
		}
		return parseLabel(string(body))
	}
	var found label
	err := readTar(s.tars[len(s.tars)-1].path, func(h *tar.Header, body io.Reader) error {
		if h.Name != labelFile {
			return nil
		}
		text, err := io.ReadAll(io.LimitReader(body, 64<<10))
		if err == nil {
			found, err = parseLabel(string(text))
		}
		if err != nil {
			return err
		}
		return errStop
	})
	switch {
	case errors.Is(err, errStop):
		return found, nil
	case err == nil:
		err = errors.New("the backup has no backup_label")
	}
	return label{}, err
}
