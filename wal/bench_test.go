package wal_test

import (
	"testing"

	"github.com/walstream/walstream/wal"
)

// BenchmarkScanner reads 16 MiB that look like the WAL of short transactions:
// a few small records and a commit each, now and then a full-page image.
func BenchmarkScanner(b *testing.B) {
	w := build(15)
	for i := 0; len(w.buf) < 16<<20; i++ {
		w.heap(130)
		w.heap(48)
		w.heap(40)
		if i%20 == 0 {
			w.heap(8000)
		}
		w.record(rmgrXact, 0x80, 700, main(xactBody{xinfo: 1 << 3, messages: 2}.bytes(15)))
	}
	b.SetBytes(int64(len(w.buf)))
	b.ReportAllocs()
	for b.Loop() {
		z := wal.NewSummarizer(w.cfg)
		if err := z.Feed(w.buf); err != nil {
			b.Fatal(err)
		}
		if sum, _, err := z.Finish(); err != nil || sum.Commits == 0 {
			b.Fatal(sum, err)
		}
	}
}
