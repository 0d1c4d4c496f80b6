// Package walgen makes WAL for tests, as PostgreSQL 13 to 18 write it: pages,
// records that cross them, links from record to record, CRCs, switches, and
// torn records that a new server stands in for (access/xlog_internal.h,
// access/xlogrecord.h, CopyXLogRecordToWAL and CreateOverwriteContrecordRecord
// in access/transam/xlog.c). All of it is valid; a test that wants damage does
// it to the bytes.
package walgen

import (
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/walstream/walstream/wal"
)

// Resource managers (access/rmgrlist.h).
const (
	RmgrXLOG       = 0
	RmgrXact       = 1
	RmgrTablespace = 5
	RmgrHeap       = 10
)

const (
	pageSize   = 8192
	headerSize = 24 // of a record, and of a page that does not begin a segment
)

// Epoch is the zero of PostgreSQL's timestamps.
func Epoch() time.Time { return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) }

// Record is where a record lies. End includes what aligns it, but not the
// zeros behind a switch.
type Record struct{ LSN, End wal.LSN }

// WAL grows record by record. A test may change the fields in between, and may
// copy it to keep what it was. It is not for concurrent use.
type WAL struct {
	// Config is what a scan of Bytes needs. Pages get the timeline that it has
	// when they begin.
	Config  wal.ScanConfig
	Bytes   []byte   // from Config.Start on
	Records []Record // that are whole, in order
	// Last is where the last record begins: the next one links to it. Zero
	// begins a chain, as pg_resetwal does.
	Last wal.LSN
	// Void is a torn record that the next page overwrites.
	Void wal.LSN
	// XID is that of commits, and Now the time of the last one of Fill.
	XID uint32
	Now time.Time

	rnd *rand.Rand
}

// New begins WAL at cfg.Start. The same seed gives the same bytes.
func New(cfg wal.ScanConfig, seed uint64) *WAL {
	return &WAL{
		Config: cfg, XID: 700, Now: time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC),
		rnd: rand.New(rand.NewPCG(seed, uint64(cfg.Start))),
	}
}

// Fork goes on as a server does that is promoted to timeline tli: in a copy of
// the segment that holds the end. Records are only those after the fork.
func (w *WAL) Fork(tli wal.Timeline) *WAL {
	f := *w
	f.Config.Timeline = tli
	f.Config.Start = w.End() &^ wal.LSN(w.Config.SegmentSize-1)
	f.Bytes = slices.Clone(w.At(f.Config.Start, w.End()))
	f.Records = nil
	f.rnd = rand.New(rand.NewPCG(uint64(tli), uint64(w.End())))
	return &f
}

// End is where the next byte belongs.
func (w *WAL) End() wal.LSN { return w.Config.Start + wal.LSN(len(w.Bytes)) }

// At is the bytes from from up to to.
func (w *WAL) At(from, to wal.LSN) []byte {
	return w.Bytes[from-w.Config.Start : to-w.Config.Start]
}

// Page writes a page header if one is due; rem bytes continue a record.
func (w *WAL) Page(rem int) {
	if w.End()%pageSize != 0 {
		return
	}
	var info uint16
	if rem > 0 {
		info |= 0x0001 // XLP_FIRST_IS_CONTRECORD
	}
	if w.Void != 0 {
		info |= 0x0008 // XLP_FIRST_IS_OVERWRITE_CONTRECORD
	}
	first := w.End()%wal.LSN(w.Config.SegmentSize) == 0
	if first {
		info |= 0x0002 // XLP_LONG_HEADER
	}
	le, at := binary.LittleEndian, uint64(w.End())
	w.Bytes = le.AppendUint16(w.Bytes, magic(w.Config.Major))
	w.Bytes = le.AppendUint16(w.Bytes, info)
	w.Bytes = le.AppendUint32(w.Bytes, uint32(w.Config.Timeline))
	w.Bytes = le.AppendUint64(w.Bytes, at)
	w.Bytes = le.AppendUint64(w.Bytes, uint64(rem))
	if first {
		w.Bytes = le.AppendUint64(w.Bytes, w.Config.SystemIdentifier)
		w.Bytes = le.AppendUint32(w.Bytes, w.Config.SegmentSize)
		w.Bytes = le.AppendUint32(w.Bytes, pageSize)
	}
}

// magic is XLOG_PAGE_MAGIC of a major version.
func magic(major int) uint16 {
	return map[int]uint16{13: 0xD106, 14: 0xD10D, 15: 0xD110, 16: 0xD113, 17: 0xD116, 18: 0xD118}[major]
}

// Add appends a record with the given body: all that follows its header.
func (w *WAL) Add(rmgr, info uint8, xid uint32, body []byte) Record {
	return w.Part(rmgr, info, xid, body, headerSize+len(body))
}

