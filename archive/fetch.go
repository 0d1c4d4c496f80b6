package archive

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// firstRead is what is read of an object to find its header: most are shorter.
const firstRead = 4 << 10

// Header reads the header of a piece, without its WAL, and checks it against
// the piece and the archive's identity. [ErrNotExist] is a definite answer.
func (a *Archive) Header(ctx context.Context, p Piece) (*Header, error) {
	h, err := a.header(ctx, a.name(p))
	if err != nil {
		return nil, err
	}
	return h, a.check(p, h)
}

// header reads the header frame of an object.
func (a *Archive) header(ctx context.Context, name string) (*Header, error) {
	head, err := ReadAll(ctx, a.store, name, firstRead)
	if err != nil {
		return nil, err
	}
	size, err := headerSize(name, head)
	if err != nil {
		return nil, err
	}
	if size > int64(len(head)) {
		if head, err = ReadAll(ctx, a.store, name, size); err != nil {
			return nil, err
		}
	}
	if int64(len(head)) < size {
		return nil, &CorruptError{Object: name, What: "size", Have: fmt.Sprintf("%d bytes", len(head)), Want: "at least the header"}
	}
	return parseHeader(name, head[:size])
}

// check compares a header with the name of its object and with the archive.
func (a *Archive) check(p Piece, h *Header) error {
	size := a.identity.SegmentSize
	name := a.name(p)
	if err := h.Match(name, a.identity.Identity); err != nil {
		return err
	}
	have := Piece{ID: segment.At(h.Timeline, h.StartLSN, size), Tail: p.Tail, From: h.From, To: h.To, StoredSize: p.StoredSize}
	if have != p || size.Offset(h.StartLSN) != 0 {
		return &CorruptError{
			Object: name, What: "header", Want: "of this name",
			Have: fmt.Sprintf("of bytes %d to %d of segment %s", h.From, h.To, have.ID.Name(size)),
		}
	}
	return nil
}

// Fetch writes the plain bytes of a complete segment to w, exactly
// wal_segment_size of them, and verifies them: digest, length, page header,
// system identifier, timeline. What was written to w is worth nothing unless
// Fetch returns nil. [ErrNotExist] is a definite answer: the segment is not
// there as a whole; any other error means that this is not known.
func (a *Archive) Fetch(ctx context.Context, id segment.ID, w io.Writer) (*Header, error) {
	return a.fetchPiece(ctx, Piece{ID: id, To: int64(a.identity.SegmentSize)}, w)
}

func (a *Archive) fetchPiece(ctx context.Context, p Piece, w io.Writer) (*Header, error) {
	name := a.name(p)
	r, err := a.store.Get(ctx, name, 0, -1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	o := newObject(name, r)
	h, err := o.header()
	if err != nil {
		return nil, err
	}
	if err := a.check(p, h); err != nil {
		return nil, err
	}
	if o, err = a.unsealSegment(o); err != nil {
		return nil, err
	}
	first := &beginning{w: w}
	if err := a.decoders.decode(o, h, first); err != nil {
		return nil, err
	}
	if p.From == 0 { // the page header
		if err := wal.NewScanner(a.identity.ScanConfig(p.ID)).Feed(first.b); err != nil {
			return nil, &CorruptError{Object: name, What: "WAL", Have: err.Error(), Want: "that of this segment"}
		}
	}
	return h, nil
}

// beginning keeps the first bytes that pass.
type beginning struct {
	w io.Writer
	b []byte
}

func (f *beginning) Write(p []byte) (int, error) {
	if len(f.b) < wal.OriginSize {
		f.b = append(f.b, p[:min(len(p), wal.OriginSize-len(f.b))]...)
	}
	return f.w.Write(p)
}

// Tails lists the tail objects of a segment by their start.
func (a *Archive) Tails(ctx context.Context, id segment.ID) ([]Piece, error) {
	var tails []Piece
	for info, err := range a.store.List(ctx, TailPrefix(id, a.identity.SegmentSize), "") {
		if err != nil {
			return nil, err
		}
		if p, ok := a.piece(info); ok && p.Tail {
			tails = append(tails, p)
		}
	}
	return tails, nil
}

// FetchTail writes the longest verified beginning of a segment that its tail
// objects hold to w and returns its length in bytes: only the bytes before it
// count, whatever else was written. When an object that would have reached
// further cannot be used, the error says so beside the length. If the whole
// segment took their place, it is that. [ErrNotExist] is a definite answer:
// there is neither.
func (a *Archive) FetchTail(ctx context.Context, id segment.ID, w io.WriterAt) (n int64, err error) {
	for range 10 { // those that are listed may be superseded before they are read
		tails, err := a.Tails(ctx, id)
		if err != nil {
			return n, err
		}
		var moved bool
		var damage error
		if n, moved, damage = a.fetchTails(ctx, tails, n, w); moved {
			continue
		}
		if n < int64(a.identity.SegmentSize) {
			// They are removed when the whole segment is there: what was listed
			// may have been the rest of them.
			_, err = a.Fetch(ctx, id, io.NewOffsetWriter(w, 0))
			if err == nil {
				return int64(a.identity.SegmentSize), nil
			}
			if !errors.Is(err, ErrNotExist) || n == 0 && damage == nil {
				return n, errors.Join(damage, err)
			}
		}
		return n, damage
	}
	return n, fmt.Errorf("get tail of %s: its objects are removed faster than they can be read", id.Name(a.identity.SegmentSize))
}

// fetchTails goes on with n bytes from tail objects. It says whether one of
// them has moved.
func (a *Archive) fetchTails(ctx context.Context, tails []Piece, n int64, w io.WriterAt) (_ int64, moved bool, err error) {
	failed := map[Piece]error{}
	for {
		p, ok := furthest(tails, n, failed)
		if !ok {
			break
		}
		// What was verified already is not written again.
		_, err := a.fetchPiece(ctx, p, &skipWriter{w: io.NewOffsetWriter(w, n), skip: n - p.From})
		switch {
		case errors.Is(err, ErrNotExist):
			return n, true, nil
		case err != nil:
			failed[p] = err
		default:
			n = p.To
		}
	}
	for p, ferr := range failed {
		if p.To > n {
			err = errors.Join(err, ferr)
		}
	}
	return n, false, err
}

// furthest is the tail that continues at n, reaches furthest and did not fail.
func furthest(tails []Piece, n int64, failed map[Piece]error) (best Piece, ok bool) {
	for _, p := range tails {
		if p.From <= n && p.To > max(n, best.To) && failed[p] == nil {
			best, ok = p, true
		}
	}
	return best, ok
}

// skipWriter drops the first skip bytes.
type skipWriter struct {
	w    io.Writer
	skip int64
}

func (s *skipWriter) Write(p []byte) (int, error) {
	drop := min(s.skip, int64(len(p)))
	s.skip -= drop
	n, err := s.w.Write(p[drop:])
	return int(drop) + n, err
}
