package recovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// answer fills in one fact. A segment whose contents are damaged becomes a
// damaged segment, which is a fact too: it must not keep anybody from a target
// that lies elsewhere.
func (g *gatherer) answer(ctx context.Context, w Want) error {
	if w.Kind == WantRecordAt {
		return g.answerRecordAt(ctx, w)
	}
	for {
		err := g.answerSegment(ctx, w)
		if err == nil || !isDamage(err) {
			return err
		}
		if !g.setAside(w.Segment, err) {
			return nil
		}
	}
}

func (g *gatherer) answerSegment(ctx context.Context, w Want) error {
	id := w.Segment
	if w.Kind == WantSummary && g.facts.Segments[id].best() == pieceArchived {
		if g.index(ctx, id) {
			return nil
		}
		h, err := g.archive.Header(ctx, g.whole(id))
		if err == nil {
			g.facts.Summaries[id] = h.Summary
		}
		return err
	}
	_, err := g.scan(ctx, id, nil)
	return err
}

// index answers for all segments of id's block at once, if all are listed and
// there is an index. Whatever is wrong with it, the headers themselves tell.
func (g *gatherer) index(ctx context.Context, id segment.ID) bool {
	first := segment.ID{Timeline: id.Timeline, No: id.No - id.No%archive.IndexSpan}
	if g.indexed[first] {
		_, known := g.facts.Summaries[id]
		return known
	}
	g.indexed[first] = true
	for at := first; at.No < first.No+archive.IndexSpan; at = at.Next() {
		if g.facts.Segments[at].best() != pieceArchived {
			return false
		}
	}
	headers, err := g.archive.Index(ctx, id)
	if err != nil {
		return false
	}
	for i, h := range headers {
		at := segment.ID{Timeline: id.Timeline, No: first.No + uint64(i)}
		g.facts.Summaries[at], g.carries[at] = h.Summary, h.Carry
	}
	return true
}

func (g *gatherer) whole(id segment.ID) archive.Piece {
	return archive.Piece{ID: id, To: int64(g.facts.Identity.SegmentSize)}
}

func isDamage(err error) bool {
	var corrupt *archive.CorruptError
	var end *wal.EndError
	return errors.As(err, &corrupt) || errors.As(err, &end)
}

// setAside takes a damaged piece of a segment out of the facts. It is false
// when nothing is left of the segment.
func (g *gatherer) setAside(id segment.ID, why error) bool {
	s := g.facts.Segments[id]
	switch s.best() {
	case pieceArchived:
		s.Archived = false
	case pieceSpooled:
		s.Spooled = false
	case pieceTail:
		s.Tail, s.Tailed = 0, false
	case piecePartial:
		s.Partial = 0
	}
	left := s.best() != pieceNone
	if !left {
		s.Damaged = why.Error()
	}
	g.facts.Segments[id] = s
	g.facts.Notes = append(g.facts.Notes, why.Error())
	return left
}

// scan reads a segment for its summary and its points. Each record passes
// onRecord, if given; an error of it ends the scan and is returned as it is.
func (g *gatherer) scan(ctx context.Context, id segment.ID, onRecord func(*wal.Record) error) (*wal.Carry, error) {
	carry, err := g.carryInto(ctx, id)
	if err != nil {
		return nil, err
	}
	var points wal.Points
	cfg := g.facts.Identity.ScanConfig(id)
	cfg.Carry = carry
	cfg.OnRecord = func(r *wal.Record) error {
		if f, ok := r.Finish(); ok {
			points.Finishes = append(points.Finishes, f)
		}
		if p, ok := r.RestorePoint(); ok {
			points.RestorePoints = append(points.RestorePoints, p)
		}
		if onRecord != nil {
			return onRecord(r)
		}
		return nil
	}
	sum := wal.NewSummarizer(cfg)
	if err := g.read(ctx, id, sum); err != nil {
		return nil, err
	}
	summary, next, err := sum.Finish()
	var end *wal.EndError
	switch {
	case errors.As(err, &end) && g.facts.Segments[id].whole():
		return nil, fmt.Errorf("segment %s: %w", g.facts.name(id), err)
	case err != nil && end == nil:
		return nil, err
	}
	g.facts.Points[id] = points
	if _, ok := g.facts.Summaries[id]; !ok {
		g.facts.Summaries[id] = summary
	}
	g.carries[id] = next
	return next, nil
}

