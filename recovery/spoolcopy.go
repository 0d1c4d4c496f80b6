package recovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// makeSide makes the directory beside the data directory. One that another
// restore left is kept under another name: it may hold WAL.
func (r *restore) makeSide() error {
	if _, err := os.Lstat(r.side); err == nil && !r.begun {
		old := r.side + ".old"
		for n := 1; ; n++ {
			if _, err := os.Lstat(old); errors.Is(err, fs.ErrNotExist) {
				break
			}
			old = fmt.Sprintf("%s.old-%d", r.side, n)
		}
		if err := os.Rename(r.side, old); err != nil {
			return err
		}
	}
	if err := makeDir(r.side, r.owner); err != nil {
		return err
	}
	plan, err := json.MarshalIndent(r.Plan, "", "  ")
	if err != nil {
		return err
	}
	identity, err := json.MarshalIndent(r.Identity, "", "  ")
	if err != nil {
		return err
	}
	// Where there is a plan, the mark is already.
	if err := r.writeSide(map[string][]byte{unfinished: []byte(r.removal() + "\n")}); err != nil {
		return err
	}
	return r.writeSide(map[string][]byte{planFile: append(plan, '\n'), "walstream.json": append(identity, '\n')})
}

// writeSide puts files into the side directory, each all at once.
func (r *restore) writeSide(files map[string][]byte) error {
	root, err := os.OpenRoot(r.side)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // a directory handle, nothing is pending
	for name, body := range files {
		err := root.Remove(name + tmpSuffix)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			err = writeNew(root, name+tmpSuffix, body, r.owner)
		}
		if err == nil {
			err = root.Rename(name+tmpSuffix, name)
		}
		if err != nil {
			return err
		}
	}
	return syncIn(root, ".")
}

const tmpSuffix = ".tmp"

// copySpool copies the WAL that only the spool holds, and its histories. It is
// done first: that WAL may be the only copy there is. A standby goes on reading
// the spool instead.
func (r *restore) copySpool(ctx context.Context) error {
	if r.cfg.Source.Spool == "" || r.cfg.Standby != nil {
		return nil
	}
	view, err := r.readSpool()
	if err != nil {
		return err
	}
	histories := map[string][]byte{}
	for tli, body := range view.Histories {
		histories[segment.HistoryName(tli)] = body
	}
	if err := r.writeSide(histories); err != nil {
		return err
	}
	for _, sp := range r.SpoolOnly {
		id, err := segment.ParseName(sp.Segment, r.Identity.SegmentSize)
		if err != nil {
			return err
		}
		// Sealed since the view was made, it has another name in the next.
		_, err = whileMoving(ctx, func() (*segment.SpoolView, error) {
			err := r.copyPiece(view, id)
			if errors.Is(err, errNotHere) || errors.Is(err, fs.ErrNotExist) {
				// Released since the plan was made, so it is archived.
				err = r.archived(ctx, id)
			}
			if errors.Is(err, archive.ErrNotExist) {
				var verr error
				if view, verr = r.readSpool(); verr != nil {
					return nil, verr
				}
			}
			return view, err
		})
		if err != nil {
			return fmt.Errorf("segment %s, which only the spool had: %w", sp.Segment, err)
		}
	}
	return syncPath(r.side)
}

// archived fails with [archive.ErrNotExist] unless the archive has as much of a
// segment as the plan needs. Of the last one that is its tail where its timeline
// has ended: then the whole segment never comes.
func (r *restore) archived(ctx context.Context, id segment.ID) error {
	size := r.Identity.SegmentSize
	_, err := r.cfg.Source.Archive.Header(ctx, archive.Piece{ID: id, To: int64(size)})
	if _, whole := r.Required(id); whole || !errors.Is(err, archive.ErrNotExist) {
		return err
	}
	n, err := r.cfg.Source.Archive.FetchTail(ctx, id, &buffer{})
	if err == nil && id.Start(size)+wal.LSN(n) < min(r.Need, id.End(size)) {
		err = archive.ErrNotExist
	}
	return err
}

// copyPiece copies the longest piece of a segment that the spool holds,
// verifying it on the way.
func (r *restore) copyPiece(view *segment.SpoolView, id segment.ID) error {
	size := r.Identity.SegmentSize
	p, err := spoolPiece(view, id)
	if err != nil {
		return err
	}
	if _, whole := r.Required(id); whole && !p.Complete || id.Start(size)+wal.LSN(p.To) < min(r.Need, id.End(size)) {
		return errNotHere
	}
	name := id.Name(size)
	if !p.Complete {
		name = fmt.Sprintf("%s.%08X.tail", name, p.To)
	}
	name = filepath.Join(r.side, name)
	if err := os.Remove(name + tmpSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(name+tmpSuffix, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = copyVerified(f, p, r.Identity)
	if err == nil {
		err = errors.Join(r.owner.give(f), f.Sync())
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// spoolPiece finds the longest piece of a segment in a spool; errNotHere when
// there is none with valid WAL.
func spoolPiece(view *segment.SpoolView, id segment.ID) (segment.Sealed, error) {
	var best segment.Sealed
	for _, p := range view.Sealed {
		if p.ID == id && (p.Complete || !best.Complete && p.To > best.To) {
			best = p
		}
	}
	for _, p := range view.Partials {
		if p.ID != id || best.Complete {
			continue
		}
		p, err := view.Valid(p)
		if err != nil {
			return p, err
		}
		if p.To > best.To {
			best = p
		}
	}
	if best.To == 0 {
		return best, errNotHere
	}
	return best, nil
}

// copyVerified writes a piece of a spool to w. Its pages and records must be
// valid WAL of the cluster throughout, or for an unfinished piece as far as
// they go.
func copyVerified(w io.Writer, p segment.Sealed, identity segment.Identity) error {
	f, err := p.Open()
	if err != nil {
		return err
	}
	defer f.Close() // only read
	scan := wal.NewScanner(identity.ScanConfig(p.ID))
	n, err := io.Copy(w, io.TeeReader(io.NewSectionReader(f, 0, p.To), scan))
	if err == nil && n != p.To {
		err = fmt.Errorf("%s has %d bytes, not %d: %w", p.Path, n, p.To, io.ErrUnexpectedEOF)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", p.Path, err)
	}
	return nil
}
