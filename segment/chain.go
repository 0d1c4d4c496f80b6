package segment

import (
	"errors"
	"io"
	"slices"

	"github.com/walstream/walstream/wal"
)

// insideRecord is [wal.InsideRecord] of a complete segment. Such a segment says
// nothing without the one before.
func insideRecord(r io.ReaderAt, size Size) bool {
	var head [wal.OriginSize]byte
	_, err := r.ReadAt(head[:], 0)
	return err == nil && wal.InsideRecord(head[:], uint32(size))
}

// leadTo collects what held gives for the segments before id, oldest first,
// back to the first that does not lie inside a record. It is not whole when
// one of them is not held.
func leadTo[P any](id ID, held func(no uint64) (p P, inside, ok bool)) (lead []P, whole bool) {
	for no := id.No; no > 0 && !whole; {
		no--
		p, inside, ok := held(no)
		if !ok {
			break
		}
		lead = append(lead, p)
		whole = !inside
	}
	slices.Reverse(lead)
	return lead, whole
}

// chainEnd reads an unfinished segment and returns the end of the valid record
// chain in it, its start if there is none. The complete segments lead come
// just before it; a record that continues from them is checked as a whole.
// Without them such a record is skipped unchecked, and sure is false then. An
// error is one of reading p; the end is good nevertheless.
func chainEnd(id Identity, lead []Sealed, p Sealed) (end wal.LSN, sure bool, err error) {
	cfg := id.ScanConfig(p.ID)
	start := cfg.Start
	if len(lead) > 0 {
		cfg.Start = lead[0].ID.Start(id.SegmentSize)
	}
	scan := wal.NewScanner(cfg)
	for _, before := range lead {
		if err := feed(scan, before, id.SegmentSize); err != nil {
			return chainEnd(id, nil, p) // as good as not held
		}
	}
	err = feed(scan, p, id.SegmentSize)
	if errors.As(err, new(*wal.EndError)) {
		err = nil
	}
	return max(start, scan.End()), len(lead) > 0 || !scan.UnknownCarry(), err
}

func feed(scan *wal.Scanner, p Sealed, size Size) error {
	f, err := p.Open()
	if err != nil {
		return err
	}
	defer f.Close() // only read
	return scan.FeedAll(io.NewSectionReader(f, 0, int64(size)))
}
