package archive

import (
	"context"
	"errors"

	"github.com/walstream/walstream/internal/crashpoint"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// prepare makes everything ready for a piece's put. It fails only for good, or
// when ctx ends.
func (u *Uploader) prepare(ctx context.Context, sealed segment.Sealed) (j *job, err error) {
	j = &job{sealed: sealed, piece: pieceOf(sealed), done: make(chan struct{})}
	err = u.retry(ctx, func() error {
		if err := u.putHistories(ctx, sealed.ID.Timeline); err != nil {
			return err
		}
		before, err := u.before(ctx, sealed.ID)
		if err != nil {
			return err
		}
		if j.data, err = sealed.Open(); err != nil {
			return err
		}
		if j.header, err = u.a.Describe(j.piece, j.data, before); err != nil {
			j.data.Close()
		}
		return err
	})
	if err == nil && sealed.Complete {
		u.mu.Lock()
		u.last[sealed.ID.Timeline] = described{sealed.ID, j.header}
		u.mu.Unlock()
	}
	return j, err
}

// putHistories stores the history files that the source has, and makes sure
// that tli's is in the archive. Another timeline's conflict stops only that.
func (u *Uploader) putHistories(ctx context.Context, tli wal.Timeline) error {
	for _, other := range u.cfg.Source.Histories() {
		u.mu.Lock()
		done := u.stored[other] || u.status.Stopped[other] != nil
		u.mu.Unlock()
		if done {
			continue
		}
		body, err := u.cfg.Source.History(other)
		if err == nil {
			err = u.a.PutHistory(ctx, other, body)
		}
		if err != nil && other != tli && permanent(err) {
			u.stop(other, err)
			continue
		}
		if err != nil {
			return err
		}
		crashpoint.Hit(crashpoint.UploadHistoryPut)
		u.mu.Lock()
		u.stored[other] = true
		u.mu.Unlock()
	}
	u.mu.Lock()
	done := tli == 1 || u.stored[tli]
	u.mu.Unlock()
	if done {
		return nil
	}
	_, _, err := u.a.History(ctx, tli)
	return err
}

// follows says whether the header before id is at hand.
func (u *Uploader) follows(id segment.ID) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.last[id.Timeline].id.Next() == id
}

func (u *Uploader) before(ctx context.Context, id segment.ID) (*Header, error) {
	if u.follows(id) {
		u.mu.Lock()
		defer u.mu.Unlock()
		return u.last[id.Timeline].header, nil
	}
	h, err := u.a.Before(ctx, id)
	var corrupt *CorruptError
	if errors.As(err, &corrupt) {
		// What is damaged there is no reason not to store what is whole here.
		u.cfg.Log.Error().Err(err).Msg("the segment before is damaged in the archive; its successor is stored without a carry")
		return nil, nil
	}
	return h, err
}

// tidy removes tails that a stored piece made needless. What goes wrong with
// that costs room only, except for a tail that differs: that is a branch of
// the timeline that another server wrote, and stays.
func (u *Uploader) tidy(ctx context.Context, p Piece, data segment.Reader) {
	err := u.a.dropTails(ctx, p, data)
	var conflict *ConflictError
	switch {
	case errors.As(err, &conflict):
		u.cfg.Log.Error().Err(err).Msg("a stored tail differs from its segment; it is kept")
	case err != nil && context.Cause(ctx) == nil:
		u.cfg.Log.Warn().Err(err).Msg("cannot remove needless tail objects")
	}
}

// StoreTail stores what there is of a segment that is not complete, as a tail
// object, retrying until ctx ends. It is for the last piece before a shutdown:
// the source keeps it. An error that is no conflict means only that it is not
// known to be stored. Of a stopped timeline it stores nothing and returns why.
func (u *Uploader) StoreTail(ctx context.Context, sealed segment.Sealed) error {
	if err := u.Status().Stopped[sealed.ID.Timeline]; err != nil {
		return err
	}
	j, err := u.prepare(ctx, sealed)
	if err != nil {
		return err
	}
	defer j.data.Close()
	err = u.retry(ctx, func() error { return u.a.PutSegment(ctx, j.piece, j.header, j.data, u.cfg.Level) })
	if err != nil {
		return err
	}
	u.tidy(ctx, j.piece, j.data)
	return nil
}
