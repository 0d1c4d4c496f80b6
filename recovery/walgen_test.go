package recovery

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"testing"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

var testCluster = segment.Identity{SystemIdentifier: 7, MajorVersion: 15, SegmentSize: testSize}

// generateWAL makes valid WAL of PostgreSQL 15 on timeline tli: count segments
// from number first on, in records that cross pages and segments.
func generateWAL(tli wal.Timeline, first uint64, count int) []byte {
	rnd := rand.New(rand.NewPCG(uint64(tli), first))
	start := segment.ID{Timeline: tli, No: first}.Start(testSize)
	var buf []byte
	var prev wal.LSN
	le := binary.LittleEndian
	page := func(rem int) {
		lsn := start + wal.LSN(len(buf))
		long := testSize.Offset(lsn) == 0
		var info uint16
		if rem > 0 {
			info |= 1
		}
		if long {
			info |= 2
		}
		h := le.AppendUint16(le.AppendUint16(nil, 0xD110), info)
		h = le.AppendUint64(le.AppendUint64(le.AppendUint32(h, uint32(tli)), uint64(lsn)), uint64(rem))
		if long {
			h = le.AppendUint32(le.AppendUint32(le.AppendUint64(h, testCluster.SystemIdentifier), uint32(testSize)), 8192)
		}
		buf = append(buf, h...)
	}
	for len(buf) < count*int(testSize) {
		if len(buf)%8192 == 0 {
			page(0)
		}
		lsn := start + wal.LSN(len(buf))
		body := make([]byte, 5+rnd.IntN(20_000))
		body[0] = 254 // XLR_BLOCK_ID_DATA_LONG
		le.PutUint32(body[1:], uint32(len(body)-5))
		rec := le.AppendUint64(le.AppendUint32(le.AppendUint32(nil, uint32(24+len(body))), 0), uint64(prev))
		rec = append(rec, 0, 21, 0, 0) // RM_LOGICALMSG_ID
		table := crc32.MakeTable(crc32.Castagnoli)
		rec = le.AppendUint32(rec, crc32.Update(crc32.Checksum(body, table), table, rec))
		rec = append(rec, body...)
		for rest := rec; len(rest) > 0; {
			if len(buf)%8192 == 0 {
				page(len(rest))
			}
			n := min(len(rest), 8192-len(buf)%8192)
			buf = append(buf, rest[:n]...)
			rest = rest[n:]
		}
		buf = append(buf, make([]byte, -len(buf)&7)...)
		prev = lsn
	}
	return buf[:count*int(testSize)]
}

func nth(wal []byte, i int) []byte { return wal[i*int(testSize) : (i+1)*int(testSize)] }

// store puts one segment, or with to the beginning of one, into an archive.
func store(t *testing.T, a *archive.Archive, id segment.ID, body []byte, to int64) {
	t.Helper()
	p := archive.Piece{ID: id, To: to, Tail: to < int64(testSize)}
	h, err := a.Describe(p, bytes.NewReader(body), nil)
	if err == nil {
		err = a.PutSegment(context.Background(), p, h, bytes.NewReader(body), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
}
