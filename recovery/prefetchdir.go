package recovery

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// prefetchName is in pg_wal, so that a file that is ready has only to be
	// renamed. PostgreSQL heeds no such name there, and no base backup holds
	// what is in pg_wal.
	prefetchName   = "walstream.prefetch"
	prefetchSocket = "socket"
)

const (
	// serverSilence is after how long a server that says nothing hangs.
	serverSilence = 5 * time.Second
	// serverPatience is how long one request may take.
	serverPatience = time.Minute
)

// PrefetchDir is the directory of a prefetching server, which exists while
// there is one. It holds a lock on it, and listens on a socket there.
type PrefetchDir struct {
	path     string
	handle   *os.File // with the lock
	listener *net.UnixListener
}

// ClaimPrefetchDir makes the directory beside path, where PostgreSQL wants its
// files. What is left there of an earlier server is removed: who knows whether
// it is whole. An error with unix.EWOULDBLOCK means that one is running.
func ClaimPrefetchDir(path string) (_ *PrefetchDir, err error) {
	d := &PrefetchDir{path: filepath.Join(filepath.Dir(path), prefetchName)}
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
	return &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), prefetchSocket)}
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
func InheritPrefetchDir(path string, handle, socket *os.File) (*PrefetchDir, error) {
	l, err := net.FileListener(socket)
	if err := errors.Join(err, socket.Close()); err != nil {
		return nil, err
	}
	listener, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(errors.New("what was inherited is no socket"), l.Close())
	}
	dir, err := filepath.Abs(filepath.Join(filepath.Dir(path), prefetchName))
	return &PrefetchDir{path: dir, handle: handle, listener: listener}, err
}

// Close gives it up in this process. The lock is held until all have.
func (d *PrefetchDir) Close() error { return errors.Join(d.listener.Close(), d.handle.Close()) }

// stands fails when the directory or the socket has been taken away.
func (d *PrefetchDir) stands() error {
	err := d.there()
	if err == nil {
		_, err = os.Lstat(filepath.Join(d.path, prefetchSocket))
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

// prefetchRequest asks for a segment. Key stands for all that an answer depends
// on: a server with another one has none.
type prefetchRequest struct {
	Key  string `json:"key"`
	File string `json:"file"`
}

// prefetchAnswer names the file in the server's directory; nothing when the
// server has no answer.
type prefetchAnswer struct {
	Name string `json:"name,omitempty"`
}

// TakePrefetched puts a segment at path if a prefetching server has it or can
// fetch it. What it took was verified as [WalGet] does it, and is synced: what
// is not yet durable is its new name, which PostgreSQL changes again, durably,
// before it reads the file (KeepFileRestoredFromArchive). If nothing was taken,
// for whatever reason, WalGet has the answer; err is that reason.
func TakePrefetched(key, file, path string) (taken bool, err error) {
	return takePrefetched(prefetchRequest{key, file}, path, serverSilence)
}

func takePrefetched(req prefetchRequest, path string, silence time.Duration) (taken bool, err error) {
	dir, err := os.Open(filepath.Join(filepath.Dir(path), prefetchName))
	if err != nil {
		return false, err
	}
	defer func() { _ = dir.Close() }() // only read
	conn, err := net.DialUnix("unix", nil, socketIn(dir))
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close() }() // all is said
	var answer prefetchAnswer
	link := patient{conn, silence, time.Now().Add(serverPatience)}
	if err = conn.SetWriteDeadline(time.Now().Add(silence)); err == nil {
		err = json.NewEncoder(conn).Encode(req)
	}
	if err == nil {
		err = json.NewDecoder(link).Decode(&answer)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// It hangs, and no request shall wait for it again. It ends when it sees this.
		err = errors.Join(err, os.Remove(filepath.Join(dir.Name(), prefetchSocket)))
	}
	if err != nil || answer.Name == "" {
		return false, err
	}
	err = os.Rename(filepath.Join(dir.Name(), filepath.Base(answer.Name)), path)
	return err == nil, err
}

// patient is a connection from which something must come again and again.
type patient struct {
	*net.UnixConn
	silence time.Duration
	end     time.Time
}

func (p patient) Read(b []byte) (int, error) {
	deadline := time.Now().Add(p.silence)
	if p.end.Before(deadline) {
		deadline = p.end
	}
	if err := p.SetReadDeadline(deadline); err != nil {
		return 0, err
	}
	return p.UnixConn.Read(b)
}
