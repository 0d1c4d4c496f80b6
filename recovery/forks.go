package recovery

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// keepForks puts each segment in which a timeline begins into pg_wal under the
// name that it has on the timeline before, too. A transaction that was prepared
// in it and is still open at the fork PostgreSQL reads from there
// (StandbyRecoverPreparedTransactions of twophase.c) and stops if it cannot:
// restore_command is not asked.
func (r *restore) keepForks(ctx context.Context) error {
	size := r.Identity.SegmentSize
	cfg := WalGetConfig{
		Open:  func(context.Context) (*archive.Archive, error) { return r.cfg.Source.Archive, nil },
		Spool: r.side, RetryFor: -1, Log: r.cfg.Log,
	}
	if r.cfg.Standby != nil {
		cfg.Spool = r.cfg.Source.Spool // nothing of it was copied
	}
	for i, before := range r.WAL {
		if before.Switch%wal.LSN(size) == 0 { // the last range, or nothing is shared
			continue
		}
		name := filepath.Join("pg_wal", segment.At(before.Timeline, before.Switch, size).Name(size))
		if out, err := WalGet(ctx, cfg, r.WAL[i+1].First, filepath.Join(r.cfg.Dir, name)); out != Delivered {
			return fmt.Errorf("the segment in which timeline %s begins: %w", r.WAL[i+1].Timeline, err)
		}
		if r.owner != nil {
			if err := r.data().Chown(name, r.owner.UID, r.owner.GID); err != nil {
				return err
			}
		}
	}
	return nil
}
