package segment

import (
	"bytes"
	"io"
	"maps"
	"slices"

	"github.com/walstream/walstream/internal/crashpoint"
	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/wal"
)

// SaveHistory stores the history file of timeline tli durably. One that says
// the same again is fine, a different one is a [*DivergenceError].
func (s *Spool) SaveHistory(tli wal.Timeline, body []byte) error {
	if err := s.failed(); err != nil {
		return err
	}
	parsed, err := ParseHistory(tli, body)
	if err != nil {
		return err
	}
	path := s.path(HistoryName(tli))
	s.mu.Lock()
	old, known := s.saved[tli]
	s.mu.Unlock()
	switch {
	case known && old.parsed.Equal(parsed):
		return nil
	case known:
		return &DivergenceError{Object: path, Timeline: tli}
	}
	if err := fsx.WriteFile(s.fsys, path, body, filePerm); err != nil {
		return s.fail(err)
	}
	crashpoint.Hit(crashpoint.TimelineHistorySaved)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.saved[tli] = savedHistory{body: bytes.Clone(body), parsed: parsed}
	return nil
}

// Histories are the saved history files.
func (s *Spool) Histories() map[wal.Timeline][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	files := map[wal.Timeline][]byte{}
	for tli, h := range s.saved {
		files[tli] = h.body
	}
	return files
}

// History is what the saved history file of timeline tli says; false when there
// is none.
func (s *Spool) History(tli wal.Timeline) (History, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, ok := s.saved[tli]
	return h.parsed, ok
}

// NewestHistory is the saved one of the newest timeline; without any it is that
// of timeline 1.
func (s *Spool) NewestHistory() History {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.historyOf(slices.Max(append(slices.Collect(maps.Keys(s.saved)), 1)))
}

// EndTimeline says that the server ended timeline tli at end. What the open
// segment holds becomes a remainder, which Next hands out, bytes behind end
// included ([Sealed.Ahead]). It returns the end of what is held of tli.
func (s *Spool) EndTimeline(tli wal.Timeline, end wal.LSN) (held wal.LSN, err error) {
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	s.begun = false
	if err := s.failed(); err != nil {
		return 0, err
	}
	if tli != s.tli {
		return 0, &TimelineError{Have: s.tli, Got: tli, Reason: "it is not being received"}
	}
	s.mu.Lock()
	s.ended[tli] = end
	s.mu.Unlock()
	if err := s.sync(); err != nil {
		return 0, err
	}
	if s.open == nil {
		return s.durableEnd(), s.dropSpare(ID{})
	}
	if err := s.remainder(); err != nil {
		return 0, err
	}
	return s.durableEnd(), nil
}

// remainder makes the durable part of the open segment a piece of its own. It
// needs syncMu.
func (s *Spool) remainder() error {
	s.spareMu.Lock() // so that Prepare goes by the next segment to be opened
	defer s.spareMu.Unlock()
	if err := s.dropSpareLocked(ID{}); err != nil {
		return err
	}
	open := s.open
	end, err := s.heldEnd(open, s.durableEnd())
	if err != nil {
		return s.fail(err)
	}
	s.mu.Lock()
	s.durable, s.appended = end, end
	s.mu.Unlock()
	to := int64(end - open.id.Start(s.size))
	switch to {
	case 0:
		return s.discard()
	case int64(s.size):
		s.mu.Lock()
		s.full, s.open = open, nil
		s.mu.Unlock()
		return s.seal()
	}
	err = s.settle(open, &piece{Sealed: Sealed{ID: open.id, Path: s.tailPath(open.id, to), To: to}})
	if err == nil {
		crashpoint.Hit(crashpoint.TimelineRemainderMade)
		s.setOpen(nil)
	}
	return err
}

// heldEnd is the durable end in the current segment, or that of its valid
// records if the server has not sent again all that recovery was unsure of: all
// of the file was durable then. What came again is sure now, and what lies
// behind it will not come.
func (s *Spool) heldEnd(current *openSegment, durable wal.LSN) (wal.LSN, error) {
	if !current.unsure {
		return durable, nil
	}
	end, _, err := chainEnd(s.id, nil, Sealed{ID: current.id, Path: s.partialPath(current.id), fsys: s.fsys})
	return max(durable, end), err
}

// discard gives up an open segment of which nothing is durable. If there are
// bytes in it nevertheless, the file is kept aside. It needs syncMu.
func (s *Spool) discard() error {
	path := s.partialPath(s.open.id)
	empty, err := allZero(io.NewSectionReader(s.open.f, 0, int64(s.size)))
	if err == nil && empty {
		err = s.fsys.Remove(path)
	} else if err == nil {
		err = s.aside(s.fsys.Rename, path, "nothing in it can be verified")
	}
	if err == nil {
		err = s.open.f.Close()
	}
	if err != nil {
		return s.fail(err)
	}
	s.setOpen(nil)
	return nil
}

func allZero(r io.Reader) (bool, error) {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		if len(bytes.TrimLeft(buf[:n], "\x00")) > 0 {
			return false, nil
		}
		if err == io.EOF {
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// ahead is what [Sealed.Ahead] says of p. It needs mu.
func (s *Spool) ahead(p Sealed) wal.LSN {
	fork, ok := s.ended[p.ID.Timeline]
	for _, tli := range slices.Backward(slices.Sorted(maps.Keys(s.saved))) {
		if !ok {
			fork, ok = s.saved[tli].parsed.EndOf(p.ID.Timeline)
		}
	}
	if ok && p.end(s.size) > fork {
		return fork
	}
	return 0
}

// historyOf is the saved history of tli, or that of a timeline without
// ancestors. It needs mu.
func (s *Spool) historyOf(tli wal.Timeline) History {
	if h, ok := s.saved[tli]; ok {
		return h.parsed
	}
	return History{Timeline: tli}
}
