package recovery

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// segment delivers a segment: whole from the archive, whole from the spool, or
// its beginning where WAL ends in it.
func (g *walGet) segment(ctx context.Context, id segment.ID) (Outcome, error) {
	out, archived := g.deliver(func(f *os.File) error {
		_, err := g.archive.Fetch(ctx, id, f)
		return err
	})
	if out == Delivered {
		return out, nil
	}
	if doubt := unknown(archived); doubt != nil && !isDamage(doubt) {
		return Trouble, doubt
	}
	out, spooled := g.wholeFromSpool(id)
	if out == Delivered {
		return out, nil
	}
	doubt := errors.Join(unknown(archived), unknown(spooled))
	if g.ahead && doubt == nil {
		return Trouble, errNotHere
	}
	if g.readsAhead(id) && (doubt == nil || isDamage(doubt)) {
		return Absent, fmt.Errorf("it cannot be had, and the target lies before it: %w", errors.Join(archived, spooled))
	}
	// Only when both say definitely that it is not there as a whole may it
	// be the end of WAL.
	if doubt != nil {
		return Trouble, doubt
	}
	return g.end(ctx, id)
}

// errNotHere says that the spool, when it was listed, did not hold a segment.
// The listing comes before every question to the archive, so what left the
// spool meanwhile is found there.
var errNotHere = errors.New("it is not in the spool")

// unknown is err unless that is a definite absence. A spool file that was
// listed and cannot be opened any more is none: it has another name now.
func unknown(err error) error {
	if errors.Is(err, archive.ErrNotExist) || errors.Is(err, errNotHere) {
		return nil
	}
	return err
}

func (g *walGet) wholeFromSpool(id segment.ID) (Outcome, error) {
	if g.view == nil {
		return Trouble, errNotHere
	}
	p, err := spoolPiece(g.view, id)
	if err == nil && !p.Complete {
		err = errNotHere
	}
	if err != nil {
		return Trouble, err
	}
	return g.deliver(func(f *os.File) error { return copyVerified(f, p, g.view.Identity) })
}

// end answers for a segment that is nowhere whole in one piece. Its tails may
// be the whole of it. It is Absent, or its beginning is delivered, only if WAL
// may end there.
func (g *walGet) end(ctx context.Context, id segment.ID) (Outcome, error) {
	out, err := g.deliver(func(f *os.File) error { return g.beginning(ctx, id, f) })
	if errors.Is(err, errOwn) {
		return Absent, err
	}
	if out == Delivered || unknown(err) != nil {
		return out, err
	}
	if required, _ := g.needed(id); required {
		return Trouble, errors.New("the plan needs it, and it is neither in the archive nor in the spool")
	}
	if id.Timeline == 1 {
		return Absent, err
	}
	// Without it PostgreSQL would fall back to the old timeline's file, replay
	// the abandoned branch and go live.
	h, _, herr := g.findHistory(ctx, id.Timeline)
	if start, _ := h.StartOf(id.Timeline); herr == nil && start > 0 && segment.At(id.Timeline, start, g.size) == id {
		return Trouble, fmt.Errorf("timeline %s begins in it, and it is neither in the archive nor in the spool", id.Timeline)
	}
	if unknown(herr) != nil {
		return Trouble, herr
	}
	return Absent, err
}

// needed is [Plan.Required], and false without a plan.
func (g *walGet) needed(id segment.ID) (required, whole bool) {
	if g.plan == nil {
		return false, false
	}
	return g.plan.Required(id)
}

// mayEnd fails unless WAL may end in a segment.
func (g *walGet) mayEnd(ctx context.Context, id segment.ID) error {
	required, whole := g.needed(id)
	if whole {
		return errors.New("the plan needs the whole segment, and it is neither in the archive nor in the spool")
	}
	later, err := g.exists(ctx, id.Timeline, id.No+1)
	if err == nil && later != "" && !required {
		err = fmt.Errorf("it is missing, but later WAL of its timeline exists: %s", later)
	}
	return err
}

// readsAhead says whether a missing segment lies behind the end of a plan that
// knew of a hole there: PostgreSQL may ask for it before it has replayed the
// record at which it stops, several segments before where there is little in
// them.
func (g *walGet) readsAhead(id segment.ID) bool {
	return g.plan != nil && g.plan.HoleBehind && id.No > uint64(g.plan.Need-1)/uint64(g.plan.Identity.SegmentSize)
}

// beginning writes the longest verified beginning of a segment, filled up with
// zeros: PostgreSQL takes only files of full size. In zeros it sees the end of
// WAL.
func (g *walGet) beginning(ctx context.Context, id segment.ID, f *os.File) error {
	listed := beside(func() error { return g.mayEnd(ctx, id) })
	n, damage := g.archive.FetchTail(ctx, id, f)
	mayEnd := listed()
	if err := unknown(damage); err != nil && !isDamage(err) {
		return err
	}
	if g.view != nil {
		p, err := spoolPiece(g.view, id)
		if unknown(err) != nil {
			return err
		}
		if err == nil && p.To > n {
			if _, err := f.Seek(0, 0); err != nil {
				return err
			}
			if err := copyVerified(f, p, g.view.Identity); err != nil {
				return err
			}
			n = p.To
		}
	}
	if n == int64(g.size) {
		return nil
	}
	if mayEnd != nil {
		return mayEnd
	}
	if err := g.longEnough(ctx, id, n, unknown(damage)); err != nil {
		return err
	}
	if n == 0 {
		return errNotHere
	}
	if err := g.ownIsLonger(id, n); err != nil {
		return err
	}
	g.padded = n
	return errors.Join(f.Truncate(n), f.Truncate(int64(g.size)))
}

// longEnough says whether n bytes are all that is wanted of a segment: what the
// plan needs, or else all that there was, even if it is damaged.
func (g *walGet) longEnough(ctx context.Context, id segment.ID, n int64, damage error) error {
	if required, _ := g.needed(id); required && n > 0 {
		if end := id.Start(g.size) + wal.LSN(n); end < min(g.plan.Need, id.End(g.size)) {
			return errors.Join(fmt.Errorf("it can be read up to %s only, the plan needs it up to %s", end, g.plan.Need), damage)
		}
		return nil
	}
	if damage == nil {
		return nil
	}
	tails, err := g.archive.Tails(ctx, id)
	for _, t := range tails {
		if t.To > n {
			return damage
		}
	}
	return err
}

// errOwn says that the server has as much of a segment in its pg_wal, where it
// looks when it gets nothing here.
var errOwn = errors.New("the server has as much of it in its pg_wal")

// ownIsLonger fails with errOwn if n bytes are no more than the server has. A
// standby that streamed may be ahead of the receiver, and a beginning without
// the last record that it has replayed makes PostgreSQL panic at its promotion.
func (g *walGet) ownIsLonger(id segment.ID, n int64) error {
	if g.plan != nil {
		return nil
	}
	view := g.view
	if view == nil {
		view = &segment.SpoolView{Identity: g.archive.Identity().Identity}
	}
	own := filepath.Join(g.wal, g.file)
	if valid, err := view.ValidIn(fsx.OS{}, own, id); err == nil && valid >= n {
		return errOwn
	}
	return nil
}
