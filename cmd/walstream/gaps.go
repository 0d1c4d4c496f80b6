package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// gapView is a recorded gap.
type gapView struct {
	Timeline wal.Timeline `json:"timeline"`
	From     wal.LSN      `json:"from_lsn"`
	To       wal.LSN      `json:"to_lsn"`
	Segments uint64       `json:"segments"` // that are not there whole
	// Closed says that a backup was taken behind it, so that everything
	// since can be restored, that the WAL came into the archive after all, or
	// that the server has left that branch.
	Closed bool `json:"closed"`
}

// findGaps lists the recorded gaps of an archive; not nil without an error.
func findGaps(ctx context.Context, arch *archive.Archive) ([]gapView, error) {
	gaps, err := arch.Gaps(ctx)
	views := make([]gapView, len(gaps))
	if err != nil || len(gaps) == 0 {
		return views, err
	}
	timelines, err := arch.Timelines(ctx)
	if err != nil {
		return nil, err
	}
	h, _, err := arch.History(ctx, slices.Max(append(timelines, 1)))
	if err != nil && !errors.Is(err, archive.ErrNotExist) { // of imported WAL alone
		return nil, err
	}
	size := arch.Identity().SegmentSize
	for i, g := range gaps {
		first, last := segment.At(g.Timeline, g.From, size).No, segment.At(g.Timeline, g.To-1, size).No
		holes, err := arch.Missing(ctx, g.Timeline, first, last)
		if err != nil {
			return nil, err
		}
		views[i] = gapView{Timeline: g.Timeline, From: g.From, To: g.To,
			Closed: len(holes) == 0 || h.Timeline != 0 && h.SegmentAt(g.From, size).Timeline != g.Timeline}
		for _, h := range holes {
			views[i].Segments += h.Last - h.First + 1
		}
	}
	for c, err := range backup.List(ctx, arch) {
		if errors.As(err, new(*backup.UnusableError)) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for i := range views {
			g := &views[i]
			g.Closed = g.Closed || c.StartTimeline >= g.Timeline && c.StartLSN >= g.To
		}
	}
	return views, nil
}

// openGaps counts the segments of those that are not closed.
func openGaps(gaps []gapView) (segments uint64) {
	for _, g := range gaps {
		if !g.Closed {
			segments += g.Segments
		}
	}
	return segments
}

// covered is how far the archive holds WAL along history h, from pos on and
// without a hole. What a recorded gap explains is none: it will never come.
func covered(ctx context.Context, arch *archive.Archive, h segment.History, pos segment.Position) (wal.LSN, error) {
	gaps, err := arch.Gaps(ctx)
	if err != nil {
		return 0, err
	}
	size := arch.Identity().SegmentSize
	at := pos.LSN
	pass := func() {
		for _, g := range gaps { // in the order of their positions on each timeline
			if g.From <= at && at < g.To && h.SegmentAt(g.From, size).Timeline == g.Timeline {
				at = g.To
			}
		}
	}
	for tli := pos.Timeline; tli <= h.Timeline; tli++ {
		if _, onTheWay := h.StartOf(tli); !onTheWay {
			continue
		}
		for p, err := range arch.Pieces(ctx, tli, uint64(at)/uint64(size)) {
			if err != nil {
				return 0, err
			}
			start := p.ID.Start(size)
			if h.SegmentAt(start, size) != p.ID {
				continue
			}
			if pass(); start > at {
				return at, nil
			}
			if start+wal.LSN(p.From) <= at {
				at = max(at, start+wal.LSN(p.To))
			}
		}
		pass()
	}
	return at, nil
}

// archiveCovers is covered for the receiver: what it does not know for certain
// is an error.
func (d *daemon) archiveCovers(ctx context.Context, h segment.History, pos segment.Position) (wal.LSN, error) {
	arch, err := d.archiveOpen()
	if err != nil {
		return 0, err
	}
	return covered(ctx, arch, h, pos)
}

// onGap records a gap and has a backup taken behind it.
func (d *daemon) onGap(ctx context.Context, g segment.GapError, why error) error {
	arch, err := d.archiveOpen()
	if err != nil {
		return err
	}
	err = arch.PutGap(ctx, archive.Gap{Timeline: g.Timeline, From: g.Have, To: g.Got, Noticed: time.Now().UTC(), Reason: why.Error()})
	if err != nil {
		return err
	}
	wake(d.newGap)
	return nil
}

// closeGaps takes a base backup whenever there is a gap without one behind it,
// also one that an earlier process has recorded. It goes on until ctx ends.
func (d *daemon) closeGaps(ctx context.Context, arch *archive.Archive) error {
	const interval = time.Minute
	known := 0 // gaps that the last backup was taken for
	for {
		gaps, err := findGaps(ctx, arch)
		if err == nil {
			d.mu.Lock()
			d.gaps = gaps
			d.mu.Unlock()
		}
		var again <-chan time.Time
		open := openGaps(gaps)
		if open > 0 {
			again = time.After(interval) // somebody else may take one
		}
		if open > 0 && len(gaps) > known && d.conf.OnGap == "backup" {
			d.log.Warn().Uint64("missing_segments", open).Msg("taking a base backup: nothing behind a gap can be restored without one")
			if err = d.backUp(ctx, arch); err == nil {
				known = len(gaps)
				continue
			}
		}
		if err != nil && ctx.Err() == nil {
			d.log.Error().Err(err).Func(hint.Log(err)).Stringer("retry_in", interval).Msg("no base backup behind a gap yet")
			again = time.After(interval)
		}
		select {
		case <-ctx.Done():
			if open > 0 {
				d.log.Warn().Uint64("missing_segments", open).Msg("stopped without a base backup behind a gap; the next start goes on with that")
			}
			return nil
		case <-d.newGap:
		case <-again:
		}
	}
}

// backUp takes a backup, unless another receiver is at it.
func (d *daemon) backUp(ctx context.Context, arch *archive.Archive) error {
	return arch.WithLease(ctx, d.name, func(ctx context.Context) error {
		_, err := backup.Take(ctx, backup.Config{
			Server: server(d.conf, "backup"), Archive: arch, Label: "gap", Checkpoint: backup.Fast,
			Level: zstdLevel(d.conf.CompressionLevel), Log: d.log,
		})
		return err
	})
}
