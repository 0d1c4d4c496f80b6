package recovery

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/backup"
)

// sampleSize is how much is read of a part to learn how fast that goes.
const sampleSize = 4 << 20

// Expected is how long a restore takes at least: as fast as samples of the
// backup were read and unpacked just now. It knows neither the disk that is
// written to nor how long PostgreSQL replays.
type Expected struct {
	BackupSeconds float64 `json:"backup_seconds"` // to lay down the backup
	WALSeconds    float64 `json:"wal_seconds"`    // to fetch the WAL, while it is replayed
}

// sample is how long the beginning of a part took.
type sample struct {
	wait, took time.Duration // until the store answered, and from then on
	stored     int64
}

// Expect reads samples of as many parts as a restore reads at the same time,
// with one request each.
func (p *Plan) Expect(ctx context.Context, cfg RestoreConfig) (*Expected, error) {
	jobs := min(max(cfg.Jobs, 1), len(p.Backup.Parts))
	samples := make([]sample, jobs)
	group, some := errgroup.WithContext(ctx)
	for i, part := range p.Backup.Parts[:jobs] {
		group.Go(func() (err error) {
			samples[i], err = takeSample(some, cfg.Source.Archive, part)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("read samples of backup %s: %w", p.Backup.ID, err)
	}
	all := sample{took: time.Microsecond}
	for _, s := range samples {
		all = sample{all.wait + s.wait/time.Duration(jobs), max(all.took, s.took), all.stored + s.stored}
	}
	seconds := func(objects, atOnce int, stored int64) float64 {
		return all.wait.Seconds()*float64(objects)/float64(atOnce) + all.took.Seconds()*float64(stored)/float64(max(all.stored, 1))
	}
	var segments int
	var stored int64
	for _, r := range p.WAL {
		segments += r.Segments
		stored += r.StoredBytes
	}
	return &Expected{seconds(len(p.Backup.Parts), jobs, p.Backup.StoredBytes), seconds(segments, prefetchJobs, stored)}, nil
}

func takeSample(ctx context.Context, a *archive.Archive, part backup.Part) (s sample, err error) {
	began := time.Now()
	body, err := a.Store().Get(ctx, part.Name, 0, sampleSize)
	if err != nil {
		return s, err
	}
	defer body.Close()
	s.wait = time.Since(began)
	stored := &counter{r: io.TeeReader(body, sha256.New()), progress: &progress{}}
	packed, err := a.Unseal(part.Name, stored)
	if err != nil {
		return s, err
	}
	dec, err := zstd.NewReader(packed, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return s, err
	}
	defer dec.Close()
	_, _ = io.Copy(io.Discard, dec) // the sample ends somewhere
	s.took, s.stored = time.Since(began)-s.wait, stored.n
	return s, nil
}
