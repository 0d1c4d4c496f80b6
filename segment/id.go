package segment

import (
	"fmt"
	"strconv"

	"github.com/walstream/walstream/wal"
)

// Size is a cluster's wal_segment_size in bytes: a power of two from 1 MiB to
// 1 GiB, fixed by initdb.
type Size uint32

// The limits of wal_segment_size.
const (
	MinSize Size = 1 << 20
	MaxSize Size = 1 << 30
)

// Valid says whether PostgreSQL would accept s as wal_segment_size.
func (s Size) Valid() bool { return s >= MinSize && s <= MaxSize && s&(s-1) == 0 }

// Floor is the start of the segment that holds lsn.
func (s Size) Floor(lsn wal.LSN) wal.LSN { return lsn &^ wal.LSN(s-1) }

// Ceil is lsn itself on a boundary, otherwise the start of the next segment.
func (s Size) Ceil(lsn wal.LSN) wal.LSN { return s.Floor(lsn + wal.LSN(s-1)) }

// Offset is lsn's position inside its segment.
func (s Size) Offset(lsn wal.LSN) int64 { return int64(lsn & wal.LSN(s-1)) }

// BeforeHeader is lsn, where the next record is to be written, without the page
// header before that: up to where WAL reaches while the record is not there.
func (s Size) BeforeHeader(lsn wal.LSN) wal.LSN {
	const pageSize, shortHeader, longHeader = 8192, 24, 40
	switch {
	case s.Offset(lsn) == longHeader:
		return lsn - longHeader
	case lsn%pageSize == shortHeader:
		return lsn - shortHeader
	}
	return lsn
}

// ID names one WAL segment: its timeline and its number, which is its start
// LSN divided by the segment size.
type ID struct {
	Timeline wal.Timeline
	No       uint64
}

// At is the segment of timeline tli that holds lsn.
func At(tli wal.Timeline, lsn wal.LSN, size Size) ID {
	return ID{Timeline: tli, No: uint64(lsn) / uint64(size)}
}

// Start is the LSN of the segment's first byte.
func (id ID) Start(size Size) wal.LSN { return wal.LSN(id.No * uint64(size)) }

// End is the LSN behind the segment's last byte.
func (id ID) End(size Size) wal.LSN { return id.Start(size) + wal.LSN(size) }

// Next is the following segment of the same timeline.
func (id ID) Next() ID { return ID{Timeline: id.Timeline, No: id.No + 1} }

// Name is the file name that PostgreSQL gives the segment (XLogFileName): 24
// upper-case hexadecimal digits. It depends on the segment size.
func (id ID) Name(size Size) string {
	perID := uint64(1<<32) / uint64(size)
	return fmt.Sprintf("%08X%08X%08X", uint32(id.Timeline), id.No/perID, id.No%perID)
}

// ParseName reverses [ID.Name]. Names that PostgreSQL would not write for
// this segment size (lower case, a low part beyond the segments of one 4 GiB
// log file, timeline zero) are refused.
func ParseName(name string, size Size) (ID, error) {
	bad := fmt.Errorf("%q is no WAL segment name", name)
	if !size.Valid() {
		return ID{}, fmt.Errorf("segment name %q: %d is no wal_segment_size", name, size)
	}
	if len(name) != 24 || !upperHex(name) {
		return ID{}, bad
	}
	tli, _ := strconv.ParseUint(name[:8], 16, 32)
	log, _ := strconv.ParseUint(name[8:16], 16, 32)
	seg, _ := strconv.ParseUint(name[16:], 16, 32)
	perID := uint64(1<<32) / uint64(size)
	if seg >= perID || tli == 0 {
		return ID{}, bad
	}
	return ID{Timeline: wal.Timeline(tli), No: log*perID + seg}, nil
}

func upperHex(s string) bool {
	for _, c := range s {
		if !('0' <= c && c <= '9' || 'A' <= c && c <= 'F') {
			return false
		}
	}
	return true
}
