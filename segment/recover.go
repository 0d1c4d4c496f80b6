package segment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/wal"
)

// recoverFiles takes over what an earlier process left in the directory.
//
// Complete segments and remainders were synced before they got their names.
// Of everything else the page cache may show bytes that a failed fsync lost,
// so it is not enough to sync it again: it is written anew, into new files.
func (s *Spool) recoverFiles() error {
	entries, err := s.fsys.ReadDir(s.dir)
	if err != nil {
		return err
	}
	var partials []ID
	for _, e := range entries {
		kind, id, to := parseFile(e.Name(), s.size)
		switch kind {
		case historyFile:
			err = s.recoverHistory(id.Timeline)
		case completeFile, tailFile:
			err = s.recoverSealed(Sealed{ID: id, Path: s.path(e.Name()), To: to, Complete: kind == completeFile})
		case partialFile:
			partials = append(partials, id)
		case tmpFile: // never more than a copy
			err = s.fsys.Remove(s.path(e.Name()))
		}
		if err != nil {
			return err
		}
	}
	for _, id := range partials { // in the order of their names
		if err := s.recoverPartial(id); err != nil {
			return err
		}
	}
	// Names that an earlier process gave without syncing the directory.
	return s.fsys.SyncDir(s.dir)
}

func (s *Spool) recoverHistory(tli wal.Timeline) error {
	path := s.path(HistoryName(tli))
	body, err := fsx.ReadFile(s.fsys, path)
	if err != nil {
		return err
	}
	parsed, err := ParseHistory(tli, body)
	if err != nil {
		return s.aside(s.fsys.Rename, path, err.Error())
	}
	if err := fsx.WriteFile(s.fsys, path, body, filePerm); err != nil {
		return err
	}
	s.saved[tli] = savedHistory{body: body, parsed: parsed}
	return nil
}

func (s *Spool) recoverSealed(sealed Sealed) error {
	f, err := s.fsys.Open(sealed.Path)
	if err != nil {
		return err
	}
	defer f.Close() // only read
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if sealed.Complete && info.Size() != int64(s.size) || info.Size() < sealed.To {
		return s.aside(s.fsys.Rename, sealed.Path, fmt.Sprintf("it has %d bytes", info.Size()))
	}
	s.add(&piece{Sealed: sealed, inside: sealed.Complete && insideRecord(f, s.size)})
	return nil
}

// recoverPartial makes the file of an unfinished segment the open one, whose
// durable part ends with its valid records. If it is not the newest it becomes
// a remainder.
func (s *Spool) recoverPartial(id ID) error {
	path := s.partialPath(id)
	i := slices.IndexFunc(s.pieces, func(p *piece) bool { return p.Complete && p.ID == id })
	if i >= 0 {
		return s.recoverDouble(path, s.pieces[i].Path)
	}
	if open := s.open; open != nil && open.id.Timeline == id.Timeline && id.No <= open.id.No+2 {
		// Prepared, or written to before the one before was sealed, and then
		// not acknowledged.
		if id.No > open.id.No+1 || !s.continues(open.id, id) {
			return s.fsys.Remove(path)
		}
		s.full, s.open, s.appended = open, nil, id.Start(s.size)
		if err := s.seal(); err != nil {
			return err
		}
	}
	if s.open != nil { // an older one, recovered just before
		if err := s.remainder(); err != nil {
			return err
		}
	}
	end, err := s.rewrite(id)
	if err != nil {
		return err
	}
	s.tli, s.durable, s.appended = id.Timeline, end, end
	s.log.Info().Stringer("timeline", id.Timeline).Stringer("lsn", end).Str("segment", id.Name(s.size)).Msg("open segment recovered")
	newest := true
	for _, p := range s.pieces {
		newest = newest && (p.ID.Timeline < id.Timeline || p.ID.Timeline == id.Timeline && p.ID.No <= id.No)
	}
	switch {
	case !newest:
		return s.remainder()
	case end == id.End(s.size):
		s.full, s.open = s.open, nil
		return s.seal()
	}
	return nil
}

// continues says that the records in the unfinished segment first lead into
// the one behind it, so that first is a complete one.
func (s *Spool) continues(first, second ID) bool {
	partial := func(id ID) Sealed { return Sealed{ID: id, Path: s.partialPath(id), fsys: s.fsys} }
	lead := s.lead(first)
	if _, sure, err := chainEnd(s.id, lead, partial(first)); err != nil || !sure {
		return false // a record at its beginning may lack bytes
	}
	end, sure, err := chainEnd(s.id, append(lead, partial(first)), partial(second))
	return err == nil && sure && end > second.Start(s.size)
}

// lead is the complete segments before id with which a reader has to begin;
// nil when they are not all held.
func (s *Spool) lead(id ID) (lead []Sealed) {
	if pieces, whole := s.leadTo(id); whole {
		for _, p := range pieces {
			lead = append(lead, p.Sealed)
		}
	}
	return lead
}

// rewrite copies an unfinished segment into a new file, opens that, and
// returns the end of the valid records in it. All bytes are copied, also those
// behind: the server may be gone, and they may be all that is left.
func (s *Spool) rewrite(id ID) (wal.LSN, error) {
	old := Sealed{ID: id, Path: s.partialPath(id), fsys: s.fsys}
	end, sure, readErr := chainEnd(s.id, s.lead(id), old)
	keep := int64(s.size)
	if readErr != nil {
		keep = int64(end - id.Start(s.size))
		if err := s.aside(s.fsys.Link, old.Path, readErr.Error()); err != nil { // its name is going to be replaced
			return 0, err
		}
	}
	if !sure {
		end = id.Start(s.size)
	}
	src, err := s.fsys.Open(old.Path)
	if err != nil {
		return 0, err
	}
	defer src.Close() // only read
	f, err := s.makePartial(context.Background(), id, io.NewSectionReader(src, 0, keep), true)
	if err != nil {
		return 0, err
	}
	s.open = &openSegment{id: id, f: f, unsure: !sure}
	return end, nil
}

// recoverDouble treats an unfinished segment that is there in complete form
// too: that one counts.
func (s *Spool) recoverDouble(path, complete string) error {
	a, err := fsx.ReadFile(s.fsys, path)
	if err != nil {
		return err
	}
	b, err := fsx.ReadFile(s.fsys, complete)
	if err != nil {
		return err
	}
	if bytes.Equal(a, b) {
		return s.fsys.Remove(path)
	}
	return s.aside(s.fsys.Rename, path, "it differs from the complete segment beside it")
}

// aside gives a file that cannot be used another name, by rename or by link:
// nothing is ever deleted that may hold WAL.
func (s *Spool) aside(name func(oldName, newName string) error, path, reason string) error {
	for n := 1; ; n++ {
		free := fmt.Sprintf("%s%s%d", path, badInfix, n)
		_, err := s.fsys.Stat(free)
		if errors.Is(err, fs.ErrNotExist) {
			s.log.Warn().Str("object", path).Str("kept", free).Str("reason", reason).Msg("spool file cannot be used")
			return name(path, free)
		}
		if err != nil {
			return err
		}
	}
}
