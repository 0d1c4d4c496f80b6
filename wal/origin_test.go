package wal_test

import (
	"testing"

	"github.com/walstream/walstream/internal/testkit/walgen"
	"github.com/walstream/walstream/wal"
)

func TestReadOrigin(t *testing.T) {
	for major := 13; major <= 18; major++ {
		cfg := wal.ScanConfig{Start: 5 << 20, Timeline: 3, SystemIdentifier: 7, SegmentSize: 1 << 20, Major: major}
		w := walgen.New(cfg, 1)
		w.Page(0)
		got, err := wal.ReadOrigin(w.Bytes)
		if want := (wal.Origin{Major: major, SystemIdentifier: 7, SegmentSize: 1 << 20, Timeline: 3, Start: 5 << 20}); err != nil || got != want {
			t.Errorf("PostgreSQL %d: %+v, %v", major, got, err)
		}
		for i, b := range map[int]byte{0: 0xFF, 2: 0x00, 4: 0, 8: 1, 32: 3, 36: 1} { // magic, info, timeline, address, sizes
			bad := append([]byte(nil), w.Bytes[:wal.OriginSize]...)
			if bad[i] = b; i == 4 {
				copy(bad[4:8], make([]byte, 4))
			}
			if got, err := wal.ReadOrigin(bad); err == nil {
				t.Errorf("with byte %d set to %02X: %+v", i, b, got)
			}
		}
	}
	for _, head := range [][]byte{nil, make([]byte, 39), make([]byte, 40)} {
		if got, err := wal.ReadOrigin(head); err == nil {
			t.Errorf("%d zeros: %+v", len(head), got)
		}
	}
}
