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

// settle fills in one fact. A segment whose contents are damaged becomes a
// damaged segment, which is a fact too: it must not keep anybody from a target
// that lies elsewhere.
func (g *gatherer) settle(ctx context.Context, w Want) error {
	switch w.Kind {
	case WantRecordAt:
		return g.answerRecordAt(ctx, w)
	case WantChanges:
		return g.answerChanges(ctx, w)
	case WantFirst:
		return g.answerFirst(ctx, w)
	case WantSummary, WantPoints:
	default:
		return nil // one request was all that it took
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
	if w.Kind == WantPoints {
		_, err := g.scan(ctx, id, nil)
		return err
	}
	if _, ok := g.facts.Summaries[id]; ok {
		return nil
	}
	if err := g.list(ctx, id); err != nil {
		return err
	}
	switch g.facts.Segments[id].best() {
	case pieceNone:
		return nil
	case pieceArchived:
		h, err := g.header(ctx, id)
		if err == nil {
			g.facts.Summaries[id] = h.Summary
		}
		return err
	}
	_, err := g.scan(ctx, id, nil)
	return err
}

// list lists the block of a segment if that is not done yet.
func (g *gatherer) list(ctx context.Context, id segment.ID) error {
	if g.facts.listed(id) {
		return nil
	}
	return g.answer(ctx, []Want{{Kind: WantBlock, Segment: g.facts.block(id)}})
}

func (g *gatherer) header(ctx context.Context, id segment.ID) (*archive.Header, error) {
	if h, ok := g.headers[id]; ok {
		return h, nil
	}
	h, err := g.archive.Header(ctx, g.whole(id))
	if err == nil {
		g.headers[id], g.carries[id] = h, h.Carry
	}
	return h, err
}

func (g *gatherer) whole(id segment.ID) archive.Piece {
	return archive.Piece{ID: id, To: int64(g.facts.Identity.SegmentSize)}
}

func isDamage(err error) bool {
	return errors.As(err, new(*archive.CorruptError)) || errors.As(err, new(*wal.EndError))
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
		points.Add(r)
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
	switch best := g.facts.Segments[prev].best(); {
	case best == pieceArchived, best == pieceNone && !g.facts.listed(prev):
		header, err := g.header(ctx, prev)
		if isDamage(err) || best == pieceNone && errors.Is(err, archive.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return header.Carry, nil
	case best == pieceSpooled, best == pieceTail:
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
		if err := g.list(ctx, id); err != nil || g.facts.Segments[id].best() == pieceNone {
			return err
		}
		_, err := g.scan(ctx, id, func(r *wal.Record) error {
			if r.LSN < w.LSN {
				return nil
			}
			g.facts.RecordAt[w] = Span{Start: r.LSN, End: r.End}
			return errFound
		})
		switch {
		case errors.Is(err, errFound):
			return nil
		case isDamage(err):
			g.setAside(id, err)
			delete(g.facts.RecordAt, w) // to be asked for again, if the way still leads there
			return nil
		case err != nil:
			return err
		}
	}
}

// feeder is the writing side of a summarizer. It swallows everything behind
// the end of valid WAL, so that the bytes are read, and verified, to their
// end.
type feeder struct{ sum *wal.Summarizer }

func (f feeder) Write(p []byte) (int, error) {
	_, _ = f.sum.Write(p) // stays, and Finish returns it
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
