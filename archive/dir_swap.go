package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"

	"github.com/walstream/walstream/internal/fsx"
)

// swapLock is what Swaps of several processes wait for. Its name is no
// object's.
const swapLock = ".swap.lock"

// Swap implements [Store].
func (d *Dir) Swap(ctx context.Context, name string, old, body []byte) error {
	err := checkState(name)
	if err == nil {
		err = begin(ctx, "swap", name)
	}
	if err != nil {
		return err
	}
	d.swap.Lock()
	defer d.swap.Unlock()
	if err := d.present(); err != nil {
		return fmt.Errorf("swap %s: %w", name, err)
	}
	if _, onDisk := d.fs.(fsx.OS); onDisk {
		lock := flock.New(filepath.Join(d.root, swapLock), flock.SetPermissions(filePerm))
		if _, err := lock.TryLockContext(ctx, 10*time.Millisecond); err != nil {
			return d.fail("swap", name, err)
		}
		defer func() { _ = lock.Close() }() // releases it
	}
	have, err := fsx.ReadFile(d.fs, d.path(name))
	absent := errors.Is(err, fs.ErrNotExist)
	if err != nil && !absent {
		return d.fail("swap", name, err)
	}
	if absent != (old == nil) || !bytes.Equal(have, old) {
		return fmt.Errorf("swap %s: %w", name, ErrChanged)
	}
	tmp, err := d.writeTemp(ctx, bytes.NewReader(body))
	if err == nil {
		err = d.makeDirs(filepath.Dir(d.path(name)))
	}
	if err == nil {
		err = d.fs.Rename(tmp, d.path(name))
	}
	if err == nil {
		err = d.syncName(name)
	}
	if err == nil {
		err = d.present()
	}
	if err != nil {
		return d.fail("put", name, err) // as of Put: nothing of it is an absence
	}
	return nil
}
