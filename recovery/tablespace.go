package recovery

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/walstream/walstream/backup"
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
	at := map[uint32]string{}
	for _, pl := range r.places[1:] {
		at[pl.oid] = pl.path
		link := fmt.Sprintf("pg_tblspc/%d", pl.oid)
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
	body, err := rewriteTablespaceMap(string(old), at)
	if err != nil || body == string(old) {
		return err
	}
	return r.replace(tablespaceMap, []byte(body))
}

// rewriteTablespaceMap gives all tablespaces of the backup their paths, by OID.
func rewriteTablespaceMap(old string, at map[uint32]string) (string, error) {
	list, err := backup.ParseTablespaceMap(old)
	if err != nil {
		return "", err
	}
	seen := map[uint32]bool{}
	for i, ts := range list {
		path, known := at[ts.OID]
		if !known || seen[ts.OID] {
			return "", fmt.Errorf("tablespace_map: %d at %s is no tablespace of the backup", ts.OID, ts.Location)
		}
		seen[ts.OID], list[i].Location = true, path
	}
	if len(list) != len(at) {
		return "", fmt.Errorf("tablespace_map names %d tablespaces, the backup has %d", len(list), len(at))
	}
	return backup.FormatTablespaceMap(list), nil
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
			return syncIn(pl.root, name)
		})
		if err != nil {
			return err
		}
	}
	return syncPath(filepath.Dir(r.cfg.Dir))
}
