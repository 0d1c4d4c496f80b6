package recovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/walstream/walstream/internal/crashpoint"
	"github.com/walstream/walstream/internal/hint"
)

const tablespaceMap = "tablespace_map"

// locate decides where the data directory and each tablespace go.
func (p *Plan) locate(cfg RestoreConfig) ([]place, error) {
	places := []place{{path: cfg.Dir}}
	taken := map[string]bool{cfg.Dir: true, SideDir(cfg.Dir): true}
	unused := map[string]bool{}
	for from, to := range cfg.TablespaceMap {
		if !filepath.IsAbs(to) || strings.ContainsAny(to, "\n\r") {
			return nil, fmt.Errorf("tablespace %s: %q is not an absolute path", from, to)
		}
		unused[from] = true
	}
	for _, ts := range p.Backup.Tablespaces {
		path := ts.Location
		if to, ok := cfg.TablespaceMap[ts.Location]; ok {
			path = to
			delete(unused, ts.Location)
		}
		if !filepath.IsAbs(path) {
			return nil, hint.Errorf(fmt.Sprintf("--tablespace-map %s=/absolute/path", ts.Location),
				"tablespace %d lies inside the data directory (%s), which is not supported", ts.OID, path)
		}
		path = filepath.Clean(path)
		if taken[path] || strings.HasPrefix(path, cfg.Dir+"/") {
			return nil, hint.Errorf(fmt.Sprintf("--tablespace-map %s=/another/path", ts.Location), "tablespace %d: %s is taken", ts.OID, path)
		}
		taken[path] = true
		places = append(places, place{oid: ts.OID, path: path})
	}
	for from := range unused {
		return nil, fmt.Errorf("tablespace map: the backup has no tablespace at %s", from)
	}
	return places, nil
}

// linkTablespaces makes the links in pg_tblspc and the file from which
// PostgreSQL makes them again at its first start.
func (r *restore) linkTablespaces(context.Context) error {
	if len(r.places) == 1 {
		return nil
	}
	at := map[string]string{}
	for _, pl := range r.places[1:] {
		oid := fmt.Sprint(pl.oid)
		at[oid] = pl.path
		link := "pg_tblspc/" + oid
		if err := r.data().Symlink(pl.path, link); err != nil {
			return err
		}
		if r.owner != nil {
			if err := r.data().Lchown(link, r.owner.UID, r.owner.GID); err != nil {
				return err
			}
		}
	}
	old, err := r.data().ReadFile(tablespaceMap)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a backup of plain files: PostgreSQL goes by the links
	}
	if err != nil {
		return err
	}
	body, err := rewriteTablespaceMap(old, at)
	if err != nil || bytes.Equal(body, old) {
		return err
	}
	return r.replace(tablespaceMap, body)
}

// rewriteTablespaceMap gives tablespaces other paths, by OID. The format is
// that of PostgreSQL's read_tablespace_map: "oid path", a backslash before
// each line break and backslash in the path.
func rewriteTablespaceMap(old []byte, at map[string]string) ([]byte, error) {
	escape := strings.NewReplacer("\\", "\\\\", "\n", "\\\n", "\r", "\\\r")
	var b strings.Builder
	seen := map[string]bool{}
	for rest := old; len(rest) > 0; {
		end := 0
		for end < len(rest) && rest[end] != '\n' {
			if rest[end] == '\\' {
				end++
			}
			end++
		}
		if end >= len(rest) {
			return nil, errors.New("tablespace_map ends within a line")
		}
		oid, _, ok := strings.Cut(string(rest[:end]), " ")
		path, known := at[oid]
		if !ok || !known || seen[oid] {
			return nil, fmt.Errorf("tablespace_map: line %q is of no tablespace of the backup", rest[:end])
		}
		seen[oid] = true
		b.WriteString(oid + " " + escape.Replace(path) + "\n")
		rest = rest[end+1:]
	}
	if len(seen) != len(at) {
		return nil, fmt.Errorf("tablespace_map names %d tablespaces, the backup has %d", len(seen), len(at))
	}
	return []byte(b.String()), nil
}

// replace writes a file of the data directory anew.
func (r *restore) replace(name string, body []byte) error {
	if err := r.data().Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return writeNew(r.data(), name, body, r.owner)
}

// syncDirs makes every directory entry durable. The files are already.
func (r *restore) syncDirs(context.Context) error {
	crashpoint.Hit(crashpoint.RestoreSignalled)
	for _, pl := range r.places {
		err := fs.WalkDir(pl.root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
			if err != nil || !e.IsDir() {
				return err
			}
			return syncDir(pl.root, name)
		})
		if err != nil {
			return err
		}
	}
	return syncPath(filepath.Dir(r.cfg.Dir))
}
