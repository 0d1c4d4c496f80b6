package wal_test

import (
	"testing"

	"github.com/walstream/walstream/internal/testkit/walgen"
	"github.com/walstream/walstream/wal"
)

// BenchmarkScanner reads 16 MiB that look like the WAL of short transactions:
// a few small records and a commit each, now and then a full-page image.
func BenchmarkScanner(b *testing.B) {
	w := build(15)
	for i := 0; len(w.Bytes) < 16<<20; i++ {
		w.Noise(130)
		w.Noise(48)
		w.Noise(40)
		if i%20 == 0 {
			w.Noise(8000)
		}
		w.Add(walgen.RmgrXact, 0x80, 700, walgen.MainData(xactBody{xinfo: 1 << 3, messages: 2}.bytes(15)))
	}
	b.SetBytes(int64(len(w.Bytes)))
	b.ReportAllocs()
	for b.Loop() {
		z := wal.NewSummarizer(w.Config)
		if _, err := z.Write(w.Bytes); err != nil {
			b.Fatal(err)
		}
		if sum, _, err := z.Finish(); err != nil || sum.Commits == 0 {
			b.Fatal(sum, err)
		}
	}
}
