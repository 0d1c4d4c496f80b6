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

// ReadPoints reads r to its end as WAL from cfg.Start on and lists the points.
// The carry is for reading on in the next segment. An [*EndError] comes with
// the points before it; cfg.OnRecord is called as well.
func ReadPoints(r io.Reader, cfg ScanConfig) (Points, *Carry, error) {
	var pts Points
	user := cfg.OnRecord
	cfg.OnRecord = func(rec *Record) error {
		if f, ok := rec.Finish(); ok {
			pts.Finishes = append(pts.Finishes, f)
		}
		if p, ok := rec.RestorePoint(); ok {
			pts.RestorePoints = append(pts.RestorePoints, p)
		}
		if user != nil {
			return user(rec)
		}
		return nil
	}
	s := NewScanner(cfg)
	err := s.feedAll(r)
	return pts, s.Carry(), err
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
	err = s.feedAll(io.NewSectionReader(r, 0, limit))
	if errors.As(err, &why) {
		err = nil
	}
	return s.End(), why, err
}

func (s *Scanner) feedAll(r io.Reader) error {
	buf := make([]byte, readSize)
	for {
		n, err := r.Read(buf)
		if ferr := s.Feed(buf[:n]); ferr != nil {
			return ferr
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read WAL at %s: %w", s.pos, err)
		}
	}
}
