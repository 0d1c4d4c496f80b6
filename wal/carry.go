package wal

import (
	"bytes"
	"fmt"
)

// Carry is the state of a [Scanner] between two calls: a record whose
// beginning was read and whose rest comes later. It is small, so that it can
// be stored with each segment: of the record only the CRC so far is kept, and
// what summaries look into if it is of a kind that they do (a few hundred
// bytes at most, however long the record is).
type Carry struct {
	Start LSN    `json:"start"`          // of the unfinished record
	Prev  LSN    `json:"prev"`           // start of the record before it, zero when unknown
	Total uint32 `json:"total"`          // xl_tot_len
	Have  uint32 `json:"have"`           // bytes of it read so far
	CRC   uint32 `json:"crc"`            // of the bytes behind the header so far
	Head  []byte `json:"head"`           // up to 24 bytes of the record header
	Body  []byte `json:"body,omitempty"` // for records of interest, what body.go keeps of what followed
}

// resume checks the configuration and takes over its carry.
func (s *Scanner) resume() error {
	c := s.cfg.Carry
	size := s.cfg.SegmentSize
	switch {
	case size < pageSize || size&(size-1) != 0:
		return fmt.Errorf("scan from %s: %d is no wal_segment_size", s.pos, size)
	case s.pos%pageSize != 0:
		return fmt.Errorf("scan from %s: not the start of a page", s.pos)
	case s.cfg.Timeline == 0:
		return fmt.Errorf("scan from %s: no timeline", s.pos)
	}
	s.rec.Major, s.prev = s.cfg.Major, s.cfg.Prev
	if c == nil {
		return nil
	}
	s.rec.LSN, s.prev = c.Start, c.Prev
	s.have, s.crc = c.Have, c.CRC
	s.rec.kept = bytes.Clone(c.Body)
	copy(s.head[:], c.Head)
	s.rec.parseHeader(s.head[:])
	if !c.fits(s.pos) || s.rec.TotalLen != c.Total || s.refuse() != "" {
		return fmt.Errorf("scan from %s: the carry of the record at %s does not fit", s.pos, c.Start)
	}
	return nil
}

// fits says whether c can be the state at the page start pos.
func (c *Carry) fits(pos LSN) bool {
	return c.Start < pos && c.Start%8 == 0 && c.Have >= 8 && c.Have < c.Total &&
		len(c.Head) == int(min(c.Have, recordHeader))
}

// keptFits says whether the carry holds as much of the body as the rest relies
// on. That depends on the major version, which the first page tells.
func (s *Scanner) keptFits() bool {
	if s.have < recordHeader || !s.rec.keeps() {
		return len(s.rec.kept) == 0
	}
	next, n := s.rec.wants()
	read := int64(s.have - recordHeader)
	return int64(len(s.rec.kept)) <= read && (n == 0 || next >= read)
}
