package recovery

import (
	"context"
	"maps"
	"slices"
	"sort"

	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// answerFirst goes through blocks, more of them in each step: those with an
// index by what that says of all of them, others by the headers of the segments
// that there are.
func (g *gatherer) answerFirst(ctx context.Context, w Want) (err error) {
	h, _ := g.facts.history(w.Timeline)
	hit, found := NoSegment, false
	if w.Target.Kind == KindName && w.Target.Name != "" {
		hit, found, err = g.firstNoted(ctx, h, w)
	}
	var where within
	if w.Target.Kind == KindXID && err == nil {
		where, err = g.finishing(ctx, h, w.Target.XID)
	}
	for no, n := where.next(w.From), 1; err == nil && !found && no <= w.To; n = min(2*n, atOnce) {
		var runs [][]segment.ID
		var wants []Want
		for ; no <= w.To && len(runs) < n; no = where.next(no + uint64(len(runs[len(runs)-1]))) {
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
			hit, err = g.firstIn(ctx, w, runs[i])
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
// about that name: those of a segment are noted before it counts as stored. What
// is not stored as a whole is read.
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
	size := g.facts.Identity.SegmentSize
	for _, p := range points {
		id := h.SegmentAt(p.LSN-1, size)
		if id.No >= w.From && id.No <= w.To && (p.Timeline == id.Timeline || p.Timeline == h.TimelineAt(p.LSN-1)) {
			hit = min(hit, id.No)
		}
	}
	for id, s := range maps.Clone(g.facts.Segments) {
		if b := s.best(); b == pieceNone || b == pieceArchived || id.No < w.From || id.No > w.To || h.SegmentAt(id.Start(size), size) != id {
			continue
		}
		if err := g.settle(ctx, Want{Kind: WantSummary, Segment: id}); err != nil {
			return NoSegment, false, err
		}
		if s, ok := g.facts.Summaries[id]; ok && w.Target.mayBeIn(&s) {
			hit = min(hit, id.No)
		}
	}
	return hit, len(points) > 0 || hit != NoSegment, nil
}

func (g *gatherer) firstIn(ctx context.Context, w Want, run []segment.ID) (uint64, error) {
	t := w.Target
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
		if w.Likely {
			some, err := g.likely(ctx, w, block)
			if err != nil {
				return 0, err
			}
			run = slices.DeleteFunc(run, func(id segment.ID) bool { return !slices.Contains(some, id) })
		}
		run = g.present(run)
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

// present is those of a run of which there is something.
func (g *gatherer) present(run []segment.ID) []segment.ID {
	return slices.DeleteFunc(run, func(id segment.ID) bool { return g.facts.Segments[id].best() == pieceNone })
}

// likely is those of a block in which a transaction is likely to have finished:
// a few around the first whose IDs reach it, and those that are not archived.
// They do not depend on where the search begins, so that it is not found from an
// older backup only.
func (g *gatherer) likely(ctx context.Context, w Want, block segment.ID) ([]segment.ID, error) {
	const around = 8
	h, _ := g.facts.history(w.Timeline)
	size := g.facts.Identity.SegmentSize
	begin := block
	for h.SegmentAt(begin.Start(size), size) != begin { // the timeline begins behind it
		begin.No++
	}
	run, xid := g.present(g.run(h, begin.No, w.To)), w.Target.XID
	n := slices.IndexFunc(run, func(id segment.ID) bool { return g.facts.Segments[id].best() != pieceArchived })
	if n < 0 {
		n = len(run)
	}
	var failed error
	// Compared as TransactionIdPrecedes of PostgreSQL's transam.c does.
	reaches := func(i int) bool {
		h, err := g.header(ctx, run[i])
		if err != nil && !isDamage(err) {
			failed = err
		}
		return err != nil || h.MaxXID != 0 && int32(h.MaxXID-xid) >= 0
	}
	at := sort.Search(n, reaches)
	some := slices.Clone(run[max(0, at-around/2):min(n, at+around/2)])
	return append(some, run[n:]...), failed
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
