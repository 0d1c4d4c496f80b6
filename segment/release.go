package segment

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/walstream/walstream/internal/crashpoint"
	"github.com/walstream/walstream/internal/fsx"
)

// piece is a sealed file of the spool.
type piece struct {
	Sealed
	handed   bool // by Next
	released bool
	// inside says that a complete segment lies wholly within one record, so
	// that a reader cannot begin with it.
	inside bool
}

// add makes p known and wakes Next.
func (s *Spool) add(p *piece) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.fsys = s.fsys
	i, found := slices.BinarySearchFunc(s.pieces, p, func(a, b *piece) int { return compareSealed(a.Sealed, b.Sealed) })
	if found {
		return // a remainder that was extended by nothing
	}
	s.pieces = slices.Insert(s.pieces, i, p)
	s.wake()
}

// wake lets Next and Room look again. It needs mu.
func (s *Spool) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Next waits for the next sealed segment or remainder and returns each once in
// the life of the process: the oldest timeline first, within it in LSN order.
// What is not released is handed out again by the next process.
func (s *Spool) Next(ctx context.Context) (Sealed, error) {
	for {
		s.mu.Lock()
		changed := s.changed
		for _, p := range s.pieces {
			if !p.handed && !p.released {
				p.handed = true
				sealed := p.Sealed
				sealed.Ahead = s.ahead(sealed)
				s.mu.Unlock()
				return sealed, nil
			}
		}
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return Sealed{}, context.Cause(ctx)
		}
	}
}

// Release says that the archive has confirmed p. Its file is removed as soon
// as recovery of the open segment does not need it any more. Releasing a piece
// twice is no error.
func (s *Spool) Release(p Sealed) error {
	s.mu.Lock()
	for _, have := range s.pieces {
		if have.Path == p.Path {
			have.released = true
		}
	}
	s.mu.Unlock()
	return s.sweep()
}

// sweep removes what is released and not needed. The segments with which a
// reader of the open one begins are kept: a record may continue from there,
// and without its beginning its CRC cannot be checked. Nobody but another sweep
// waits for a removal that hangs.
func (s *Spool) sweep() error {
	s.sweepMu.Lock()
	defer s.sweepMu.Unlock()
	s.mu.Lock()
	needed, _ := s.leadTo(At(s.tli, s.durable, s.size))
	var done []*piece
	for _, p := range s.pieces {
		if p.released && !slices.Contains(needed, p) {
			done = append(done, p)
		}
	}
	s.mu.Unlock()
	var all error
	done = slices.DeleteFunc(done, func(p *piece) bool {
		err := s.fsys.Remove(p.Path)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			crashpoint.Hit(crashpoint.UploadRemoved)
			return false
		}
		all = errors.Join(all, fmt.Errorf("spool %s: %w", s.dir, err))
		return true
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pieces = slices.DeleteFunc(s.pieces, func(p *piece) bool { return slices.Contains(done, p) })
	s.wake()
	return all
}

// leadTo is the complete segments that a reader of segment id has to begin
// with, as far as they are held, and whether they are. It needs mu.
func (s *Spool) leadTo(id ID) ([]*piece, bool) {
	history := s.historyOf(id.Timeline)
	return leadTo(id, func(no uint64) (*piece, bool, bool) {
		want := history.SegmentAt(ID{id.Timeline, no}.Start(s.size), s.size)
		i := slices.IndexFunc(s.pieces, func(p *piece) bool { return p.Complete && p.ID == want })
		if i < 0 {
			return nil, false, false
		}
		return s.pieces[i], s.pieces[i].inside, true
	})
}

// openHeld opens the file that holds the bytes of segment id up to offset to;
// fs.ErrNotExist when there is none any more. The open segment's own file must
// not be closed by the caller.
func (s *Spool) openHeld(id ID, to int64) (fsx.File, error) {
	s.mu.Lock()
	if s.open != nil && s.open.id == id {
		defer s.mu.Unlock()
		return s.open.f, nil
	}
	path := ""
	for _, p := range s.pieces {
		if p.ID == id && p.To >= to {
			path = p.Path
		}
	}
	s.mu.Unlock()
	if path == "" {
		return nil, fmt.Errorf("spool %s: %s: %w", s.dir, id.Name(s.size), fs.ErrNotExist)
	}
	return s.fsys.Open(path)
}
