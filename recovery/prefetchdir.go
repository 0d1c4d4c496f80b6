package recovery

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/walstream/walstream/internal/ready"
)

// PrefetchDir is the directory of a prefetching server, which exists while
// there is one. It holds a lock on it, and listens on a socket there.
type PrefetchDir struct {
	path     string
	handle   *os.File // with the lock
	listener *net.UnixListener
}

// ServerStart is when the server of a data directory was started: the third line
// of its postmaster.pid. The names of segments that are ready end with it, so that
// the restore_command takes none that came here in another way: with a copy of
// another data directory, whole or not, by pg_rewind, or from an archive that this
// one recovered from before it was started.
func ServerStart(dir string) (int64, error) {
	body, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	lines := strings.SplitN(string(body), "\n", 4)
	if len(lines) < 4 {
		return 0, errors.New("postmaster.pid is cut off")
	}
	return strconv.ParseInt(lines[2], 10, 64)
}

// ClaimPrefetchDir makes the directory in pg_wal. What is left there of an
// earlier server is removed: it may not be what this one would fetch. An error
// with unix.EWOULDBLOCK means that one is running.
func ClaimPrefetchDir(wal string) (_ *PrefetchDir, err error) {
	d := &PrefetchDir{path: filepath.Join(wal, ready.Name)}
	if err := os.Mkdir(d.path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if d.handle, err = os.Open(d.path); err != nil {
		return nil, err
	}
	if err = unix.Flock(int(d.handle.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
		if err = d.wipe(); err == nil {
			d.listener, err = net.ListenUnix("unix", socketIn(d.handle))
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", d.path, err), d.handle.Close())
	}
	d.listener.SetUnlinkOnClose(false) // it is the server's, too
	return d, nil
}

// socketIn evades the limit of 108 bytes for the path of a socket.
func socketIn(dir *os.File) *net.UnixAddr {
	return &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), ready.Socket)}
}

// Hand gives what a server process has to inherit for [InheritPrefetchDir], and
// a file for its log.
func (d *PrefetchDir) Hand() (handle, socket, log *os.File, err error) {
	if socket, err = d.listener.File(); err != nil {
		return nil, nil, nil, err
	}
	log, err = os.OpenFile(filepath.Join(d.path, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	return d.handle, socket, log, err
}

// InheritPrefetchDir is what [PrefetchDir.Hand] gave this process.
func InheritPrefetchDir(wal string, handle, socket *os.File) (*PrefetchDir, error) {
	l, err := net.FileListener(socket)
	if err := errors.Join(err, socket.Close()); err != nil {
		return nil, err
	}
	listener, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(errors.New("what was inherited is no socket"), l.Close())
	}
	dir, err := filepath.Abs(filepath.Join(wal, ready.Name))
	return &PrefetchDir{path: dir, handle: handle, listener: listener}, err
}

// moves can be read from, what does not matter, when a file there has got another
// name or is gone.
func (d *PrefetchDir) moves() (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	if _, err := unix.InotifyAddWatch(fd, d.path, unix.IN_MOVED_FROM|unix.IN_DELETE); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "inotify"), nil
}

// Close gives it up in this process. The lock is held until all have.
func (d *PrefetchDir) Close() error { return errors.Join(d.listener.Close(), d.handle.Close()) }

// stands fails when the directory or the socket has been taken away.
func (d *PrefetchDir) stands() error {
	err := d.there()
	if err == nil {
		_, err = os.Lstat(filepath.Join(d.path, ready.Socket))
	}
	return err
}

func (d *PrefetchDir) there() error {
	ours, err := d.handle.Stat()
	if err != nil {
		return err
	}
	there, err := os.Stat(d.path)
	if err == nil && !os.SameFile(ours, there) {
		err = fmt.Errorf("%s is another directory: %w", d.path, fs.ErrNotExist)
	}
	return err
}

// remove takes the directory away, unless it is gone.
func (d *PrefetchDir) remove() error {
	err := d.there()
	if err == nil {
		err = errors.Join(d.wipe(), os.Remove(d.path))
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	_ = d.listener.Close() // or it is closed
	return errors.Join(err, d.handle.Close())
}

func (d *PrefetchDir) wipe() error {
	entries, err := os.ReadDir(d.path)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(d.path, e.Name())))
	}
	return err
}
