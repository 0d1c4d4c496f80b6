package segment_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

func TestNames(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	for _, c := range []struct {
		name string
		size segment.Size
		id   segment.ID
	}{
		// As pg_walfile_name gives them for these sizes.
		{"000000010000000000000001", 16 * mib, segment.ID{Timeline: 1, No: 1}},
		{"0000000100000000000000FF", 16 * mib, segment.ID{Timeline: 1, No: 255}},
		{"000000010000000100000000", 16 * mib, segment.ID{Timeline: 1, No: 256}},
		{"0000000A00000A15000000F3", 16 * mib, segment.ID{Timeline: 10, No: 0xA15F3}},
		{"000000010000000000000FFF", mib, segment.ID{Timeline: 1, No: 4095}},
		{"000000010000000100000000", mib, segment.ID{Timeline: 1, No: 4096}},
		{"00000001000000000000003F", 64 * mib, segment.ID{Timeline: 1, No: 63}},
		{"000000010000000100000000", 64 * mib, segment.ID{Timeline: 1, No: 64}},
		{"000000010000000000000003", gib, segment.ID{Timeline: 1, No: 3}},
		{"000000010000000100000000", gib, segment.ID{Timeline: 1, No: 4}},
		{"FFFFFFFFFFFFFFFF00000003", gib, segment.ID{Timeline: 1<<32 - 1, No: 1<<34 - 1}},
	} {
		if got := c.id.Name(c.size); got != c.name {
			t.Errorf("%+v of size %d is named %s, want %s", c.id, c.size, got, c.name)
		}
		if got, err := segment.ParseName(c.name, c.size); err != nil || got != c.id {
			t.Errorf("ParseName(%s, %d) = %+v, %v; want %+v", c.name, c.size, got, err, c.id)
		}
	}
}

func TestParseNameRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		size segment.Size
	}{
		{"", 1 << 24},
		{"00000001000000000000000", 1 << 24},
		{"0000000100000000000000010", 1 << 24},
		{"00000001000000000000000a", 1 << 24},
		{"00000001000000000000000G", 1 << 24},
		{"000000010000000000000100", 1 << 24}, // beyond 4 GiB
		{"000000010000000000000040", 1 << 26},
		{"000000010000000000000004", 1 << 30},
		{"000000010000000000001000", 1 << 20},
		{"000000000000000000000001", 1 << 24}, // timeline 0
		{"+00000010000000000000001", 1 << 24},
		{"000000010000000000000001.partial", 1 << 24},
		{"00000002.history", 1 << 24},
		{"000000010000000000000001", 0},
		{"000000010000000000000001", 1<<24 + 1},
		{"000000010000000000000001", 1 << 19},
		{"000000010000000000000000", 1 << 31},
	} {
		if id, err := segment.ParseName(c.name, c.size); err == nil {
			t.Errorf("ParseName(%q, %d) = %+v", c.name, c.size, id)
		}
	}
}

func TestSizeArithmetic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := segment.Size(1) << rapid.IntRange(20, 30).Draw(t, "size bits")
		lsn := wal.LSN(rapid.Uint64Range(0, 1<<62).Draw(t, "lsn"))
		tli := wal.Timeline(rapid.Uint32Range(1, 1<<32-1).Draw(t, "timeline"))
		id := segment.At(tli, lsn, size)
		switch {
		case !size.Valid():
			t.Fatalf("%d is a valid size", size)
		case id.Start(size) > lsn || id.End(size) <= lsn:
			t.Fatalf("%s is not in %s..%s", lsn, id.Start(size), id.End(size))
		case size.Floor(lsn) != id.Start(size):
			t.Fatalf("Floor %s, start %s", size.Floor(lsn), id.Start(size))
		case size.Floor(lsn)+wal.LSN(size.Offset(lsn)) != lsn:
			t.Fatalf("Floor %s and Offset %d do not add up to %s", size.Floor(lsn), size.Offset(lsn), lsn)
		case size.Ceil(lsn) < lsn || size.Ceil(lsn)-lsn >= wal.LSN(size) || size.Offset(size.Ceil(lsn)) != 0:
			t.Fatalf("Ceil(%s) = %s", lsn, size.Ceil(lsn))
		case id.Next().Start(size) != id.End(size) || id.Next().Timeline != tli:
			t.Fatalf("Next of %+v is %+v", id, id.Next())
		}
		if lsn < 1<<62 { // the name's middle part has 32 bits
			if back, err := segment.ParseName(id.Name(size), size); err != nil || back != id {
				t.Fatalf("%s reads back as %+v, %v", id.Name(size), back, err)
			}
		}
		if next := id.Next().Name(size); next <= id.Name(size) {
			t.Fatalf("%s does not sort behind %s", next, id.Name(size))
		}
	})
}

func FuzzParseName(f *testing.F) {
	f.Add("000000010000000000000001", uint32(1<<24))
	f.Add("0000000A00000A15000000F3", uint32(1<<20))
	f.Add("000000010000000000000004", uint32(1<<30))
	f.Fuzz(func(t *testing.T, name string, size uint32) {
		id, err := segment.ParseName(name, segment.Size(size))
		if err == nil && id.Name(segment.Size(size)) != name {
			t.Errorf("%q is read as %+v, which is named %s", name, id, id.Name(segment.Size(size)))
		}
	})
}
