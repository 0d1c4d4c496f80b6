package segment

import (
	"cmp"
	"errors"
	"io"
	"io/fs"

	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/wal"
)

// Sealed is a piece of WAL that will not change any more: a complete segment,
// or the remainder of one whose timeline ended within it. The durable part of
// the segment that is being written has the same form.
type Sealed struct {
	ID       ID
	Path     string // of the file, which may be longer than To
	To       int64  // its bytes are those of the segment up to this offset
	Complete bool
	Growing  bool // the segment is being written
	// Ahead is where the timeline ended on the server, when the piece holds
	// bytes behind it: WAL that the server which took over never had. Zero
	// otherwise.
	Ahead wal.LSN

	fsys  fsx.FS
	spool *Spool // of which it is the growing one, or nil
}

// Reader reads a piece. Offsets are those in the segment; what lies at or
// behind To is not part of the piece.
type Reader interface {
	io.ReaderAt
	io.Closer
}

// Open opens the piece for reading. It may be opened any number of times,
// until it is released. A growing one that is sealed meanwhile is
// fs.ErrNotExist. If it was deleted instead, that is a [*DeletedError], final
// for its spool: what comes to lie in that file is nowhere after a restart.
func (p Sealed) Open() (Reader, error) {
	f, err := p.fsys.Open(p.Path)
	if p.spool != nil && errors.Is(err, fs.ErrNotExist) {
		err = p.spool.whyGone(p, err)
	}
	return f, err
}

// end is the position behind the piece's last byte.
func (p Sealed) end(size Size) wal.LSN { return p.ID.Start(size) + wal.LSN(p.To) }

// compareSealed orders pieces by timeline and position, and of one segment the
// shorter first.
func compareSealed(a, b Sealed) int {
	return cmp.Or(
		cmp.Compare(a.ID.Timeline, b.ID.Timeline),
		cmp.Compare(a.ID.No, b.ID.No),
		cmp.Compare(a.To, b.To))
}
