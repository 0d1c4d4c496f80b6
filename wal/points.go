package wal

import (
	"errors"
	"fmt"
	"io"
)

const readSize = 128 << 10

// Points is what recovery can stop at in a stretch of WAL, in LSN order.
type Points struct {
	Finishes      []Finish
	RestorePoints []RestorePoint
}

// Add takes note of a record, if recovery can stop at it.
func (p *Points) Add(r *Record) {
	if f, ok := r.Finish(); ok {
		p.Finishes = append(p.Finishes, f)
	}
	if point, ok := r.RestorePoint(); ok {
		p.RestorePoints = append(p.RestorePoints, point)
	}
}

// ValidEnd says how far an unfinished segment can be trusted: the end of the
// chain of valid records in the first limit bytes of r, whose first byte is at
// cfg.Start. It stops at the first doubt and is cfg.Start if not one record is
// valid. why says what stopped it, nil when nothing did before the limit or
// the end of r; err is a failure to read.
//
// When the segment begins inside a record, that record is checked only with
// cfg.Carry. Without it these bytes are skipped on trust, so a caller that
// must be certain reads the segment before first.
func ValidEnd(r io.ReaderAt, cfg ScanConfig, limit int64) (end LSN, why *EndError, err error) {
	s := NewScanner(cfg)
	err = s.FeedAll(io.NewSectionReader(r, 0, limit))
	if errors.As(err, &why) {
		err = nil
	}
	return s.End(), why, err
}

// FeedAll feeds r to its end. Its errors are those of [Scanner.Feed], or of reading.
func (s *Scanner) FeedAll(r io.Reader) error {
	_, err := io.CopyBuffer(s, r, make([]byte, readSize))
	if err != nil && s.err == nil {
		return fmt.Errorf("read WAL at %s: %w", s.pos, err)
	}
	return s.err
}
