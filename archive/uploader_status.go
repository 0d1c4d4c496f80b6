package archive

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// UploaderStatus is how uploading goes. Times are zero for what never
// happened.
type UploaderStatus struct {
	Segments    int64 // complete segments confirmed by this process
	Tails       int64 // tail objects confirmed by this process
	Failures    int64 // attempts that failed
	LastSuccess time.Time
	LastFailure time.Time
	// Failure is why the last attempt failed; it is being repeated. Nil when
	// it succeeded.
	Failure *hint.Failure
	// Confirmed is the end of the newest confirmed segment by timeline.
	Confirmed map[wal.Timeline]wal.LSN
	// Stopped holds the timelines that are not archived any more, and why:
	// a [*ConflictError], [*BrokenError] or [*segment.ForeignError].
	Stopped map[wal.Timeline]error
}

// Status may be called at any time.
func (u *Uploader) Status() UploaderStatus {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.status
	s.Confirmed, s.Stopped = maps.Clone(s.Confirmed), maps.Clone(s.Stopped)
	return s
}

// permanent says whether repeating cannot help.
func permanent(err error) bool {
	return errors.Is(err, errNotBefore) || errors.Is(err, errDeleted) || errors.As(err, new(*segment.DeletedError)) ||
		errors.As(err, new(*ConflictError)) || errors.As(err, new(*BrokenError)) || errors.As(err, new(*segment.ForeignError))
}

// retry repeats op until it succeeds, fails for good, or ctx ends.
func (u *Uploader) retry(ctx context.Context, op func() error) error {
	wait := backoff.NewExponentialBackOff()
	wait.MaxInterval = 5 * time.Second // who waits for the tail waits for this too
	if u.cfg.Tail.Now != nil {
		wait.MaxInterval = 2 * time.Second // commits wait
	}
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := op()
		if err != nil && permanent(err) {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithBackOff(wait), backoff.WithMaxElapsedTime(0), backoff.WithNotify(u.failed))
	return err
}

func (u *Uploader) failed(err error, wait time.Duration) {
	u.mu.Lock()
	before := u.status.Failure
	u.status.LastFailure = u.cfg.Now()
	u.status.Failure = before.Again(err, u.status.LastFailure)
	u.status.Failures++
	u.mu.Unlock()
	if before == nil {
		u.cfg.Log.Warn().Err(err).Func(hint.Log(err)).Stringer("retry_in", wait.Round(time.Millisecond)).Msg("archiving fails; it is repeated until it succeeds")
	}
}

// confirmed counts a piece that is durable in the archive.
func (u *Uploader) confirmed(j *job) {
	u.mu.Lock()
	before := u.status.Failure
	u.status.Failure, u.status.LastSuccess = nil, u.cfg.Now()
	if !j.piece.Tail {
		u.status.Segments++
		tli := j.piece.ID.Timeline
		u.status.Confirmed[tli] = max(u.status.Confirmed[tli], j.piece.ID.End(u.a.identity.SegmentSize))
	} else {
		u.status.Tails++
	}
	u.mu.Unlock()
	if before != nil {
		u.cfg.Log.Info().Str("object", u.a.name(j.piece)).Msg("archiving succeeds again")
	}
}

func (u *Uploader) stopped(tli wal.Timeline) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.status.Stopped[tli] != nil
}

// stop gives a timeline up. Its WAL stays in the source.
func (u *Uploader) stop(tli wal.Timeline, err error) {
	u.mu.Lock()
	if u.status.Stopped[tli] == nil {
		u.status.Stopped[tli] = err
	}
	u.status.Failure, u.status.LastFailure = nil, u.cfg.Now()
	u.status.Failures++
	u.mu.Unlock()
	u.cfg.Log.Error().Err(err).Func(hint.Log(err)).Stringer("timeline", tli).Msg("archiving of this timeline stops; its WAL stays in the spool")
}
