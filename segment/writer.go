package segment

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/walstream/walstream/internal/crashpoint"
	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/mutant"
	"github.com/walstream/walstream/wal"
)

// fail makes err the spool's final error and returns what callers get.
func (s *Spool) fail(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = withHint(s.dir, fmt.Errorf("spool %s: %w", s.dir, err))
	}
	return s.err
}

func (s *Spool) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Sync makes all bytes durable that were appended before the call and returns
// the durable end of the timeline that is being received. It may run beside
// Append. After an error nothing more may be acknowledged.
func (s *Spool) Sync() (wal.LSN, error) {
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	err := s.sync()
	return s.durableEnd(), err
}

// sync needs syncMu. A caller that waited for it while another one synced
// often finds that nothing is left to do.
func (s *Spool) sync() error {
	s.mu.Lock()
	err, open, upTo, durable := s.err, s.open, s.appended, s.durable
	s.mu.Unlock()
	if err != nil || upTo == durable {
		return err
	}
	if err := open.f.Datasync(); err != nil {
		return s.fail(err)
	}
	crashpoint.Hit(crashpoint.SpoolSynced)
	s.mu.Lock()
	s.durable = upTo
	s.mu.Unlock()
	return nil
}

// prepare opens a new file for segment id, in which s.next lies. What the
// spool holds of the segment before that is copied from a remainder.
func (s *Spool) prepare(id ID) error {
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	var src io.Reader
	if off := s.size.Offset(s.next); off > 0 {
		tail, err := s.openHeld(id, off)
		if err != nil {
			return err
		}
		defer tail.Close() // only read
		src = io.NewSectionReader(tail, 0, off)
	}
	f, err := s.makePartial(id, src)
	if err != nil {
		return s.fail(err)
	}
	s.setOpen(&openSegment{id: id, f: f})
	return nil
}

func (s *Spool) setOpen(open *openSegment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = open
}

// makePartial makes the file of an unfinished segment: it begins with what src
// gives, nil for nothing, and is filled with zeros to its full size, so that
// an fdatasync has no metadata to write later on. File and name are durable
// when it returns. An older file of the name is replaced at that moment.
func (s *Spool) makePartial(id ID, src io.Reader) (fsx.File, error) {
	tmp := s.partialPath(id) + tmpSuffix
	if err := s.fsys.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := s.fsys.Create(tmp, 0o600)
	if err != nil {
		return nil, err
	}
	crashpoint.Hit(crashpoint.SpoolCreated)
	if err = s.fill(f, src); err == nil {
		err = f.Sync()
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
func (s *Spool) fill(f io.Writer, src io.Reader) error {
	left := int64(s.size)
	if src != nil {
		n, err := io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{src}, make([]byte, 256<<10))
		if err != nil {
			return err
		}
		left -= n
	}
	for left > 0 {
		n, err := f.Write(s.zeros[:min(int64(len(s.zeros)), left)])
		if err != nil {
			return err
		}
		left -= int64(n)
	}
	return nil
}

// seal makes the open segment, which is written to its end, a complete one.
// It needs syncMu.
func (s *Spool) seal() error {
	if err := s.sync(); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.SealSynced)
	id := s.open.id
	p := &piece{Sealed: Sealed{ID: id, Path: s.completePath(id), To: int64(s.size), Complete: true}}
	p.inside = insideRecord(s.open.f, s.size)
	if err := s.settle(p); err != nil {
		return err
	}
	// What cannot be removed now is tried again by the next seal or Release.
	_ = s.sweep()
	return nil
}

// settle gives the open segment's file, which is synced, its final name and
// makes it the piece p. It needs syncMu.
func (s *Spool) settle(p *piece) error {
	err := s.fsys.Rename(s.partialPath(s.open.id), p.Path)
	if err == nil {
		crashpoint.Hit(crashpoint.SealNamed)
		err = s.fsys.SyncDir(s.dir)
	}
	if err == nil {
		crashpoint.Hit(crashpoint.SealDirSynced)
		err = s.open.f.Close()
	}
	if err != nil {
		return s.fail(err)
	}
	s.setOpen(nil)
	s.add(p)
	return nil
}
