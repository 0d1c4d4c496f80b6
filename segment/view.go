package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/wal"
)

// SpoolView is what a spool held at one moment, seen without its lock: for
// recovery from it, and for a look at the one that is being written to. Files
// may be gone or renamed when they are opened (fs.ErrNotExist); a new view
// tells where to.
type SpoolView struct {
	Identity  Identity
	Histories map[wal.Timeline][]byte
	// Sealed is the complete segments and remainders, by timeline and
	// position. Ahead is not set.
	Sealed []Sealed
	// Partials is the unfinished segments, in the same order. Their To is
	// zero: [SpoolView.Valid] finds it. The file of a segment that is made
	// before the one before it is complete is none: nothing in it was
	// acknowledged.
	Partials []Sealed
}

// ReadSpool reads the directory of a spool. It changes nothing and needs no
// lock.
func ReadSpool(fsys fsx.FS, dir string) (*SpoolView, error) {
	id, err := readIdentity(fsys, dir)
	if err != nil {
		return nil, fmt.Errorf("read spool %s: %w", dir, err)
	}
	// A file that is sealed or released between listing and looking is gone
	// from under its name, and the list may have missed the new one.
	for range 10 {
		v := &SpoolView{Identity: id, Histories: map[wal.Timeline][]byte{}}
		if err = v.read(fsys, dir); err == nil {
			return v, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return nil, fmt.Errorf("read spool %s: %w", dir, err)
}

func (v *SpoolView) read(fsys fsx.FS, dir string) error {
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		kind, id, to := parseFile(e.Name(), v.Identity.SegmentSize)
		piece := Sealed{ID: id, Path: path, To: to, Complete: kind == completeFile, fsys: fsys}
		switch kind {
		case historyFile:
			v.Histories[id.Timeline], err = fsx.ReadFile(fsys, path)
		case partialFile:
			_, err = fsys.Stat(path)
			v.Partials = append(v.Partials, piece)
		case completeFile, tailFile:
			err = v.addSealed(fsys, piece)
		}
		if err != nil {
			return err
		}
	}
	slices.SortFunc(v.Sealed, compareSealed)
	slices.SortFunc(v.Partials, compareSealed)
	all := slices.Clone(v.Partials)
	v.Partials = slices.DeleteFunc(v.Partials, func(p Sealed) bool {
		before := ID{p.ID.Timeline, p.ID.No - 1}
		return slices.ContainsFunc(all, func(q Sealed) bool { return q.ID == before })
	})
	return nil
}

// addSealed takes a piece whose file is long enough.
func (v *SpoolView) addSealed(fsys fsx.FS, p Sealed) error {
	info, err := fsys.Stat(p.Path)
	if err == nil && (info.Size() == int64(v.Identity.SegmentSize) || !p.Complete && info.Size() >= p.To) {
		v.Sealed = append(v.Sealed, p)
	}
	return err
}

// Valid returns p, one of the Partials, with To set to the end of the valid
// records in it, by their CRCs and links. Zero means that there are none.
//
// A record that continues from the segment before is checked as a whole if
// that one is held too. If not, it is skipped: recovery that begins within
// this spool does not read it, and recovery from elsewhere checks it itself.
func (v *SpoolView) Valid(p Sealed) (Sealed, error) {
	size := v.Identity.SegmentSize
	lead, whole := v.leadTo(p.ID)
	if !whole {
		lead = nil
	}
	end, _, err := chainEnd(v.Identity, lead, p)
	if err != nil {
		return Sealed{}, fmt.Errorf("%s: %w", p.Path, err)
	}
	p.To = int64(end - p.ID.Start(size))
	return p, nil
}

// ValidIn is the end of the valid records, as an offset, in another file with
// the WAL of segment id: one in a server's pg_wal.
func (v *SpoolView) ValidIn(fsys fsx.FS, path string, id ID) (int64, error) {
	p, err := v.Valid(Sealed{ID: id, Path: path, fsys: fsys})
	return p.To, err
}

// leadTo is the complete segments with which a reader of segment id begins.
func (v *SpoolView) leadTo(id ID) ([]Sealed, bool) {
	history := History{Timeline: id.Timeline}
	if h, err := ParseHistory(id.Timeline, v.Histories[id.Timeline]); err == nil {
		history = h
	}
	size := v.Identity.SegmentSize
	return leadTo(id, func(no uint64) (Sealed, bool, bool) {
		want := history.SegmentAt(ID{id.Timeline, no}.Start(size), size)
		i := slices.IndexFunc(v.Sealed, func(p Sealed) bool { return p.Complete && p.ID == want })
		if i < 0 {
			return Sealed{}, false, false
		}
		f, err := v.Sealed[i].Open()
		if err != nil {
			return Sealed{}, false, false
		}
		defer f.Close() // only read
		return v.Sealed[i], insideRecord(f, size), true
	})
}
