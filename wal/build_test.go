package wal_test

import (
	"encoding/binary"
	"testing"

	"github.com/walstream/walstream/internal/testkit/walgen"
	"github.com/walstream/walstream/wal"
)

const (
	testSegment = 32 << 10 // four pages; PostgreSQL's smallest is 1 MiB
	testSystem  = 7_000_000_000_000_000_001
	testStart   = wal.LSN(0x5000000)
)

var (
	majors = []int{13, 14, 15, 16, 17, 18}
	le     = binary.LittleEndian
)

func build(major int) *walgen.WAL {
	b := walgen.New(wal.ScanConfig{
		Start: testStart, Timeline: 1, SystemIdentifier: testSystem, SegmentSize: testSegment, Major: major,
	}, 1)
	b.Last = testStart - 64 // the record before the start; a first record cannot have none
	return b
}

// varied is WAL with records in every position relative to page borders:
// headers and bodies that cross them, ends exactly at them, records of several
// pages and segments.
func varied(major int) *walgen.WAL {
	b := build(major)
	b.Commit(at(1))
	b.FillPage(16)
	b.Noise(100) // its header crosses
	b.FillPage(8)
	b.Add(walgen.RmgrXact, 0x20, 701, walgen.MainData(make([]byte, 8))) // so does the abort's
	b.FillPage(24)
	b.Noise(5) // only its body crosses
	b.FillPage(40)
	b.Noise(16) // ends at the border
	b.Noise(1)
	b.FillPage(64)
	b.Noise(3 * 8192)
	b.Noise(2*testSegment + 5)
	b.Commit(at(2))
	b.FillPage(24)
	b.Add(walgen.RmgrHeap, 0, 0, nil)
	b.Noise(333)
	return b
}

// scanned is what became of a scan.
type scanned struct {
	Records []walgen.Record
	End     wal.LSN
	Carry   *wal.Carry
	Unknown bool
}

// scan feeds p in one piece.
func scan(cfg wal.ScanConfig, p []byte) (scanned, error) {
	var got scanned
	cfg.OnRecord = func(r *wal.Record) error {
		got.Records = append(got.Records, walgen.Record{LSN: r.LSN, End: r.End})
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
