package segment

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/walstream/walstream/wal"
)

// FullError says that the disk of the spool has no room for a segment. Nothing
// was taken and nothing is broken: it can be tried again.
type FullError struct{ Err error }

func (e *FullError) Error() string { return e.Err.Error() }
func (e *FullError) Unwrap() error { return e.Err }

func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// failUnlessFull is fail for everything but a [*FullError].
func (s *Spool) failUnlessFull(err error) error {
	if errors.As(err, new(*FullError)) {
		return withHint(s.dir, fmt.Errorf("spool %s: %w", s.dir, err))
	}
	return s.fail(err)
}

// Room waits until the spool may take WAL of the timeline that is being
// received up to end, and returns up to where it may at least. It waits while
// more than [SpoolConfig.MaxSize] would be occupied and something is there
// whose release will help. It fails with ctx's Err when ctx ends.
func (s *Spool) Room(ctx context.Context, end wal.LSN) (wal.LSN, error) {
	for {
		s.mu.Lock()
		err, changed := s.err, s.changed
		room := s.durable
		for _, unfinished := range s.unfinished() {
			room = max(room, unfinished.id.End(s.size))
		}
		full := end > room && s.atLimit()
		s.noteFull(full)
		s.mu.Unlock()
		switch {
		case err != nil:
			return 0, err
		case !full:
			return max(room, s.size.Ceil(end)), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// atLimit says that one more segment has to wait. It needs mu.
func (s *Spool) atLimit() bool {
	u := s.usage()
	return s.limit > 0 && u.Waiting > 0 && u.Bytes+int64(s.size) > s.limit
}

// noteFull needs mu.
func (s *Spool) noteFull(full bool) {
	switch {
	case full && s.fullSince.IsZero():
		s.fullSince = time.Now()
		s.log.Error().Int64("bytes", s.usage().Bytes).Int64("limit", s.limit).
			Msg("the spool is full: receiving waits until the archive has taken something, and commits may wait for that")
	case !full && !s.fullSince.IsZero():
		s.log.Info().Stringer("waited", time.Since(s.fullSince).Round(time.Millisecond)).Msg("the spool has room again")
		s.fullSince = time.Time{}
	}
}
