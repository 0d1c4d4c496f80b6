package segment

import (
	"context"
	"errors"
	"path/filepath"
	"sync"

	"github.com/gofrs/flock"

	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/wal"
)

// Drain hands out what is sealed in a spool that cannot be opened because its
// disk is full, so that releasing it makes room. It needs no room itself, and
// leaves alone what recovery of the unfinished segments needs. Its methods may
// be called concurrently.
type Drain struct {
	view *SpoolView
	fsys fsx.FS
	lock *flock.Flock

	mu     sync.Mutex
	queue  []Sealed
	left   int // not released
	needed map[string]bool
	done   chan struct{}
}

// OpenDrain locks the spool in dir; a held lock is a [*LockedError].
func OpenDrain(fsys fsx.FS, dir string) (*Drain, error) {
	d := &Drain{fsys: fsys, needed: map[string]bool{}, done: make(chan struct{})}
	var err error
	if d.lock, err = takeLock(fsys, filepath.Join(dir, lockFile)); err != nil {
		return nil, err
	}
	if d.view, err = ReadSpool(fsys, dir); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	d.queue, d.left = d.view.Sealed, len(d.view.Sealed)
	for _, p := range d.view.Partials {
		lead, _ := d.view.leadTo(p.ID)
		for _, l := range lead {
			d.needed[l.Path] = true
		}
	}
	if d.left == 0 {
		close(d.done)
	}
	return d, nil
}

// Identity is whose WAL it is.
func (d *Drain) Identity() Identity { return d.view.Identity }

// Done is closed when everything has been released.
func (d *Drain) Done() <-chan struct{} { return d.done }

// Next returns the sealed pieces by timeline and position, each once; then it
// waits for the end of ctx.
func (d *Drain) Next(ctx context.Context) (Sealed, error) {
	d.mu.Lock()
	if len(d.queue) > 0 {
		defer d.mu.Unlock()
		p := d.queue[0]
		d.queue = d.queue[1:]
		return p, nil
	}
	d.mu.Unlock()
	<-ctx.Done()
	return Sealed{}, context.Cause(ctx)
}

// After is always false: nothing is being written.
func (d *Drain) After(Position) (Sealed, bool) { return Sealed{}, false }

// Release says that the archive has confirmed p.
func (d *Drain) Release(p Sealed) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.left--; d.left == 0 {
		close(d.done)
	}
	if d.needed[p.Path] {
		return nil
	}
	return d.fsys.Remove(p.Path)
}

// Histories are the history files.
func (d *Drain) Histories() map[wal.Timeline][]byte { return d.view.Histories }

// Close gives up the lock.
func (d *Drain) Close() error {
	if d.lock == nil {
		return nil
	}
	return d.lock.Close()
}

// takeLock locks the file path; nil on another file system than the operating
// system's.
func takeLock(fsys fsx.FS, path string) (*flock.Flock, error) {
	if _, onDisk := fsys.(fsx.OS); !onDisk {
		return nil, nil
	}
	lock := flock.New(path)
	held, err := lock.TryLock()
	if err == nil && !held {
		err = &LockedError{Path: path}
	}
	if err != nil {
		return nil, err
	}
	return lock, nil
}
