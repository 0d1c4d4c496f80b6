package wal_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/walstream/walstream/internal/testkit/walgen"
	"github.com/walstream/walstream/wal"
	"pgregory.net/rapid"
)

// TestAnyWAL writes any valid sequence of records and reads it page by page,
// with a new scanner at any of them: every record must come out.
func TestAnyWAL(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := build(rapid.SampledFrom([]int{13, 15, 18}).Draw(t, "major"))
		for range rapid.IntRange(1, 30).Draw(t, "records") {
			anyRecord(t, b)
		}
		var got []walgen.Record
		var s *wal.Scanner
		for at := 0; at < len(b.Bytes); at += 8192 {
			// A scan cannot begin in the zeros behind an XLOG_SWITCH.
			if s == nil || b.Bytes[at] != 0 && rapid.Bool().Draw(t, "new scanner") {
				s = resumed(t, b, at, s, &got)
			}
			if err := s.Feed(b.Bytes[at:min(len(b.Bytes), at+8192)]); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(b.Records, got); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
}

// anyRecord appends a record, or what else WAL may hold.
func anyRecord(t *rapid.T, b *walgen.WAL) {
	switch n := rapid.IntRange(0, 20_000).Draw(t, "length"); rapid.IntRange(0, 7).Draw(t, "kind") {
	case 0, 1:
		b.Noise(n)
	case 2:
		b.Noise(n % 50)
	case 3:
		b.Commit(at(int64(n)))
	case 4: // up to a place near the end of the page
		left := n % 12 * 8
		if room := 8192 - int(b.End()%8192); room-left >= 24 && room < 8192 {
			b.FillPage(left)
		}
	case 5:
		body := xactBody{xinfo: 1<<1 | 1<<3 | 1<<4, subxacts: n, messages: n % 7, twophase: 5}
		b.Add(walgen.RmgrXact, 0xB0, 0, walgen.MainData(body.bytes(b.Config.Major)))
	case 6:
		b.Switch()
	case 7: // torn where recovery sees it: behind as much of the header as the page holds
		if room := 8192 - int(b.End()%8192); room < 8192 {
			torn := b.Tear(30_000, min(room, 24+n))
			b.Mend(torn.LSN)
		}
	}
}

// resumed makes a scanner for the page at the given offset, with the carry of
// the one before, as it comes out of an archive.
func resumed(t *rapid.T, b *walgen.WAL, at int, before *wal.Scanner, got *[]walgen.Record) *wal.Scanner {
	cfg := b.Config
	cfg.Start += wal.LSN(at)
	cfg.Major = 0
	cfg.OnRecord = func(r *wal.Record) error {
		*got = append(*got, walgen.Record{LSN: r.LSN, End: r.End})
		return nil
	}
	if before != nil && before.Carry() != nil {
		text, err := json.Marshal(before.Carry())
		if err != nil {
			t.Fatal(err)
		}
		cfg.Carry = new(wal.Carry)
		if err := json.Unmarshal(text, cfg.Carry); err != nil {
			t.Fatal(err)
		}
	} else if len(*got) > 0 {
		cfg.Prev = (*got)[len(*got)-1].LSN
	}
	return wal.NewScanner(cfg)
}