// carryInto is the reader's state before a segment: from the header of the
// segment before it, or from reading that one. Nil when it is not known.
func (g *gatherer) carryInto(ctx context.Context, id segment.ID) (*wal.Carry, error) {
	size := g.facts.Identity.SegmentSize
	h, ok := g.facts.history(id.Timeline)
	if !ok || id.No == 0 {
		return nil, nil
	}
	prev := h.SegmentAt(id.Start(size)-1, size)
	if carry, ok := g.carries[prev]; ok {
		return carry, nil
	}
	switch g.facts.Segments[prev].best() {
	case pieceArchived:
		header, err := g.archive.Header(ctx, g.whole(prev))
		if isDamage(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return header.Carry, nil
	case pieceSpooled, pieceTail:
		carry, err := g.scan(ctx, prev, nil)
		if isDamage(err) {
			return nil, nil
		}
		return carry, err
	}
	return nil, nil
}

// read feeds the verified bytes of a segment's best piece to sum. That they
// are no valid WAL from some place on is what sum.Finish tells.
func (g *gatherer) read(ctx context.Context, id segment.ID, sum *wal.Summarizer) error {
	switch g.facts.Segments[id].best() {
	case pieceArchived:
		_, err := g.archive.Fetch(ctx, id, feeder{sum})
		return err
	case pieceTail:
		var buf buffer
		n, err := g.archive.FetchTail(ctx, id, &buf)
		if err != nil && (n == 0 || !isDamage(err)) {
			return err
		}
		g.shortenTail(id, n, err)
		if g.facts.Segments[id].best() == pieceTail {
			_, err = feeder{sum}.Write(buf.b[:n])
			return err
		}
	}
	p, ok := g.spooled[id]
	if !ok {
		return fmt.Errorf("segment %s: %w", g.facts.name(id), archive.ErrNotExist)
	}
	r, err := p.Open()
	if err != nil {
		return err
	}
	defer r.Close() // only read
	_, err = io.Copy(feeder{sum}, io.NewSectionReader(r, 0, p.To))
	return err
}

// shortenTail notes how far a tail can really be read, and why not further.
func (g *gatherer) shortenTail(id segment.ID, n int64, damage error) {
	s := g.facts.Segments[id]
	s.Tail = id.Start(g.facts.Identity.SegmentSize) + wal.LSN(n)
	s.Tailed = n == int64(g.facts.Identity.SegmentSize)
	if damage != nil {
		s.Cut = damage.Error()
	}
	g.facts.Segments[id] = s
}

// answerRecordAt reads from the segment of the LSN on until a record that
// starts there or later is complete.
func (g *gatherer) answerRecordAt(ctx context.Context, w Want) error {
	errFound := errors.New("found")
	size := g.facts.Identity.SegmentSize
	h, _ := g.facts.history(w.Timeline)
	g.facts.RecordAt[w] = Span{}
	for at := w.LSN; ; at = size.Floor(at) + wal.LSN(size) {
		id := h.SegmentAt(at, size)
		if g.facts.Segments[id].best() == pieceNone {
			return nil
		}
		_, err := g.scan(ctx, id, func(r *wal.Record) error {
			if r.LSN < w.LSN {
				return nil
			}
			g.facts.RecordAt[w] = Span{Start: r.LSN, End: r.End}
			return errFound
		})
		if err == nil {
			continue
		}
		if errors.Is(err, errFound) {
			return nil
		}
		return err
	}
}

// feeder is the writing side of a summarizer. It swallows everything behind
// the end of valid WAL, so that the bytes are read, and verified, to their
// end.
type feeder struct{ sum *wal.Summarizer }

func (f feeder) Write(p []byte) (int, error) {
	_ = f.sum.Feed(p) // stays, and Finish returns it
	return len(p), nil
}

// buffer is an [io.WriterAt] in memory.
type buffer struct{ b []byte }

func (b *buffer) WriteAt(p []byte, off int64) (int, error) {
	if need := int(off) + len(p) - len(b.b); need > 0 {
		b.b = append(b.b, bytes.Repeat([]byte{0}, need)...)
	}
	return copy(b.b[off:], p), nil
}
