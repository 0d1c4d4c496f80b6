package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/walstream/walstream/internal/crashpoint"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// prepare makes everything ready for a piece's put. It fails only for good, or
// when ctx ends.
func (u *Uploader) prepare(ctx context.Context, sealed segment.Sealed) (j *job, err error) {
	j = &job{sealed: sealed, piece: pieceOf(sealed), done: make(chan struct{})}
	err = u.retry(ctx, func() error {
		if err := u.arrive(ctx, sealed.ID); err != nil {
			return err
		}
		before, err := u.before(ctx, sealed.ID)
		if err != nil {
			return err
		}
		if j.data, err = sealed.Open(); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %w", errDeleted, err)
		} else if err != nil {
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
	histories := u.cfg.Source.Histories()
	for _, other := range slices.Sorted(maps.Keys(histories)) {
		u.mu.Lock()
		done := u.stored[other] || u.status.Stopped[other] != nil
		u.mu.Unlock()
		if done {
			continue
		}
		err := u.a.PutHistory(ctx, other, histories[other])
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
	return u.a.soundBefore(ctx, id, u.cfg.Log)
}

// arrive makes the archive ready for objects of a segment, and looks once for
// tail objects that earlier processes left around there.
func (u *Uploader) arrive(ctx context.Context, id segment.ID) error {
	if err := u.putHistories(ctx, id.Timeline); err != nil {
		return err
	}
	u.mu.Lock()
	looked := u.looked[id.Timeline]
	u.mu.Unlock()
	if looked {
		return nil
	}
	const back = 64
	strays := map[segment.ID]bool{} // whether their segment is stored whole
	for p, err := range u.a.Pieces(ctx, id.Timeline, id.No-min(id.No, back)) {
		if err != nil {
			return err
		}
		if _, tailed := strays[p.ID]; tailed || p.Tail {
			strays[p.ID] = !p.Tail
		}
	}
	u.mu.Lock()
	u.looked[id.Timeline] = true
	for stray := range strays {
		u.strays[stray] = true
	}
	u.mu.Unlock()
	for stray, whole := range strays {
		if whole && stray.No < id.No { // it will not be handed out again
			u.tidied(ctx, u.a.dropOrphans(ctx, stray))
		}
	}
	return nil
}

// tidy removes tails that a stored piece made needless.
func (u *Uploader) tidy(ctx context.Context, p Piece, data segment.Reader) {
	u.mu.Lock()
	var keep []Piece
	for _, t := range u.tails[p.ID] {
		if t != p && t.From >= p.From && t.To <= p.To {
			u.doomed = append(u.doomed, t)
		} else {
			keep = append(keep, t)
		}
	}
	if u.tails[p.ID] = keep; keep == nil {
		delete(u.tails, p.ID)
	}
	if p.Tail && u.status.Confirmed[p.ID.Timeline] >= p.ID.End(u.a.identity.SegmentSize) {
		u.doomed = append(u.doomed, p) // it came too late
	}
	strays := u.strays[p.ID]
	if !p.Tail {
		delete(u.strays, p.ID)
	}
	u.mu.Unlock()
	wake(u.doomedC)
	if strays && p.From == 0 {
		u.tidied(ctx, u.a.dropTails(ctx, p, data))
	}
}

// tidied reports what went wrong with removing tails. That costs room only,
// except for a tail that differs: that is a branch of the timeline that another
// server wrote, and stays.
func (u *Uploader) tidied(ctx context.Context, err error) {
	switch {
	case errors.As(err, new(*ConflictError)):
		u.cfg.Log.Error().Err(err).Msg("a stored tail differs from its segment; it is kept")
	case err != nil && context.Cause(ctx) == nil:
		u.cfg.Log.Warn().Err(err).Msg("cannot remove needless tail objects")
	}
}

// sweep deletes what is doomed. What cannot be deleted now is tried again with
// the next.
func (u *Uploader) sweep(ctx context.Context) {
	u.mu.Lock()
	list := u.doomed
	u.doomed = nil
	u.mu.Unlock()
	var g errgroup.Group
	g.SetLimit(8)
	for _, p := range list {
		g.Go(func() error {
			err := u.a.store.Delete(ctx, u.a.name(p))
			if err != nil {
				u.mu.Lock()
				u.doomed = append(u.doomed, p)
				u.mu.Unlock()
			}
			crashpoint.Hit(crashpoint.TailDropped)
			return err
		})
	}
	u.tidied(ctx, g.Wait())
}
