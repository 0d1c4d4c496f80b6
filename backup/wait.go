package backup

import (
	"context"
	"fmt"
	"time"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/segment"
)

// walPoll is how often the archive is asked for the WAL of a backup.
const walPoll = time.Second

// segments are the WAL segments in the manifest's WAL ranges, oldest first.
// Where a timeline forked off inside a segment, recovery reads that segment on
// the new timeline.
func (m *Manifest) segments(size segment.Size) []archive.Range {
	var needed []archive.Range
	for i := len(m.WALRanges) - 1; i >= 0; i-- {
		r := m.WALRanges[i]
		first := uint64(size.Floor(r.Start)) / uint64(size)
		end := uint64(size.Floor(r.End)) / uint64(size)
		if i == 0 {
			end = uint64(size.Ceil(r.End)) / uint64(size)
		}
		if first < end {
			needed = append(needed, archive.Range{Timeline: r.Timeline, First: first, Last: end - 1})
		}
	}
	return needed
}

// waitForWAL waits until the archive holds all segments needed, whole. An
// archive that cannot be asked is asked again.
func waitForWAL(ctx context.Context, cfg Config, needed []archive.Range) error {
	timeout := time.NewTimer(cfg.WALTimeout)
	defer timeout.Stop()
	poll := time.NewTicker(walPoll)
	defer poll.Stop()
	for {
		missing, err := firstMissing(ctx, cfg.Archive, needed)
		if err == nil && missing == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the WAL of the backup in the archive: %w", context.Cause(ctx))
		case <-timeout.C:
			if err != nil {
				return fmt.Errorf("look for the WAL of the backup in the archive: %w", err)
			}
			return hint.Errorf("is the receiver running and archiving? see: walstream status",
				"WAL segment %s did not come into the archive within %s", missing, cfg.WALTimeout)
		case <-poll.C:
		}
	}
}

// firstMissing names the first segment that the archive does not hold whole.
func firstMissing(ctx context.Context, a *archive.Archive, needed []archive.Range) (string, error) {
	for _, r := range needed {
		missing, err := a.Missing(ctx, r.Timeline, r.First, r.Last)
		if err != nil {
			return "", err
		}
		if len(missing) > 0 {
			id := segment.ID{Timeline: r.Timeline, No: missing[0].First}
			return id.Name(a.Identity().SegmentSize), nil
		}
	}
	return "", nil
}
