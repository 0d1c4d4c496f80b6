package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/wal"
)

// branch is the timeline of the server and its history. Two servers of one
// cluster that were promoted apart from each other may give their timelines
// the same number, and the WAL in the archive can only be that of one.
type branch struct {
	archive  *archive.Archive
	timeline wal.Timeline
	history  []byte // nil on timeline 1
}

// fetch asks the server, and compares with the archive if that knows the
// timeline already.
func (b *branch) fetch(ctx context.Context, conn *pg.Conn, tli wal.Timeline) (err error) {
	b.timeline = tli
	if tli > 1 {
		if b.history, err = conn.TimelineHistory(ctx, tli); err != nil {
			return err
		}
	}
	if err = b.check(ctx, tli); errors.Is(err, archive.ErrNotExist) {
		return nil
	}
	return err
}

// check fails unless the archive has WAL of timeline tli, on which the backup
// ended, from this server.
func (b *branch) check(ctx context.Context, tli wal.Timeline) error {
	if tli != b.timeline {
		return fmt.Errorf("the server went from timeline %s to %s meanwhile", b.timeline, tli)
	}
	_, have, err := b.archive.History(ctx, tli)
	if err == nil && !bytes.Equal(have, b.history) {
		return hint.Errorf("give the server from which walstream receives: walstream backup -d 'host=…'",
			"the server is on a timeline %s that is not the one of archive %s: %q, there %q", tli, b.archive.Store(), b.history, have)
	}
	return err
}
