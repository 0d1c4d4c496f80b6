package wal

import (
	"encoding/binary"
	"fmt"
)

const (
	pageSize    = 8192 // XLOG_BLCKSZ
	shortHeader = 24   // SizeOfXLogShortPHD
	longHeader  = 40   // SizeOfXLogLongPHD
)

// Bits of xlp_info. 0x0004 (XLP_BKP_REMOVABLE) is known but says nothing here.
const (
	pageContinues  = 0x0001 // XLP_FIRST_IS_CONTRECORD
	pageLong       = 0x0002 // XLP_LONG_HEADER
	pageOverwrites = 0x0008 // XLP_FIRST_IS_OVERWRITE_CONTRECORD
	pageKnownBits  = 0x000F
)

// page is a page header, XLogPageHeaderData or XLogLongPageHeaderData.
type page struct {
	magic, info uint16
	tli         Timeline
	addr        LSN
	rem         uint32 // bytes still missing of a record begun on an earlier page

	systemIdentifier       uint64 // these three in a long header only
	segmentSize, blockSize uint32
}

func parsePage(b []byte) page {
	le := binary.LittleEndian
	h := page{
		magic: le.Uint16(b),
		info:  le.Uint16(b[2:]),
		tli:   Timeline(le.Uint32(b[4:])),
		addr:  LSN(le.Uint64(b[8:])),
		rem:   le.Uint32(b[16:]),
	}
	if len(b) >= longHeader {
		h.systemIdentifier = le.Uint64(b[24:])
		h.segmentSize = le.Uint32(b[32:])
		h.blockSize = le.Uint32(b[36:])
	}
	return h
}

func (h *page) has(bits uint16) bool { return h.info&bits != 0 }

// majorOf tells PostgreSQL's major version by XLOG_PAGE_MAGIC; zero is unknown.
func majorOf(magic uint16) int {
	switch magic {
	case 0xD106:
		return 13
	case 0xD10D:
		return 14
	case 0xD110:
		return 15
	case 0xD113:
		return 16
	case 0xD116:
		return 17
	case 0xD118:
		return 18
	}
	return 0
}

// refuse says why h cannot be the header of the page at addr, or "". The
// timeline before is that of the page before, zero when there was none.
func (h *page) refuse(cfg *ScanConfig, major int, addr LSN, before Timeline) string {
	first := addr%LSN(cfg.SegmentSize) == 0
	switch {
	case majorOf(h.magic) == 0:
		return fmt.Sprintf("page magic %04X is none of PostgreSQL 13 to 18", h.magic)
	case major != 0 && majorOf(h.magic) != major:
		return fmt.Sprintf("page magic %04X is of PostgreSQL %d, not %d", h.magic, majorOf(h.magic), major)
	case h.info&^pageKnownBits != 0:
		return fmt.Sprintf("page header has unknown info bits %04X", h.info)
	case first != h.has(pageLong):
		return "page header has the wrong length for its place in the segment"
	case first && h.systemIdentifier != cfg.SystemIdentifier:
		return fmt.Sprintf("page is of another cluster: system identifier %d, not %d", h.systemIdentifier, cfg.SystemIdentifier)
	case first && h.segmentSize != cfg.SegmentSize:
		return fmt.Sprintf("page is of a cluster with WAL segments of %d bytes, not %d", h.segmentSize, cfg.SegmentSize)
	case first && h.blockSize != pageSize:
		return fmt.Sprintf("page is of a cluster with WAL blocks of %d bytes; only %d is supported", h.blockSize, pageSize)
	case h.addr != addr:
		return fmt.Sprintf("page says that it belongs at %s", h.addr)
	case h.tli == 0 || h.tli > cfg.Timeline:
		return fmt.Sprintf("page is of timeline %s, the file of %s", h.tli, cfg.Timeline)
	case h.tli < before:
		return fmt.Sprintf("page is of timeline %s, the page before of %s", h.tli, before)
	}
	return ""
}
