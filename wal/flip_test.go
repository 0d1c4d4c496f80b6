package wal_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/walstream/walstream/internal/testkit/walgen"
	"github.com/walstream/walstream/wal"
)

// TestFlippedBits flips single bits of valid WAL. The scan must report exactly
// the records before the damage: those that end at or before the damaged
// record or page.
//
// The format itself has no check of: the four bytes behind xlp_rem_len and
// those that align records; xlp_rem_len of a page that continues nothing;
// XLP_BKP_REMOVABLE. There the scan must not notice anything.
func TestFlippedBits(t *testing.T) {
	b := varied(15)
	b.Switch()
	b.Noise(100)
	whole := mustScan(t, b.Config, b.Bytes)
	trials := 0
	for i := range b.Bytes {
		header := i%8192 < 24 || i%testSegment < 40 || inHeader(b, i)
		for bit := range 8 {
			if !header && (i+bit)%197 != 0 {
				continue // bodies and zeros: the CRC sees all bits alike
			}
			trials++
			b.Bytes[i] ^= 1 << bit
			got, err := scan(b.Config, b.Bytes)
			b.Bytes[i] ^= 1 << bit
			want, seen := damaged(b, i, bit)
			// A last record that seems longer than it is only lacks its end.
			last := testStart+wal.LSN(i) >= b.Records[len(b.Records)-1].LSN
			if seen != (err != nil) && !(seen && last) {
				t.Fatalf("bit %d of the byte at %s: error %v", bit, testStart+wal.LSN(i), err)
			}
			if !seen {
				want = whole.Records
			}
			if len(want) != len(got.Records) {
				t.Fatalf("bit %d of the byte at %s (-want +got):\n%s", bit, testStart+wal.LSN(i), cmp.Diff(want, got.Records))
			}
		}
	}
	if trials < 3000 {
		t.Errorf("weak test: %d trials", trials)
	}
}

// inHeader says whether byte i is of a record header that lies in one page.
func inHeader(b *walgen.WAL, i int) bool {
	at := testStart + wal.LSN(i)
	for _, w := range b.Records {
		if at >= w.LSN && at < w.LSN+24 {
			return true
		}
	}
	return false
}

// damaged is which records are whole when a bit of byte i is not right, and
// whether the format lets a reader see it.
func damaged(b *walgen.WAL, i, bit int) (whole []walgen.Record, seen bool) {
	at := testStart + wal.LSN(i)
	offset := i % 8192
	long := i%testSegment < 40
	continues := b.Bytes[i-offset+2]&1 != 0
	switched := b.Records[len(b.Records)-2]
	if at >= switched.End && at < b.Records[len(b.Records)-1].LSN-40 {
		return b.Records[:len(b.Records)-1], true // zeros behind the switch
	}
	switch {
	case offset == 2 && bit == 2, offset >= 20 && offset < 24:
		return nil, false
	case offset >= 16 && offset < 20 && !continues:
		return nil, false
	}
	if offset < 24 || long {
		at -= wal.LSN(offset)
	}
	for _, w := range b.Records {
		if w.End > at {
			return whole, at < w.LSN || !padding(b, w, at)
		}
		whole = append(whole, w)
	}
	return whole, true
}

// padding says whether at is of the bytes that align the end of w.
func padding(b *walgen.WAL, w walgen.Record, at wal.LSN) bool {
	length := le.Uint32(b.Bytes[w.LSN-testStart:])
	return at >= w.End-wal.LSN(-length&7)
}
