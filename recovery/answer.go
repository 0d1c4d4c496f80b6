package recovery

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// atOnce is how many requests are under way at the same time.
const atOnce = 16

// What a gatherer asks for itself.
const (
	wantHeader WantKind = -1 - iota // of Segment
	wantIndex                       // of the block that begins with Segment
	wantSum                         // the header of that index
)

// answer fills in facts: first what takes one request each, at the same time,
// then the rest.
func (g *gatherer) answer(ctx context.Context, wants []Want) error {
	var asked []Want
	for _, w := range wants {
		if w, ok := g.request(w); ok && !slices.Contains(asked, w) {
			asked = append(asked, w)
		}
	}
	learn := make([]func(), len(asked))
	group, some := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i, w := range asked {
		group.Go(func() (err error) {
			learn[i], err = g.ask(some, w)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, f := range learn {
		f()
	}
	for _, w := range wants {
		if err := g.settle(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

// request is what to ask first for an answer.
func (g *gatherer) request(w Want) (Want, bool) {
	switch w.Kind {
	case WantRecordAt, WantFirst, WantPoints, WantChanges:
		return w, false
	case WantSummary:
	default:
		return w, true
	}
	_, known := g.facts.Summaries[w.Segment]
	_, read := g.headers[w.Segment]
	block := g.facts.block(w.Segment)
	switch {
	case known || read:
		return w, false
	case g.facts.Indexed[block]:
		return Want{Kind: wantIndex, Segment: block}, true
	case !g.facts.listed(w.Segment):
		return Want{Kind: WantBlock, Segment: block}, true
	}
	return Want{Kind: wantHeader, Segment: w.Segment}, g.facts.Segments[w.Segment].best() == pieceArchived
}

// ask makes one request. It changes nothing, so it may run beside others; what
// it returns does.
func (g *gatherer) ask(ctx context.Context, w Want) (learn func(), err error) {
	switch w.Kind {
	case WantBlock:
		pieces, err := g.pieces(ctx, w.Segment.Timeline, w.Segment.No, w.Segment.No+g.facts.Span-1)
		return func() {
			g.addPieces(pieces)
			g.facts.Listed[w.Segment] = true
		}, err
	case WantEnd:
		pieces, err := g.pieces(ctx, w.Timeline, w.From, NoSegment)
		return func() {
			g.addPieces(pieces)
			g.facts.End[w.Timeline] = w.From
		}, err
	case WantBackup:
		return g.askBackup(ctx, w.Backup)
	case wantSum, wantIndex:
		return g.askIndex(ctx, w)
	default:
		h, err := g.archive.Header(ctx, g.whole(w.Segment))
		if isDamage(err) {
			return func() {}, nil // to be asked for again
		}
		return func() { g.headers[w.Segment], g.carries[w.Segment] = h, h.Carry }, err
	}
}

// pieces lists what the archive holds of segments from to to, both included.
func (g *gatherer) pieces(ctx context.Context, tli wal.Timeline, from, to uint64) (list []archive.Piece, err error) {
	for p, err := range g.archive.Pieces(ctx, tli, from) {
		if err != nil {
			return nil, fmt.Errorf("list WAL of timeline %s: %w", tli, err)
		}
		if p.ID.No > to {
			break
		}
		list = append(list, p)
		if p.ID.No == to && !p.Tail {
			break // nothing sorts behind it
		}
	}
	return list, nil
}

func (g *gatherer) addPieces(list []archive.Piece) {
	for _, p := range list {
		if !g.facts.listed(p.ID) {
			g.addPiece(p)
		}
	}
}

// askBackup reads the commit object of a backup. One that cannot be used is
// passed over. Where it is in the list can change until that is learnt.
func (g *gatherer) askBackup(ctx context.Context, id string) (func(), error) {
	is := func(c backup.Commit) bool { return c.ID == id }
	c := g.facts.Backups[slices.IndexFunc(g.facts.Backups, is)]
	err := c.Read(ctx, g.archive)
	drop := func() { g.facts.Backups = slices.DeleteFunc(g.facts.Backups, is) }
	var unusable *backup.UnusableError
	switch {
	case errors.As(err, &unusable):
		return func() {
			drop()
			g.facts.Notes = append(g.facts.Notes, unusable.Error())
		}, nil
	case errors.Is(err, archive.ErrNotExist): // deleted since the listing
		return drop, nil
	}
	return func() { g.facts.Backups[slices.IndexFunc(g.facts.Backups, is)] = c }, err
}

// askIndex reads an index, or its header. Whatever is wrong with it, the
// headers themselves tell.
func (g *gatherer) askIndex(ctx context.Context, w Want) (func(), error) {
	var headers []*archive.Header
	sum, err := &archive.Header{}, error(nil)
	if w.Kind == wantSum {
		sum, err = g.archive.IndexHeader(ctx, w.Segment)
	} else {
		headers, err = g.archive.Index(ctx, w.Segment)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return func() {
		if err != nil {
			delete(g.facts.Indexed, w.Segment)
			return
		}
		for i, h := range headers {
			id := segment.ID{Timeline: w.Segment.Timeline, No: w.Segment.No + uint64(i)}
			g.facts.Summaries[id], g.headers[id], g.carries[id] = h.Summary, h, h.Carry
			sum.Add(&h.Summary)
		}
		g.blocks[w.Segment] = sum.Summary
	}, nil
}
