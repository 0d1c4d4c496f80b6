package segment

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"

	"github.com/walstream/walstream/internal/crashpoint"
	"github.com/walstream/walstream/wal"
)

// Begin starts a stream of timeline tli at lsn, the start of a segment. WAL
// that arrives again is compared with what the spool holds durably, what lies
// behind that is replaced. It fails with a [*GapError] when WAL between the
// spool's end and lsn is missing (see [Spool.Skip]), with an [*OrderError]
// when lsn lies before what is held, with a [*TimelineError] when the spool
// holds WAL of a newer timeline, of one that is no ancestor of tli, or when
// another timeline is still open. A timeline above 1 needs its history saved.
func (s *Spool) Begin(tli wal.Timeline, lsn wal.LSN) error { return s.begin(tli, lsn, false) }

// Skip is [Spool.Begin] for a caller that has recorded the gap: WAL that the
// server no longer has, or that the archive already holds. It also goes back to
// before what is held, for WAL of which somebody has taken the files away: that
// is received anew, while segments that are held are compared. What the open
// segment holds becomes a remainder.
func (s *Spool) Skip(tli wal.Timeline, lsn wal.LSN) error { return s.begin(tli, lsn, true) }

func (s *Spool) begin(tli wal.Timeline, lsn wal.LSN, skip bool) error {
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	s.begun = false
	err := s.failed()
	if err == nil && s.full != nil {
		err = s.seal()
	}
	if err != nil {
		return err
	}
	if s.size.Offset(lsn) != 0 {
		return &OrderError{Timeline: tli, Want: s.size.Floor(lsn), Got: lsn}
	}
	end, err := s.follow(tli, lsn)
	if skip && (errors.As(err, new(*GapError)) || errors.As(err, new(*OrderError)) || err == nil && lsn < s.size.Floor(end)) {
		err, end = nil, lsn
	}
	if err != nil {
		return err
	}
	if open := s.open; open != nil && (open.id.Timeline != tli || end != s.durable) {
		if !skip {
			return &TimelineError{Have: open.id.Timeline, Got: tli, Reason: "the older one was not ended"}
		}
		if err := s.remainder(); err != nil {
			return err
		}
	}
	if s.open == nil {
		if err := s.dropSpare(At(tli, end, s.size)); err != nil {
			return err
		}
	}
	s.begun, s.next = true, lsn
	s.mu.Lock()
	defer s.mu.Unlock()
	// What was written and not synced will come again, maybe from another
	// server, and with other bytes.
	s.tli, s.durable, s.appended = tli, end, end
	return nil
}

// follow checks that a stream of tli from lsn on continues what is held, and
// returns the durable end to start with.
func (s *Spool) follow(tli wal.Timeline, lsn wal.LSN) (wal.LSN, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.saved[tli]
	if tli == 0 || tli > 1 && !known {
		return 0, fmt.Errorf("spool %s: the history of timeline %s is not saved", s.dir, tli)
	}
	newest := s.newest()
	end, _ := s.held(tli)
	switch {
	case newest == 0 || tli == s.tli && lsn == s.durable:
		return lsn, nil
	case tli < newest:
		return 0, &TimelineError{Have: newest, Got: tli, Reason: "it is older"}
	case tli == newest && lsn > end:
		return 0, &GapError{Timeline: tli, Have: end, Got: lsn}
	case tli == newest && lsn < s.unbroken(tli, end):
		return 0, &OrderError{Timeline: tli, Want: s.unbroken(tli, end), Got: lsn}
	case tli == newest:
		return end, nil
	}
	fork, ok := s.saved[tli].parsed.EndOf(newest)
	if !ok {
		return 0, &TimelineError{Have: newest, Got: tli, Reason: "it does not descend from it"}
	}
	end, _ = s.held(newest)
	if end = min(end, fork); lsn > end {
		return 0, &GapError{Timeline: newest, Have: end, Got: lsn}
	}
	return lsn, nil
}

// Append takes the bytes p of timeline tli at lsn; the position must be the
// one where the last call ended ([*GapError], [*OrderError], [*TimelineError]
// otherwise). The bytes are durable when a Sync that begins afterwards has
// returned. Bytes that differ from what is durable already are a
// [*DivergenceError], and a disk that is full a [*FullError]; the stream has to
// be begun anew then.
func (s *Spool) Append(tli wal.Timeline, lsn wal.LSN, p []byte) error {
	if err := s.failed(); err != nil {
		return err
	}
	switch {
	case !s.begun:
		return fmt.Errorf("spool %s: no stream was begun", s.dir)
	case tli != s.tli:
		return &TimelineError{Have: s.tli, Got: tli, Reason: "no stream of it was begun"}
	case lsn > s.next:
		return &GapError{Timeline: tli, Have: s.next, Got: lsn}
	case lsn < s.next:
		return &OrderError{Timeline: tli, Want: s.next, Got: lsn}
	}
	for len(p) > 0 {
		n, err := s.appendPart(p)
		if err != nil {
			s.begun = false
			return err
		}
		p = p[n:]
	}
	return nil
}

// appendPart takes the beginning of p, as much as can be treated alike.
func (s *Spool) appendPart(p []byte) (int, error) {
	id := At(s.tli, s.next, s.size)
	n := min(wal.LSN(len(p)), id.End(s.size)-s.next)
	if again := s.durableEnd(); s.next < again {
		n = min(n, again-s.next)
		if err := s.compare(id, p[:n]); err != nil {
			return 0, err
		}
		s.next += n
		return int(n), nil
	}
	if s.open == nil {
		if held, err := s.adopt(id); held || err != nil {
			return 0, err
		}
		if err := s.prepare(id); err != nil {
			return 0, err
		}
	}
	if _, err := s.open.f.WriteAt(p[:n], s.size.Offset(s.next)); err != nil {
		if isFull(err) { // in a file that was not filled with zeros; it will come again
			err = &FullError{err}
		}
		return 0, s.failUnlessFull(err)
	}
	crashpoint.Hit(crashpoint.SpoolWritten)
	s.next += n
	s.mu.Lock()
	s.appended = s.next
	s.mu.Unlock()
	if s.next < id.End(s.size) {
		return int(n), nil
	}
	return int(n), s.finish()
}

// finish leaves the open segment, which is written to its end, to the next
// Sync. It waits for that of the segment before.
func (s *Spool) finish() error {
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	if s.full != nil {
		if err := s.seal(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.full, s.open = s.open, nil
	return nil
}

func (s *Spool) durableEnd() wal.LSN {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.durable
}

// compare checks bytes at s.next, all durable already, against the file that
// holds them. One that was released meanwhile is in the archive.
func (s *Spool) compare(id ID, p []byte) error {
	off := s.size.Offset(s.next)
	src, err := s.openHeld(id, off+int64(len(p)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	have := make([]byte, len(p))
	_, err = src.ReadAt(have, off)
	name := src.Name()
	if s.open == nil || src != s.open.f {
		err = errors.Join(err, src.Close())
	}
	if err != nil {
		return fmt.Errorf("compare %s: %w", name, err)
	}
	if bytes.Equal(have, p) {
		return nil
	}
	differ := 0
	for have[differ] == p[differ] {
		differ++
	}
	return &DivergenceError{Object: id.Name(s.size), Timeline: id.Timeline, LSN: s.next + wal.LSN(differ)}
}
