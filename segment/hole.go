package segment

import (
	"errors"
	"io/fs"
	"slices"

	"github.com/walstream/walstream/wal"
)

// Follow goes from lsn along the history h through what is held, and returns
// where that ends. If more is held behind a hole, next is where that begins, and
// zero otherwise; the hole is being filled when WAL is received where it begins.
// What somebody has deleted is not held.
func (s *Spool) Follow(h History, lsn wal.LSN) (end, next wal.LSN, filling bool) {
	s.mu.Lock()
	held := make([]Sealed, len(s.pieces))
	for i, p := range s.pieces {
		held[i] = p.Sealed
	}
	if current := s.current(); current != nil { // not the last one while a hole is filled
		p := Sealed{ID: current.id, To: int64(s.durable - current.id.Start(s.size)), Growing: true}
		i, _ := slices.BinarySearchFunc(held, p, compareSealed)
		held = slices.Insert(held, i, p)
	}
	received := Position{s.tli, s.durable}
	s.mu.Unlock()
	for _, p := range held {
		start := p.ID.Start(s.size)
		if p.end(s.size) < lsn || h.SegmentAt(start, s.size) != p.ID || !p.Growing && s.deleted(p.Path) {
			continue
		}
		if start > lsn {
			next = start
			break
		}
		lsn = max(lsn, p.end(s.size))
	}
	return lsn, next, received == Position{h.SegmentAt(lsn, s.size).Timeline, lsn}
}

func (s *Spool) deleted(path string) bool {
	_, err := s.fsys.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// adopt goes on behind segment id if that is held complete already, which is
// so behind a hole.
func (s *Spool) adopt(id ID) (bool, error) {
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	if !s.holds(id) {
		return false, nil
	}
	if s.full != nil { // nothing behind it may count as durable before
		if err := s.seal(); err != nil {
			return false, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.durable, s.appended = id.End(s.size), id.End(s.size)
	return true, nil
}

// holds says whether segment id is held complete. It forgets one whose file
// was taken away.
func (s *Spool) holds(id ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.pieces, func(p *piece) bool { return p.Complete && p.ID == id })
	if i < 0 {
		return false
	}
	if s.deleted(s.pieces[i].Path) {
		s.pieces = slices.Delete(s.pieces, i, i+1)
		return false
	}
	return true
}
