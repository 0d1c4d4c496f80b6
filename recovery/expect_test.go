package recovery

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/internal/testkit/memstore"
)

// slow is a store that takes 100 ms to answer, and 1 ms for each byte.
type slow struct {
	archive.Store
	t *testing.T
}

func (s slow) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if n < 0 || n > sampleSize {
		s.t.Errorf("%d bytes of %s are read for a sample", n, name)
	}
	time.Sleep(100 * time.Millisecond)
	r, err := s.Store.Get(ctx, name, off, n)
	return slowBody{r}, err
}

type slowBody struct{ io.ReadCloser }

func (b slowBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), 10)])
	time.Sleep(time.Duration(n) * time.Millisecond)
	return n, err
}

// What a restore takes is reckoned from how fast samples are read.
func TestExpect(t *testing.T) {
	store := memstore.New()
	if _, err := archive.Pin(t.Context(), store, testCluster); err != nil {
		t.Fatal(err)
	}
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &Plan{WAL: []Range{{Segments: 30, StoredBytes: 40_000}, {Segments: 10, StoredBytes: 10_000}}}
	for i, size := range []int{1000, 2000, 500} {
		noise := make([]byte, size)
		rand.NewChaCha8([32]byte{}).Read(noise)
		body := enc.EncodeAll(noise, nil)
		part := backup.Part{Name: backup.PartName("20261122T010003Z", i+1), StoredSize: int64(len(body))}
		if err := store.Put(t.Context(), part.Name, bytes.NewReader(body)); err != nil {
			t.Fatal(err)
		}
		p.Backup.Parts = append(p.Backup.Parts, part)
		p.Backup.StoredBytes += part.StoredSize
	}
	all := float64(p.Backup.StoredBytes)
	for jobs, want := range map[int]Expected{
		0: {0.3 + all/1000, 1 + 50},
		1: {0.3 + all/1000, 1 + 50},
		2: {0.15 + all/1000*2/3, 1 + 50*2.0/3},
		8: {0.1 + all/1000*4/7, 1 + 50*4.0/7},
	} {
		synctest.Test(t, func(t *testing.T) {
			a, err := archive.Open(t.Context(), slow{store, t})
			if err != nil {
				t.Fatal(err)
			}
			got, err := p.Expect(t.Context(), RestoreConfig{Source: Source{Archive: a}, Jobs: jobs})
			if err != nil || math.Abs(got.BackupSeconds/want.BackupSeconds-1) > 0.02 || math.Abs(got.WALSeconds/want.WALSeconds-1) > 0.02 {
				t.Errorf("%d at a time: %+v, %v, want %+v", jobs, got, err, want)
			}
		})
	}
	a, err := archive.Open(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	p.Backup.Parts[0].Name += "x"
	if e, err := p.Expect(t.Context(), RestoreConfig{Source: Source{Archive: a}}); !errors.Is(err, archive.ErrNotExist) {
		t.Errorf("with a part that is missing: %+v, %v", e, err)
	}
}
