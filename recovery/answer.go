package recovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"

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
	case WantRecordAt, WantFirst, WantPoints:
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
// passed over.
func (g *gatherer) askBackup(ctx context.Context, id string) (func(), error) {
	i := slices.IndexFunc(g.facts.Backups, func(c backup.Commit) bool { return c.ID == id })
	c := g.facts.Backups[i]
	err := c.Read(ctx, g.archive)
	drop := func() {
		g.facts.Backups = slices.DeleteFunc(g.facts.Backups, func(c backup.Commit) bool { return c.ID == id })
	}
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
	return func() { g.facts.Backups[i] = c }, err
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

// answerFirst goes through blocks, more of them in each step: those with an
// index by what that says of all of them, others by the headers of the segments
// that there are.
func (g *gatherer) answerFirst(ctx context.Context, w Want) (err error) {
	h, _ := g.facts.history(w.Timeline)
	hit, found := NoSegment, false
	if w.Target.Kind == KindName && w.Target.Name != "" {
		hit, found, err = g.firstNoted(ctx, h, w)
	}
	for no, n := w.From, 1; err == nil && !found && no <= w.To; n = min(2*n, atOnce) {
		var runs [][]segment.ID
		var wants []Want
		for ; no <= w.To && len(runs) < n; no += uint64(len(runs[len(runs)-1])) {
			run := g.run(h, no, w.To)
			runs = append(runs, run)
			block := g.facts.block(run[0])
			if _, ok := g.blocks[block]; !ok && g.facts.Indexed[block] {
				wants = append(wants, Want{Kind: wantSum, Segment: block})
			} else if !ok && !g.facts.listed(run[0]) {
				wants = append(wants, Want{Kind: WantBlock, Segment: block})
			}
		}
		err = g.answer(ctx, wants)
		for i := 0; i < len(runs) && err == nil && !found; i++ {
			hit, err = g.firstIn(ctx, w.Target, runs[i])
			found = hit != NoSegment
		}
	}
	if err == nil {
		g.facts.First[w] = hit
	}
	return err
}

// run is the segments from number no to to that are in one block.
func (g *gatherer) run(h segment.History, no, to uint64) (run []segment.ID) {
	size := g.facts.Identity.SegmentSize
	for ; no <= to; no++ {
		id := h.SegmentAt(wal.LSN(no*uint64(size)), size)
		if len(run) > 0 && g.facts.block(id) != g.facts.block(run[0]) {
			break
		}
		run = append(run, id)
	}
	return run
}

// firstNoted answers by what was noted of restore points, if there is something
// about that name: every one is noted before its segment is stored.
func (g *gatherer) firstNoted(ctx context.Context, h segment.History, w Want) (hit uint64, known bool, err error) {
	points, ok := g.noted[w.Target.Name]
	if !ok {
		points, err = g.archive.RestorePoints(ctx, w.Target.Name)
		if err != nil && !isDamage(err) {
			return NoSegment, false, err
		}
		g.noted[w.Target.Name] = points
	}
	hit = NoSegment
	for _, p := range points {
		no := uint64(p.LSN-1) / uint64(g.facts.Identity.SegmentSize)
		if no >= w.From && no <= w.To && h.TimelineAt(p.LSN-1) == p.Timeline {
			hit = min(hit, no)
		}
	}
	return hit, len(points) > 0, nil
}

func (g *gatherer) firstIn(ctx context.Context, t Target, run []segment.ID) (uint64, error) {
	block := g.facts.block(run[0])
	if sum, ok := g.blocks[block]; ok && !t.mayBeIn(&sum) {
		return NoSegment, nil
	}
	if err := g.answer(ctx, []Want{{Kind: WantSummary, Segment: run[0]}}); err != nil {
		return 0, err
	}
	if !g.facts.Indexed[block] {
		if err := g.list(ctx, run[0]); err != nil {
			return 0, err
		}
		run = slices.DeleteFunc(run, func(id segment.ID) bool { return g.facts.Segments[id].best() == pieceNone })
		if t.Kind == KindTime {
			return g.firstPast(ctx, t, run)
		}
		wants := make([]Want, len(run))
		for i, id := range run {
			wants[i] = Want{Kind: WantSummary, Segment: id}
		}
		if err := g.answer(ctx, wants); err != nil {
			return 0, err
		}
	}
	for _, id := range run {
		if s, ok := g.facts.Summaries[id]; ok && t.mayBeIn(&s) {
			return id.No, nil
		}
	}
	return NoSegment, nil
}

// firstPast searches the headers of a run by their running maxima. From a
// segment on up to which no maximum was past the target time, the first of
// which it is holds what made it so, as long as all the headers follow upon
// each other. Where the maximum was past it before, they are read one by one.
func (g *gatherer) firstPast(ctx context.Context, t Target, run []segment.ID) (uint64, error) {
	for len(run) > 0 {
		id := run[0]
		if g.facts.Segments[id].best() == pieceNone { // it was set aside
			run = run[1:]
			continue
		}
		if err := g.settle(ctx, Want{Kind: WantSummary, Segment: id}); err != nil {
			return 0, err
		}
		s, ok := g.facts.Summaries[id]
		if ok && t.mayBeIn(&s) {
			return id.No, nil
		}
		run = run[1:]
		h := g.headers[id]
		if h == nil || t.past(h.RunningMax) {
			if err := g.answer(ctx, g.ahead(run)); err != nil {
				return 0, err
			}
			continue
		}
		n := slices.IndexFunc(run, func(id segment.ID) bool { return g.facts.Segments[id].best() != pieceArchived })
		if n < 0 {
			n = len(run)
		}
		var err error
		i := sort.Search(n, func(i int) bool {
			have, herr := g.header(ctx, run[i])
			if herr != nil {
				err = herr
				if isDamage(herr) {
					err = nil
					g.setAside(run[i], herr)
				}
				return true
			}
			return have.RunningMaxSince > h.StartLSN || t.past(have.RunningMax)
		})
		if err != nil {
			return 0, err
		}
		run = run[i:]
	}
	return NoSegment, nil
}

// ahead wants the summaries of the next few segments of a run, if that of the
// first is not known.
func (g *gatherer) ahead(run []segment.ID) (wants []Want) {
	if len(run) == 0 || g.headers[run[0]] != nil {
		return nil
	}
	for _, id := range run[:min(len(run), atOnce)] {
		wants = append(wants, Want{Kind: WantSummary, Segment: id})
	}
	return wants
}
