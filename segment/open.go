package segment

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"

	"github.com/walstream/walstream/internal/crashpoint"
	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/wal"
)

// Others of the group may read a spool, as they may an archive: a standby on the
// same host does, and its user need not be the receiver's.
const (
	dirPerm  = 0o750
	filePerm = 0o640
)

// OpenSpool makes the directory if it is missing, locks it, pins or checks its
// identity (a difference is a [*ForeignError]) and recovers what an earlier
// process left. The lock is a file lock and is taken on the operating
// system's file system only; a held one is a [*LockedError]. Recovery needs room
// for one segment: without it the error is a [*FullError], see [OpenDrain].
func OpenSpool(cfg SpoolConfig) (*Spool, error) {
	s := &Spool{
		dir:     cfg.Dir,
		fsys:    cfg.FS,
		id:      cfg.Identity,
		size:    cfg.Identity.SegmentSize,
		log:     cfg.Log,
		onFlush: cfg.OnFlush,
		zeros:   make([]byte, fillSize),
		saved:   map[wal.Timeline]savedHistory{},
		ended:   map[wal.Timeline]wal.LSN{},
		changed: make(chan struct{}),
		limit:   cfg.MaxSize,
	}
	if s.fsys == nil {
		s.fsys = fsx.OS{}
	}
	if !s.size.Valid() || s.id.SystemIdentifier == 0 {
		return nil, fmt.Errorf("spool %s: the cluster's identity is not complete: %+v", s.dir, s.id)
	}
	err := s.openDir()
	if err == nil {
		crashpoint.Hit(crashpoint.SpoolPinned)
		err = s.recoverFiles()
	}
	if err == nil {
		s.setPosition()
		return s, nil
	}
	_ = s.Close() // the first error says it all
	if errors.As(err, new(*LockedError)) || errors.As(err, new(*ForeignError)) {
		return nil, withHint(s.dir, err)
	}
	if err = fmt.Errorf("open spool %s: %w", s.dir, err); isFull(err) {
		err = &FullError{err}
	}
	return nil, withHint(s.dir, err)
}

func (s *Spool) openDir() error {
	if err := fsx.MkdirAll(s.fsys, s.dir, dirPerm); err != nil {
		return err
	}
	if err := fsx.SyncParents(s.fsys, s.dir); err != nil {
		return err
	}
	var err error
	if s.lock, err = takeLock(s.fsys, s.path(lockFile)); err != nil {
		return err
	}
	return s.pin()
}

// pin checks the identity that the spool has, or gives it one. It is written
// anew each time, see recoverFiles.
func (s *Spool) pin() error {
	pinned, err := readIdentity(s.fsys, s.dir)
	if err == nil {
		err = pinned.Match("spool "+s.dir, s.id)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = s.refuseNameless()
	}
	if err != nil {
		return err
	}
	body, err := json.MarshalIndent(s.id, "", "  ")
	if err != nil {
		return err
	}
	return fsx.WriteFile(s.fsys, s.path(identityFile), append(body, '\n'), filePerm)
}

// refuseNameless fails if the directory holds WAL but not whose it is.
func (s *Spool) refuseNameless() error {
	entries, err := s.fsys.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if kind, _, _ := parseFile(e.Name(), s.size); kind != otherFile && kind != tmpFile {
			return hint.Errorf("give an empty directory: --spool "+hint.Quote(s.dir+"-2"),
				"it holds %s, but no %s that says of which cluster", e.Name(), identityFile)
		}
	}
	return nil
}

func readIdentity(fsys fsx.FS, dir string) (Identity, error) {
	path := filepath.Join(dir, identityFile)
	body, err := fsx.ReadFile(fsys, path)
	if err != nil {
		return Identity{}, err
	}
	var id Identity
	if err := json.Unmarshal(body, &id); err != nil {
		return Identity{}, fmt.Errorf("%s: %w", path, err)
	}
	if !id.SegmentSize.Valid() {
		return Identity{}, fmt.Errorf("%s: %d is no wal_segment_size", path, id.SegmentSize)
	}
	return id, nil
}

// setPosition makes the end of what was recovered the current position.
func (s *Spool) setPosition() {
	if s.open != nil {
		return // has set it
	}
	tli := s.newest()
	end, _ := s.held(tli)
	s.tli, s.durable, s.appended = tli, end, end
}

// withHint says what can be done about the common failures of a spool.
func withHint(dir string, err error) error {
	switch {
	case errors.As(err, new(*LockedError)):
		return hint.With(err, "what that one is doing: walstream status --spool %s", hint.Quote(dir))
	case errors.As(err, new(*ForeignError)):
		return hint.With(err, "set spool.dir to an empty directory for this cluster")
	case errors.Is(err, fs.ErrPermission):
		return hint.With(err, "%s", hint.Access(dir))
	case isFull(err):
		return hint.With(err, "make room for the spool: df -h %s", hint.Quote(dir))
	case errors.Is(err, syscall.EROFS):
		return hint.With(err, "why may nothing be written there? %s", hint.Mount(dir))
	}
	return err
}
