package archive

import (
	"context"
	"errors"
	"io"

	"github.com/walstream/walstream/segment"
)

var errLater = errors.New("not implemented yet")

// Header reads the header of a piece, without its WAL, and checks it against
// the piece and the archive's identity. [ErrNotExist] is a definite answer.
func (a *Archive) Header(ctx context.Context, p Piece) (*Header, error) { return nil, errLater }

// Fetch writes the plain bytes of a complete segment to w, exactly
// wal_segment_size of them, and verifies them: digest, length, page header,
// system identifier, timeline. What was written to w is worth nothing unless
// Fetch returns nil. [ErrNotExist] is a definite answer: the segment is not
// there as a whole; any other error means that this is not known.
func (a *Archive) Fetch(ctx context.Context, id segment.ID, w io.Writer) (*Header, error) {
	return nil, errLater
}

// FetchTail writes the longest verified beginning of a segment that its tail
// objects hold to w and returns its length in bytes: only the bytes before it
// count, whatever else was written. When an object that would have reached
// further cannot be used, the error says so beside the length. [ErrNotExist]
// is a definite answer: there is no tail, and no complete segment either.
func (a *Archive) FetchTail(ctx context.Context, id segment.ID, w io.WriterAt) (n int64, err error) {
	return 0, errLater
}

type decoders struct{}
