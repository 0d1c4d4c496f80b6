package recovery

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// keepForks puts each segment in which a timeline ends into pg_wal under the name
// that it has on that one, too. A transaction that was prepared in it and is still
// open at the fork PostgreSQL reads from there (StandbyRecoverPreparedTransactions
// of twophase.c) and stops if it cannot: restore_command is not asked. Of a
// timeline that begins and ends in one segment the plan has no range.
func (r *restore) keepForks(ctx context.Context) error {
	if r.Timeline == 1 {
		return nil
	}
	size := r.Identity.SegmentSize
	cfg := WalGetConfig{
		Open:  func(context.Context) (*archive.Archive, error) { return r.cfg.Source.Archive, nil },
		Spool: r.side, RetryFor: -1, Log: r.cfg.Log,
	}
	if r.cfg.Standby != nil {
		cfg.Spool = r.cfg.Source.Spool // nothing of it was copied
	}
	g := &walGet{cfg: cfg}
	if err := g.open(ctx); err != nil {
		return err
	}
	h, _, err := g.findHistory(ctx, r.Timeline)
	if err != nil {
		return err
	}
	for _, old := range h.Ancestors {
		id := h.SegmentAt(old.End, size)
		if required, _ := r.Required(id); !required || old.End <= r.Backup.StartLSN || old.End%wal.LSN(size) == 0 {
			continue
		}
		name := filepath.Join("pg_wal", segment.At(old.Timeline, old.End, size).Name(size))
		if out, err := WalGet(ctx, cfg, id.Name(size), filepath.Join(r.cfg.Dir, name)); out != Delivered {
			return fmt.Errorf("the segment in which timeline %s ends: %w", old.Timeline, err)
		}
		if r.owner != nil {
			if err := r.data().Chown(name, r.owner.UID, r.owner.GID); err != nil {
				return err
			}
		}
	}
	return nil
}
