package segment

import (
	"context"
	"errors"
	"io"
	"io/fs"

	"github.com/walstream/walstream/internal/crashpoint"
	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/mutant"
	"github.com/walstream/walstream/wal"
)

// fillSize is what one write of zeros takes. The kernel keeps a file in memory
// in the pieces in which it was written, and every commit that is written over
// the zeros pays for the whole piece that it lies in: PostgreSQL's page is the
// right size. With pieces of 1 MiB a commit took a tenth more of the processor.
const fillSize = 8 << 10

// Prepare makes the file of the next segment, so that Append need not, once
// half of the open one is written. If all WAL before ahead is about to come,
// and that segment is part of it, it is made at once and not filled with
// zeros: it will be written and synced as a whole. Prepare may run beside all
// other methods. It returns nil when ctx ends, and when there is no room.
func (s *Spool) Prepare(ctx context.Context, ahead wal.LSN) error {
	s.spareMu.Lock()
	defer s.spareMu.Unlock()
	s.mu.Lock()
	err, open, half := s.err, s.open, s.size.Offset(s.appended) >= int64(s.size)/2
	full := s.atLimit()
	s.mu.Unlock()
	if err != nil || open == nil || s.spare != nil || full {
		return err
	}
	id := ID{Timeline: open.id.Timeline, No: open.id.No + 1}
	soon := ahead >= id.End(s.size)
	if !half && !soon || s.holds(id) {
		return nil
	}
	f, err := s.makePartial(ctx, id, nil, !soon)
	if err != nil {
		if ctx.Err() != nil || errors.As(err, new(*FullError)) {
			return nil
		}
		return s.fail(err)
	}
	s.setSpare(&openSegment{id: id, f: f})
	return nil
}

// setSpare needs spareMu.
func (s *Spool) setSpare(spare *openSegment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spare = spare
}

// dropSpare removes what Prepare made, durably, unless it is for the segment
// keep. It needs syncMu.
func (s *Spool) dropSpare(keep ID) error {
	s.spareMu.Lock()
	defer s.spareMu.Unlock()
	return s.dropSpareLocked(keep)
}

func (s *Spool) dropSpareLocked(keep ID) error {
	spare := s.spare
	if spare == nil || spare.id == keep {
		return nil
	}
	s.setSpare(nil)
	spare.f.Close()
	err := s.fsys.Remove(s.partialPath(spare.id))
	if err == nil {
		err = s.fsys.SyncDir(s.dir)
	}
	if err != nil {
		return s.fail(err)
	}
	return nil
}

// prepare makes the file for segment id, in which s.next lies, the open one.
// What the spool holds of the segment before that is copied from a remainder.
func (s *Spool) prepare(id ID) error {
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	s.spareMu.Lock()
	defer s.spareMu.Unlock()
	off := s.size.Offset(s.next)
	if spare := s.spare; spare != nil && spare.id == id && off == 0 {
		s.setSpare(nil)
		s.setOpen(spare)
		return nil
	}
	if err := s.dropSpareLocked(ID{}); err != nil {
		return err
	}
	var src io.Reader
	if off > 0 {
		tail, err := s.openHeld(id, off)
		if err != nil {
			return err
		}
		defer tail.Close() // only read
		src = io.NewSectionReader(tail, 0, off)
	}
	f, err := s.makePartial(context.Background(), id, src, true)
	if err != nil {
		return s.failUnlessFull(err)
	}
	s.setOpen(&openSegment{id: id, f: f})
	return nil
}

// makePartial makes the file of an unfinished segment: it begins with what src
// gives, nil for nothing, and has its full size. With fill zeros are written,
// so that an fdatasync has no metadata to write later on; without, the room is
// only taken. What was written and the name are durable when it returns. An
// older file of the name is replaced at that moment. A disk without room for it
// is a [*FullError].
func (s *Spool) makePartial(ctx context.Context, id ID, src io.Reader, fill bool) (fsx.File, error) {
	tmp := s.partialPath(id) + tmpSuffix
	if err := s.fsys.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := s.fsys.Create(tmp, filePerm)
	if isFull(err) {
		err = &FullError{err}
	}
	if err != nil {
		return nil, err
	}
	crashpoint.Hit(crashpoint.SpoolCreated)
	if fill {
		if err = s.fill(ctx, f, src); err == nil {
			err = f.Sync()
		}
	} else {
		err = f.Allocate(int64(s.size)) // a full disk has to show here
	}
	if err == nil {
		crashpoint.Hit(crashpoint.SpoolFilled)
		err = s.fsys.Rename(tmp, s.partialPath(id))
	}
	if err == nil {
		crashpoint.Hit(crashpoint.SpoolNamed)
	}
	if err == nil && !mutant.NoDirSync {
		err = s.fsys.SyncDir(s.dir)
	} else if isFull(err) {
		err = &FullError{err} // the file is given up; the next one is another
	}
	if err != nil {
		f.Close()
		s.fsys.Remove(tmp) // gives back the space; nothing counts on it
		return nil, err
	}
	crashpoint.Hit(crashpoint.SpoolDirSynced)
	return f, nil
}

// fill writes a whole segment to f: the bytes of src, then zeros. It copies
// through memory on purpose: the copy_file_range that io.Copy would use may
// share blocks on the disk, and after a failed fsync these can be older than
// the bytes that were read and checked.
func (s *Spool) fill(ctx context.Context, f io.Writer, src io.Reader) error {
	left := int64(s.size)
	if src != nil {
		n, err := io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{src}, make([]byte, 256<<10))
		if err != nil {
			return err
		}
		left -= n
	}
	for left > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.Write(s.zeros[:min(int64(len(s.zeros)), left)])
		if err != nil {
			return err
		}
		left -= int64(n)
	}
	return nil
}
