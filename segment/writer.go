package segment

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/walstream/walstream/internal/crashpoint"
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

// whyGone is err, unless the file of the growing piece p was deleted.
func (s *Spool) whyGone(p Sealed, err error) error {
	s.syncMu.Lock() // under which such a file gets another name
	defer s.syncMu.Unlock()
	s.mu.Lock()
	current := s.current()
	s.mu.Unlock()
	if current == nil || current.id != p.ID || !s.deleted(p.Path) {
		return err
	}
	return s.fail(&DeletedError{filepath.Base(p.Path)})
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
	err, full, open, upTo, durable := s.err, s.full, s.open, s.appended, s.durable
	s.mu.Unlock()
	if err != nil || upTo == durable && full == nil { // which an earlier Sync may have covered, not sealed
		return err
	}
	if full != nil {
		if err := s.seal(); err != nil {
			return err
		}
	}
	if open != nil && upTo > open.id.Start(s.size) {
		if err := s.datasync(open); err != nil {
			return err
		}
	}
	crashpoint.Hit(crashpoint.SpoolSynced)
	s.mu.Lock()
	s.durable = upTo
	s.mu.Unlock()
	return nil
}

func (s *Spool) datasync(seg *openSegment) error {
	began := time.Now()
	if err := seg.f.Datasync(); err != nil {
		return s.fail(err)
	}
	if s.onFlush != nil {
		s.onFlush(time.Since(began))
	}
	return nil
}

// seal makes the full segment a complete one. It needs syncMu. Nothing behind
// it counts as durable before: so recovery finds one unfinished segment at
// most in which anything was acknowledged.
func (s *Spool) seal() error {
	full := s.full
	if err := s.datasync(full); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.SealSynced)
	p := &piece{Sealed: Sealed{ID: full.id, Path: s.completePath(full.id), To: int64(s.size), Complete: true}}
	p.inside = insideRecord(full.f, s.size)
	if err := s.settle(full, p); err != nil {
		return err
	}
	s.mu.Lock()
	s.full, s.durable = nil, full.id.End(s.size)
	s.mu.Unlock()
	// What cannot be removed now is tried again by the next seal or Release.
	_ = s.sweep()
	return nil
}

// settle gives the file of a segment, which is synced, its final name and
// makes it the piece p. It needs syncMu.
func (s *Spool) settle(seg *openSegment, p *piece) error {
	err := s.fsys.Rename(s.partialPath(seg.id), p.Path)
	if err == nil {
		crashpoint.Hit(crashpoint.SealNamed)
		err = s.fsys.SyncDir(s.dir)
	}
	if err == nil {
		crashpoint.Hit(crashpoint.SealDirSynced)
		err = seg.f.Close()
	}
	if err != nil {
		return s.fail(err)
	}
	s.add(p)
	return nil
}

func (s *Spool) setOpen(open *openSegment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = open
}
