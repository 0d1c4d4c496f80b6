package recovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/internal/controlfile"
	"github.com/walstream/walstream/internal/hint"
)

// checkUnfinished looks for a restore that was interrupted here. This one goes
// on with it, if it is the same: what that one made it has written down, and
// tablespaces that another would use may be those of a server.
func (r *restore) checkUnfinished() error {
	removal, err := os.ReadFile(filepath.Join(r.side, unfinished))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	old, err := ReadPlan(r.side)
	if errors.Is(err, fs.ErrNotExist) { // killed before it made anything else
		r.begun = true
		return nil
	}
	if err != nil {
		return err
	}
	_, control := os.Lstat(filepath.Join(r.cfg.Dir, controlfile.Path))
	_, label := os.Lstat(filepath.Join(r.cfg.Dir, "backup_label"))
	r.whole = control == nil && label == nil // a server that was started has renamed the label
	here := string(removal) == r.removal()+"\n" && (r.whole || control != nil)
	if here && old.again(r.cfg.Standby) == r.again(r.cfg.Standby) {
		r.begun, r.resuming = true, true
		return nil
	}
	err = fmt.Errorf("an earlier restore, of backup %s to %s, was interrupted there", old.Backup.ID, old.Target)
	err = hint.With(err, "remove what it made: %s", strings.TrimSpace(string(removal)))
	if here {
		err = hint.With(err, "go on with it: %s", old.again(r.cfg.Standby))
	}
	return err
}

// again is the command that makes this plan once more, at any time.
func (p *Plan) again(standby *Standby) string {
	t := p.Target
	words := "walstream restore --backup " + p.Backup.ID
	if standby == nil {
		words += " --target-timeline " + p.Timeline.String()
	}
	switch t.Kind {
	case KindTime:
		words += " --target-time " + t.Time.UTC().Format(time.RFC3339Nano)
	case KindLSN:
		words += " --target-lsn " + t.LSN.String()
	case KindXID:
		words += fmt.Sprintf(" --target-xid %d", t.XID)
	case KindName:
		words += " --target-name " + hint.Quote(t.Name)
	case KindImmediate:
		words += " --target-immediate"
	}
	if t.Exclusive {
		words += " --target-exclusive"
	}
	return words + " DIR"
}

// laidPart is a line of [partsFile]: a part that is laid down and fsynced, but
// for its directories, and its files by their names in the part's place.
type laidPart struct {
	Part  string   `json:"part"`
	Files []string `json:"files"`
}

// partsList is that file. It may be used concurrently.
type partsList struct {
	mu   sync.Mutex
	file *os.File
}

func (r *restore) openParts() (*partsList, error) {
	root, err := os.OpenRoot(r.side)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }() // a directory handle, nothing is pending
	f, err := root.OpenFile(partsFile, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return &partsList{file: f}, r.owner.give(f)
}

// add begins with a line break: the line before may have been cut off.
func (l *partsList) add(p laidPart) error {
	line, err := json.Marshal(p)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err = fmt.Fprintf(l.file, "\n%s\n", line)
	return errors.Join(err, l.file.Sync())
}

// keep finds the parts that an interrupted restore has laid down, file by file
// what backup_manifest says, and takes them off the checklist. All else that it
// made is removed. Where there is anything that no restore makes, nothing is.
func (r *restore) keep(ctx context.Context, m *backup.Manifest, files *checklist) (laid map[string][]string, err error) {
	if !r.resuming {
		return nil, nil
	}
	if laid, err = r.intactParts(ctx, m); err != nil {
		return nil, err
	}
	kept := map[string]bool{}
	for _, part := range r.Backup.Parts {
		for _, name := range laid[part.Name] {
			listed := r.place(part.Tablespace).listed(name)
			kept[listed] = true
			if _, err := files.take(listed); err != nil {
				return nil, err
			}
		}
	}
	if err := r.removeBut(kept, m); err != nil {
		return nil, err
	}
	r.cfg.Log.Info().Int("parts", len(laid)).Int("of", len(r.Backup.Parts)).Msg("an interrupted restore goes on")
	return laid, nil
}

var errNotOurs = errors.New("is not of the restore that was interrupted there")

// removeBut removes all files that an interrupted restore can have made but
// those to keep.
func (r *restore) removeBut(keep map[string]bool, m *backup.Manifest) error {
	made := map[string]bool{
		"recovery.signal": true, "standby.signal": true, "postgresql.auto.conf": true, "backup_manifest": true,
		"postgresql.conf": true, "pg_hba.conf": true, "pg_ident.conf": true,
	}
	for _, f := range m.Files {
		made[f.Path] = true
	}
	for _, pl := range r.places[1:] {
		made[fmt.Sprintf("pg_tblspc/%d", pl.oid)] = true
	}
	var remove []func() error
	for _, pl := range r.places {
		err := fs.WalkDir(pl.root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			listed := pl.listed(name)
			if !made[listed] && !strings.HasPrefix(listed, "pg_wal/") { // see keepForks
				return fmt.Errorf("%s %w", filepath.Join(pl.path, name), errNotOurs)
			}
			if !keep[listed] {
				remove = append(remove, func() error { return pl.root.Remove(name) })
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for _, f := range remove {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// listed is the name of a file in backup_manifest.
func (p *place) listed(name string) string {
	switch {
	case p.oid != 0:
		return fmt.Sprintf("pg_tblspc/%d/%s", p.oid, name)
	case name == heldBack:
		return controlfile.Path
	}
	return name
}

// intactParts reads what the list of parts names, and returns the files of the
// parts of which nothing is amiss.
func (r *restore) intactParts(ctx context.Context, m *backup.Manifest) (map[string][]string, error) {
	body, err := os.ReadFile(filepath.Join(r.side, partsFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	lines := map[string]laidPart{}
	for line := range strings.Lines(string(body)) {
		var p laidPart
		if json.Unmarshal([]byte(line), &p) == nil { // else cut off
			lines[p.Part] = p
		}
	}
	want := map[string]backup.ManifestFile{}
	for _, f := range m.Files {
		want[f.Path] = f
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(r.cfg.Jobs)
	var mu sync.Mutex
	laid := map[string][]string{}
	for _, part := range r.Backup.Parts {
		p, ok := lines[part.Name]
		pl := r.place(part.Tablespace)
		if !ok || pl == nil {
			continue
		}
		group.Go(func() error {
			for _, name := range p.Files {
				if ctx.Err() != nil || pl.intact(name, want[pl.listed(name)]) != nil {
					return context.Cause(ctx)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			laid[part.Name] = p.Files
			return nil
		})
	}
	return laid, group.Wait()
}

// intact compares a file that was laid down with the manifest.
func (p *place) intact(name string, want backup.ManifestFile) error {
	f, err := p.root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close() // only read
	return fillFile(io.Discard, f, want)
}
