package archive

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

const walPage = 8192 // XLOG_BLCKSZ

// beginning stores what is valid of a segment that need not be filled. n is
// how many bytes of it there are.
func (i *importer) beginning(ctx context.Context, f ImportFile, id segment.ID, data io.ReaderAt, n int64, before *Header) error {
	size := i.a.identity.SegmentSize
	cfg := i.a.scanBehind(id, before)
	end, why, err := wal.ValidEnd(data, cfg, n)
	if err != nil {
		return &FileError{f.Path, err}
	}
	if lsn, goesOn := behindDamage(data, cfg.Start, why, n); goesOn {
		return &FileError{f.Path, fmt.Errorf("no valid WAL at %s, but there is more at %s: %w", why.LSN, lsn, why)}
	}
	to := int64(end - cfg.Start)
	if to == 0 {
		if why == nil || why.Zeros {
			i.done.Needless++
			return nil
		}
		return &FileError{f.Path, why}
	}
	if i.known[id.Timeline][id].whole {
		return i.compareBeginning(ctx, f, id, io.NewSectionReader(data, 0, to))
	}
	return i.store(ctx, f, Piece{ID: id, Tail: to < int64(size), To: to}, data, before)
}

// behindDamage looks for pages of this segment behind the end of its valid
// records. Where writing stopped there are zeros, or what a recycled file held
// before: pages of other places. A page that belongs there was written after
// the one that is not valid.
func behindDamage(data io.ReaderAt, start wal.LSN, why *wal.EndError, n int64) (wal.LSN, bool) {
	if why == nil || why.Zeros {
		return 0, false
	}
	var head [16]byte
	for off := max(int64(why.LSN)-int64(start), 0)/walPage*walPage + walPage; off+walPage <= n; off += walPage {
		if _, err := data.ReadAt(head[:], off); err != nil {
			return 0, false
		}
		if lsn := start + wal.LSN(off); wal.LSN(binary.LittleEndian.Uint64(head[8:])) == lsn {
			return lsn, true
		}
	}
	return 0, false
}

// compareBeginning compares the valid beginning of a segment with the complete
// one, which is in the archive: a server that was promoted elsewhere may have
// gone on with other WAL.
func (i *importer) compareBeginning(ctx context.Context, f ImportFile, id segment.ID, data *io.SectionReader) error {
	whole := &prefixCompare{want: data}
	var err error
	if last := i.last[id.Timeline]; last.header != nil && last.id == id {
		// Just imported. A dry run has it nowhere else.
		err = i.copyPlain(whole)
	} else {
		_, err = i.a.Fetch(ctx, id, whole)
	}
	switch {
	case err != nil:
		return err
	case whole.differs:
		return &FileError{f.Path, errors.New("it differs from the complete segment: two servers wrote this timeline")}
	}
	i.done.Needless++
	return nil
}

// copyPlain writes the plain bytes of the file that was imported last.
func (i *importer) copyPlain(w io.Writer) error {
	size := int64(i.a.identity.SegmentSize)
	data, _, err := ImportFile{Path: i.path}.open(size)
	if err != nil {
		return err
	}
	defer data.Close() // only read
	_, err = io.Copy(w, io.NewSectionReader(data, 0, size))
	return err
}

// prefixCompare compares what is written to it with what want begins with.
type prefixCompare struct {
	want    *io.SectionReader
	differs bool
}

func (c *prefixCompare) Write(p []byte) (int, error) {
	want := make([]byte, len(p))
	n, err := io.ReadFull(c.want, want)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, err
	}
	c.differs = c.differs || !bytes.Equal(want[:n], p[:n])
	return len(p), nil
}