// Part appends the first n bytes of a record.
func (w *WAL) Part(rmgr, info uint8, xid uint32, body []byte, n int) Record {
	w.Page(0)
	r := Record{LSN: w.End()}
	le, castagnoli := binary.LittleEndian, crc32.MakeTable(crc32.Castagnoli)
	rec := make([]byte, 0, headerSize+len(body))
	rec = le.AppendUint32(rec, uint32(headerSize+len(body)))
	rec = le.AppendUint32(rec, xid)
	rec = le.AppendUint64(rec, uint64(w.Last))
	rec = append(rec, info, rmgr, 0, 0)
	rec = le.AppendUint32(rec, crc32.Update(crc32.Checksum(body, castagnoli), castagnoli, rec))
	rec = append(rec, body...)
	for rest := rec[:n]; len(rest) > 0; {
		w.Page(len(rec) - n + len(rest))
		room := min(len(rest), int(pageSize-w.End()%pageSize))
		w.Bytes = append(w.Bytes, rest[:room]...)
		rest = rest[room:]
	}
	if n < len(rec) {
		return r
	}
	w.zeros(8)
	w.Last, r.End = r.LSN, w.End()
	w.Records = append(w.Records, r)
	return r
}

// zeros goes on to the next multiple of size.
func (w *WAL) zeros(size int) {
	w.Bytes = append(w.Bytes, make([]byte, -w.End()&wal.LSN(size-1))...)
}

// MainData puts the header of main data before it.
func MainData(data []byte) []byte {
	if len(data) < 256 {
		return append([]byte{255, byte(len(data))}, data...)
	}
	return append(binary.LittleEndian.AppendUint32([]byte{254}, uint32(len(data))), data...)
}

// Noise appends a record with a body of n bytes, of which nothing is decoded.
// No byte of it is zero, and about half of it can be compressed away.
func (w *WAL) Noise(n int) Record {
	body := make([]byte, n)
	var bits uint64
	for i := range body {
		if i%16 == 0 {
			bits = w.rnd.Uint64()
		}
		body[i] = "0123456789abcdef"[bits&15]
		bits >>= 4
	}
	return w.Add(RmgrHeap, 0, w.XID, body)
}

// Commit appends a commit of transaction XID, 40 bytes long.
func (w *WAL) Commit(at time.Time) Record {
	return w.Add(RmgrXact, 0x00, w.XID, MainData(timestamp(at)))
}

// RestorePoint appends what pg_create_restore_point writes.
func (w *WAL) RestorePoint(at time.Time, name string) Record {
	data := append(timestamp(at), make([]byte, 64)...)
	copy(data[8:], name)
	return w.Add(RmgrXLOG, 0x70, 0, MainData(data))
}

// Tablespace appends what CREATE TABLESPACE writes.
func (w *WAL) Tablespace(oid uint32, path string) Record {
	data := binary.LittleEndian.AppendUint32(nil, oid)
	return w.Add(RmgrTablespace, 0x00, 0, MainData(append(append(data, path...), 0)))
}

func timestamp(at time.Time) []byte {
	return binary.LittleEndian.AppendUint64(nil, uint64(at.Sub(Epoch()).Microseconds()))
}

// Switch ends the segment, as pg_switch_wal does.
func (w *WAL) Switch() Record {
	r := w.Add(RmgrXLOG, 0x40, 0, nil)
	w.zeros(int(w.Config.SegmentSize))
	return r
}

// Tear appends the first n bytes of a record of total bytes and fills the page
// with zeros. The next page overwrites the record, which [WAL.Mend] has to say.
func (w *WAL) Tear(total, n int) Record {
	r := w.Part(RmgrHeap, 0, 0, make([]byte, total-headerSize), n)
	w.zeros(pageSize)
	w.Void = r.LSN
	return r
}

// Mend appends the record that declares the torn one at void void.
func (w *WAL) Mend(void wal.LSN) Record {
	w.Page(0)
	w.Void = 0
	data := binary.LittleEndian.AppendUint64(nil, uint64(void))
	return w.Add(RmgrXLOG, 0xD0, 0, MainData(append(data, make([]byte, 8)...)))
}

// FillPage appends noise until left bytes, a multiple of 8, are left of the
// page.
func (w *WAL) FillPage(left int) {
	w.Page(0)
	target := w.End()&^(pageSize-1) + pageSize - wal.LSN(left)
	for w.End() < target {
		room := int(target - w.End())
		if room > 4000 {
			room = 2000
		}
		w.Noise(room - headerSize)
	}
}

// Fill appends commits, a second apart, among noise of all lengths up to 64
// KiB, until the end is at upTo or behind.
func (w *WAL) Fill(upTo wal.LSN) {
	for w.End() < upTo {
		w.Noise(int(w.rnd.Uint32() >> (16 + w.rnd.IntN(16))))
		w.Now = w.Now.Add(time.Second)
		w.XID++
		w.Commit(w.Now)
	}
}

// FillSegments is [WAL.Fill] until there are n whole segments.
func (w *WAL) FillSegments(n int) { w.Fill(w.Config.Start + wal.LSN(n)*wal.LSN(w.Config.SegmentSize)) }
