package main

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// newer is the newest timeline that descends from h's and that the spool or
// the archive has seen, and which of them; zero when there is none. An archive
// that cannot be asked counts only while the spool holds nothing.
func (d *daemon) newer(ctx context.Context, h segment.History) (wal.Timeline, string, error) {
	spool := d.spoolOpen()
	known := slices.Sorted(maps.Keys(spool.Histories()))
	tli, err := newest(h, known, func(tli wal.Timeline) (segment.History, error) {
		h, _ := spool.History(tli)
		return h, nil
	})
	if err != nil || tli != 0 {
		return tli, "spool " + d.conf.SpoolDir, err
	}
	if tli, err = d.newerArchived(ctx, h); err != nil {
		if _, held := spool.Resume(); held {
			d.log.Warn().Err(err).Msg("whether the archive knows a newer timeline cannot be told")
			err = nil
		}
	}
	return tli, "archive " + d.conf.Archive, err
}

func (d *daemon) newerArchived(ctx context.Context, h segment.History) (wal.Timeline, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	arch, err := d.archiveOpen()
	if err != nil {
		arch, err = d.openArchive(ctx)
	}
	if err != nil {
		return 0, err
	}
	known, err := arch.Timelines(ctx)
	if err != nil {
		return 0, err
	}
	return newest(h, known, func(tli wal.Timeline) (segment.History, error) {
		h, _, err := arch.History(ctx, tli)
		if errors.Is(err, archive.ErrNotExist) { // only imported WAL
			err = nil
		}
		return h, err
	})
}

// newest is the newest of the known timelines, in ascending order, that
// descends from h's; zero when none does.
func newest(h segment.History, known []wal.Timeline, history func(wal.Timeline) (segment.History, error)) (wal.Timeline, error) {
	for _, tli := range slices.Backward(known) {
		if tli <= h.Timeline {
			break
		}
		other, err := history(tli)
		if err != nil {
			return 0, err
		}
		if _, descends := other.EndOf(h.Timeline); descends {
			return tli, nil
		}
	}
	return 0, nil
}
