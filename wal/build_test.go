package wal_test

import (
	"encoding/binary"
	"hash/crc32"
	"testing"

	"github.com/walstream/walstream/wal"
)

const (
	testSegment = 32 << 10 // four pages; PostgreSQL's smallest is 1 MiB
	testSystem  = 7_000_000_000_000_000_001
	testStart   = wal.LSN(0x5000000)

	rmgrXLOG, rmgrXact, rmgrHeap = 0, 1, 10
)

var magics = map[int]uint16{13: 0xD106, 14: 0xD10D, 15: 0xD110, 16: 0xD113, 17: 0xD116, 18: 0xD118}

var le = binary.LittleEndian

// builder writes WAL as PostgreSQL does.
type builder struct {
	cfg     wal.ScanConfig
	buf     []byte
	prev    wal.LSN
	void    wal.LSN // torn record that the next page overwrites
	written []written
}

type written struct{ LSN, End wal.LSN }

func build(major int) *builder {
	return &builder{
		cfg: wal.ScanConfig{Start: testStart, Timeline: 1, SystemIdentifier: testSystem, SegmentSize: testSegment, Major: major},
		// The record before the start; a first record cannot have none.
		prev: testStart - 64,
	}
}

func (b *builder) pos() wal.LSN { return b.cfg.Start + wal.LSN(len(b.buf)) }

// page writes a page header if one is due; rem bytes continue a record.
func (b *builder) page(rem int) {
	if b.pos()%8192 != 0 {
		return
	}
	var info uint16
	if rem > 0 {
		info |= 0x0001
	}
	if b.void != 0 {
		info |= 0x0008
	}
	first := b.pos()%testSegment == 0
	if first {
		info |= 0x0002
	}
	at := uint64(b.pos())
	b.buf = le.AppendUint16(b.buf, magics[b.cfg.Major])
	b.buf = le.AppendUint16(b.buf, info)
	b.buf = le.AppendUint32(b.buf, uint32(b.cfg.Timeline))
	b.buf = le.AppendUint64(b.buf, at)
	b.buf = le.AppendUint64(b.buf, uint64(rem))
	if first {
		b.buf = le.AppendUint64(b.buf, testSystem)
		b.buf = le.AppendUint32(b.buf, testSegment)
		b.buf = le.AppendUint32(b.buf, 8192)
	}
}

// record appends a record with the given body.
func (b *builder) record(rmgr, info uint8, xid uint32, body []byte) written {
	return b.part(rmgr, info, xid, body, 24+len(body))
}

// part appends the first n bytes of a record.
func (b *builder) part(rmgr, info uint8, xid uint32, body []byte, n int) written {
	b.page(0)
	w := written{LSN: b.pos()}
	rec := le.AppendUint32(nil, uint32(24+len(body)))
	rec = le.AppendUint32(rec, xid)
	rec = le.AppendUint64(rec, uint64(b.prev))
	rec = append(rec, info, rmgr, 0, 0)
	table := crc32.MakeTable(crc32.Castagnoli)
	rec = le.AppendUint32(rec, crc32.Update(crc32.Checksum(body, table), table, rec))
	rec = append(rec, body...)
	for rest := rec[:n]; len(rest) > 0; {
		b.page(len(rec) - n + len(rest))
		room := min(len(rest), int(8192-b.pos()%8192))
		b.buf = append(b.buf, rest[:room]...)
		rest = rest[room:]
	}
	if n < len(rec) {
		return w
	}
	for b.pos()%8 != 0 {
		b.buf = append(b.buf, 0)
	}
	b.prev, w.End = w.LSN, b.pos()
	b.written = append(b.written, w)
	return w
}

// heap appends a record of which nothing is decoded, with n bytes of body.
func (b *builder) heap(n int) written {
	body := make([]byte, n)
	for i := range body {
		body[i] = byte(i*7 + n)
	}
	return b.record(rmgrHeap, 0, 700, body)
}

// fill appends heap records until the given number of bytes is left of the
// page.
func (b *builder) fill(left int) {
	b.page(0)
	target := b.pos()&^8191 + 8192 - wal.LSN(left)
	for b.pos() < target {
		room := int(target - b.pos())
		if room > 4000 {
			room = 2000
		}
		b.heap(room - 24)
	}
}

// xact appends a commit or abort.
func (b *builder) commit(micros int64) written {
	return b.record(rmgrXact, 0x00, 700, main(le.AppendUint64(nil, uint64(micros))))
}

// switchWAL ends the segment.
func (b *builder) switchWAL() written {
	w := b.record(rmgrXLOG, 0x40, 0, nil)
	for b.pos()%testSegment != 0 {
		b.buf = append(b.buf, 0)
	}
	return w
}

// tear appends the first n bytes of a record of that many bytes, fills the
// page with zeros and lets the next page overwrite the record.
func (b *builder) tear(total, n int) written {
	w := b.part(rmgrHeap, 0, 0, make([]byte, total-24), n)
	for b.pos()%8192 != 0 {
		b.buf = append(b.buf, 0)
	}
	b.void = w.LSN
	return w
}

// mend appends the record that stands for the torn one.
func (b *builder) mend(void wal.LSN) written {
	b.page(0)
	b.void = 0
	return b.record(rmgrXLOG, 0xD0, 0, main(le.AppendUint64(le.AppendUint64(nil, uint64(void)), 0)))
}

// main puts the header of main data before it.
func main(data []byte) []byte {
	if len(data) < 256 {
		return append([]byte{255, byte(len(data))}, data...)
	}
	return append(le.AppendUint32([]byte{254}, uint32(len(data))), data...)
}

// varied is WAL with records in every position relative to page borders:
// headers and bodies that cross them, ends exactly at them, records of several
// pages and segments.
func varied(major int) *builder {
	b := build(major)
	b.commit(1)
	b.fill(16)
	b.heap(100) // its header crosses
	b.fill(8)
	b.record(rmgrXact, 0x20, 701, main(make([]byte, 8))) // so does the abort's
	b.fill(24)
	b.heap(5) // only its body crosses
	b.fill(40)
	b.heap(16) // ends at the border
	b.heap(1)
	b.fill(64)
	b.heap(3 * 8192)
	b.heap(2*testSegment + 5)
	b.commit(2)
	b.fill(24)
	b.record(rmgrHeap, 0, 0, nil)
	b.heap(333)
	return b
}

// scanned is what became of a scan.
type scanned struct {
	Records []written
	End     wal.LSN
	Carry   *wal.Carry
	Unknown bool
}

// scan feeds p in one piece.
func scan(cfg wal.ScanConfig, p []byte) (scanned, error) {
	var got scanned
	cfg.OnRecord = func(r *wal.Record) error {
		got.Records = append(got.Records, written{r.LSN, r.End})
		return nil
	}
	s := wal.NewScanner(cfg)
	err := s.Feed(p)
	got.End, got.Carry, got.Unknown = s.End(), s.Carry(), s.UnknownCarry()
	return got, err
}

func mustScan(t *testing.T, cfg wal.ScanConfig, p []byte) scanned {
	t.Helper()
	got, err := scan(cfg, p)
	if err != nil {
		t.Fatal(err)
	}
	return got
}
