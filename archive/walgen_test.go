package archive_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

const testSize = segment.MinSize

var testCluster = segment.Identity{SystemIdentifier: 7_000_000_000_000_000_001, MajorVersion: 15, SegmentSize: testSize}

// walgen writes valid WAL of PostgreSQL 15 from the start of a segment on.
type walgen struct {
	tli   wal.Timeline
	start wal.LSN
	prev  wal.LSN
	buf   []byte
	rnd   *rand.Rand
	xid   uint32
	now   time.Time
}

func newWAL(tli wal.Timeline, first uint64, seed uint64) *walgen {
	return &walgen{
		tli: tli, start: segment.ID{Timeline: tli, No: first}.Start(testSize), rnd: rand.New(rand.NewPCG(seed, 7)),
		xid: 700, now: time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC),
	}
}

func (g *walgen) pos() wal.LSN { return g.start + wal.LSN(len(g.buf)) }

// write lays bytes down with page headers before them where they are due.
func (g *walgen) write(p []byte, continued bool) {
	for len(p) > 0 {
		if g.pos()%8192 == 0 {
			g.pageHeader(len(p), continued)
		}
		n := min(len(p), int(8192-g.pos()%8192))
		g.buf = append(g.buf, p[:n]...)
		p, continued = p[n:], true
	}
}

func (g *walgen) pageHeader(rem int, continued bool) {
	var info uint16
	if continued {
		info |= 1
	} else {
		rem = 0
	}
	long := testSize.Offset(g.pos()) == 0
	if long {
		info |= 2
	}
	h := binary.LittleEndian.AppendUint16(nil, 0xD110)
	h = binary.LittleEndian.AppendUint16(h, info)
	h = binary.LittleEndian.AppendUint32(h, uint32(g.tli))
	h = binary.LittleEndian.AppendUint64(h, uint64(g.pos()))
	h = binary.LittleEndian.AppendUint64(h, uint64(rem))
	if long {
		h = binary.LittleEndian.AppendUint64(h, testCluster.SystemIdentifier)
		h = binary.LittleEndian.AppendUint32(h, uint32(testSize))
		h = binary.LittleEndian.AppendUint32(h, 8192)
	}
	g.buf = append(g.buf, h...)
}

// record writes one record and returns its start.
func (g *walgen) record(rmgr, info byte, xid uint32, main []byte) wal.LSN {
	if g.pos()%8192 == 0 {
		g.pageHeader(0, false)
	}
	lsn := g.pos()
	var body []byte
	if len(main) > 0 {
		body = append(binary.LittleEndian.AppendUint32([]byte{254}, uint32(len(main))), main...)
	}
	h := binary.LittleEndian.AppendUint32(nil, uint32(24+len(body)))
	h = binary.LittleEndian.AppendUint32(h, xid)
	h = binary.LittleEndian.AppendUint64(h, uint64(g.prev))
	h = append(h, info, rmgr, 0, 0)
	table := crc32.MakeTable(crc32.Castagnoli)
	h = binary.LittleEndian.AppendUint32(h, crc32.Update(crc32.Checksum(body, table), table, h))
	g.write(append(h, body...), false)
	for g.pos()%8 != 0 {
		g.buf = append(g.buf, 0)
	}
	g.prev = lsn
	return lsn
}

var pgEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func (g *walgen) commit(at time.Time) wal.LSN {
	g.xid++
	return g.record(1, 0, g.xid, binary.LittleEndian.AppendUint64(nil, uint64(at.Sub(pgEpoch).Microseconds())))
}

func (g *walgen) restorePoint(name string) {
	main := binary.LittleEndian.AppendUint64(nil, uint64(g.now.Sub(pgEpoch).Microseconds()))
	g.record(0, 0x70, 0, append(main, append([]byte(name), make([]byte, 64-len(name))...)...))
}

// noise writes a record of no interest.
func (g *walgen) noise(n int) {
	main := make([]byte, n)
	for i := range n / 2 { // the other half compresses well
		main[i] = byte(g.rnd.Uint32())
	}
	g.record(21, 0, 0, main)
}

// switchWAL is pg_switch_wal.
func (g *walgen) switchWAL() {
	g.record(0, 0x40, 0, nil)
	rest := testSize.Ceil(g.pos()) - g.pos()
	g.buf = append(g.buf, make([]byte, rest)...)
}

// fill writes commits among noise until n segments are full, and cuts there.
func (g *walgen) fill(n int) {
	for want := n * int(testSize); len(g.buf) < want; {
		g.noise(g.rnd.IntN(30_000))
		g.now = g.now.Add(time.Second)
		g.commit(g.now)
	}
}

// segment is the i-th segment, as a piece and its bytes.
func (g *walgen) segment(i int) (archive.Piece, []byte) {
	id := segment.At(g.tli, g.start, testSize)
	id.No += uint64(i)
	return archive.Piece{ID: id, To: int64(testSize)}, g.buf[i*int(testSize):][:testSize]
}

// tail is the first to bytes of the i-th segment.
func (g *walgen) tail(i int, to int64) (archive.Piece, []byte) {
	p, data := g.segment(i)
	p.Tail, p.To = true, to
	return p, data[:to]
}

func newArchive(t testing.TB) *archive.Archive {
	t.Helper()
	a, err := archive.Pin(t.Context(), archive.NewMem(), testCluster)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// putPiece describes and stores a piece and returns its header.
func putPiece(t *testing.T, a *archive.Archive, p archive.Piece, data []byte, before *archive.Header) *archive.Header {
	t.Helper()
	h, err := a.Describe(p, bytes.NewReader(data), before)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.PutSegment(t.Context(), p, h, bytes.NewReader(data), 0); err != nil {
		t.Fatal(err)
	}
	return h
}
