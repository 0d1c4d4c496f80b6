package segment_test

import (
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"slices"

	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

const (
	testSize = segment.MinSize
	testID   = 7_300_000_000_000_000_001
)

var identity = segment.Identity{SystemIdentifier: testID, MajorVersion: 15, SegmentSize: testSize}

// generator writes WAL as PostgreSQL 15 does: pages, records that cross them,
// links and CRCs.
type generator struct {
	tli   wal.Timeline
	base  wal.LSN // of the first byte in bytes, a segment start
	bytes []byte
	prev  wal.LSN
	ends  []wal.LSN // of the records, padding included
	rnd   *rand.Rand
}

func newGenerator(tli wal.Timeline, base wal.LSN) *generator {
	return &generator{tli: tli, base: base, rnd: rand.New(rand.NewPCG(1, uint64(base)))}
}

// fork continues on timeline tli as a promoted server does: the segment that
// holds the end is copied.
func (g *generator) fork(tli wal.Timeline) *generator {
	start := testSize.Floor(g.end())
	return &generator{tli: tli, base: start, bytes: slices.Clone(g.bytes[start-g.base:]), prev: g.prev, rnd: rand.New(rand.NewPCG(2, uint64(tli)))}
}

func (g *generator) end() wal.LSN { return g.base + wal.LSN(len(g.bytes)) }

// at is the bytes from from up to to.
func (g *generator) at(from, to wal.LSN) []byte { return g.bytes[from-g.base : to-g.base] }

// lastEnd is the end of the last record at or before lsn; the beginning of the
// stream when there is none.
func (g *generator) lastEnd(lsn wal.LSN) wal.LSN {
	i, found := slices.BinarySearch(g.ends, lsn)
	switch {
	case found:
		return lsn
	case i > 0:
		return g.ends[i-1]
	}
	return g.base
}

func (g *generator) page(rem int) {
	le := binary.LittleEndian
	h := make([]byte, 24)
	le.PutUint16(h, 0xD110)
	le.PutUint32(h[4:], uint32(g.tli))
	le.PutUint64(h[8:], uint64(g.end()))
	info := uint16(0)
	if rem > 0 {
		info |= 1
		le.PutUint32(h[16:], uint32(rem))
	}
	if testSize.Offset(g.end()) == 0 {
		info |= 2
		h = le.AppendUint64(h, testID)
		h = le.AppendUint32(h, uint32(testSize))
		h = le.AppendUint32(h, 8192)
	}
	le.PutUint16(h[2:], info)
	g.bytes = append(g.bytes, h...)
}

// record adds one of n bytes in all, at least 24.
func (g *generator) record(n int) { g.add(n, 10, 0) } // RM_HEAP_ID

// switchSegment adds an XLOG_SWITCH.
func (g *generator) switchSegment() {
	g.add(24, 0, 0x40)
	g.bytes = append(g.bytes, make([]byte, testSize.Ceil(g.end())-g.end())...)
	g.ends[len(g.ends)-1] = g.end()
}

func (g *generator) add(n int, rmgr, info byte) {
	le := binary.LittleEndian
	rec := make([]byte, n)
	le.PutUint32(rec, uint32(n))
	le.PutUint32(rec[4:], 700)
	le.PutUint64(rec[8:], uint64(g.prev))
	rec[16], rec[17] = info, rmgr
	for i := 24; i < n; i++ {
		rec[i] = byte(g.rnd.Uint32())
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	crc := crc32.Update(crc32.Update(0, table, rec[24:]), table, rec[:20])
	le.PutUint32(rec[20:], crc)

	started := false
	for len(rec) > 0 {
		if g.end()%8192 == 0 {
			rem := 0
			if started {
				rem = len(rec)
			}
			g.page(rem)
		}
		if !started {
			started, g.prev = true, g.end()
		}
		part := min(len(rec), int(8192-g.end()%8192))
		g.bytes = append(g.bytes, rec[:part]...)
		rec = rec[part:]
	}
	g.bytes = append(g.bytes, make([]byte, -len(g.bytes)&7)...)
	g.ends = append(g.ends, g.end())
}

// fill adds records of all sizes up to about lsn.
func (g *generator) fill(lsn wal.LSN) {
	for g.end() < lsn {
		g.record(24 + int(g.rnd.Uint32()>>(16+g.rnd.IntN(16))))
	}
}
