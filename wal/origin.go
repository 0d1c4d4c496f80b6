package wal

import "fmt"

// Origin is what the first page of a segment says of the cluster that wrote
// it, in a long page header (XLogLongPageHeaderData).
type Origin struct {
	Major            int
	SystemIdentifier uint64
	SegmentSize      uint32 // in bytes
	Timeline         Timeline
	Start            LSN // where the page belongs
}

// OriginSize is how many bytes [ReadOrigin] and [InsideRecord] need.
const OriginSize = longHeader

// InsideRecord says whether a segment that begins with head lies wholly within
// one record: its first page continues a record by more bytes than the segment
// has room for.
func InsideRecord(head []byte, segmentSize uint32) bool {
	h := parsePage(head)
	room := segmentSize - segmentSize/pageSize*shortHeader - (longHeader - shortHeader)
	return h.has(pageContinues) && h.rem > room
}

// ReadOrigin reads the page header with which a segment begins. It is for WAL
// of which nothing is known yet: what it says must be consistent in itself,
// but only a [Scanner] verifies the WAL.
func ReadOrigin(head []byte) (Origin, error) {
	if len(head) < longHeader {
		return Origin{}, fmt.Errorf("%d bytes are no WAL segment", len(head))
	}
	h := parsePage(head[:longHeader])
	if size := h.segmentSize; size < pageSize || size&(size-1) != 0 {
		return Origin{}, fmt.Errorf("it does not begin like a WAL segment of PostgreSQL 13 to 18")
	}
	cfg := ScanConfig{Timeline: h.tli, SystemIdentifier: h.systemIdentifier, SegmentSize: h.segmentSize}
	if why := h.refuse(&cfg, 0, h.addr&^LSN(h.segmentSize-1), 0); why != "" {
		return Origin{}, fmt.Errorf("%s", why)
	}
	return Origin{majorOf(h.magic), h.systemIdentifier, h.segmentSize, h.tli, h.addr}, nil
}
