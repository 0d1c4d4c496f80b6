package receiver

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// wire is the connection of one stream. One goroutine at a time reads, one
// writes, and any may abort.
type wire interface {
	// Reads and writes that wait for longer than the silence fail with
	// os.ErrDeadlineExceeded.
	io.ReadWriteCloser
	// drained says that the last Read took all that had come, so that the
	// next one would wait. False when that is not known.
	drained() bool
	// abort makes reads and writes fail, those that wait included.
	abort()
}

// newWire takes conn over, or closes it. Without TLS it is taken from the
// runtime too: waiting in the system call itself spares two switches of threads
// for each commit.
func newWire(conn net.Conn, silence time.Duration) (wire, error) {
	plain, ok := conn.(syscall.Conn)
	if !ok {
		return &patientConn{Conn: conn, silence: silence}, nil
	}
	s := &socket{patience: silence, short: true}
	raw, err := plain.SyscallConn()
	if err == nil {
		// A duplicate, because the runtime's poller would wake up with each
		// message as long as it knows of the connection.
		cerr := raw.Control(func(fd uintptr) { s.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
		err = errors.Join(cerr, err)
	}
	if err = errors.Join(err, conn.Close()); err != nil {
		return nil, err
	}
	patience := unix.NsecToTimeval(silence.Nanoseconds())
	err = errors.Join(unix.SetNonblock(s.fd, false),
		unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience),
		unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience))
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// socket is a connection whose system calls block. They are ordinary ones, of
// which the runtime's scheduler knows.
type socket struct {
	fd       int
	patience time.Duration
	short    bool // the last Read got less than it asked for
	poll     [1]unix.PollFd
}

// Read waits in poll: in read it would be woken up on a unix socket when the
// server takes a status.
func (s *socket) Read(p []byte) (int, error) {
	if s.short {
		if err := s.wait(); err != nil {
			return 0, err
		}
	}
	n, err := retry(s.fd, p, unix.Read)
	if err != nil {
		return 0, os.NewSyscallError("read", err)
	}
	s.short = n < len(p)
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (s *socket) wait() error {
	for {
		s.poll[0] = unix.PollFd{Fd: int32(s.fd), Events: unix.POLLIN}
		n, err := unix.Poll(s.poll[:], int(s.patience.Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return os.NewSyscallError("poll", err)
		case n == 0:
			return os.ErrDeadlineExceeded
		default:
			return nil
		}
	}
}

func (s *socket) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		if m, err = retry(s.fd, p[n:], unix.Write); err == nil {
			n += m
		}
	}
	return n, os.NewSyscallError("write", err)
}

// retry calls read or write until no signal disturbs it.
func retry(fd int, p []byte, call func(int, []byte) (int, error)) (int, error) {
	for {
		n, err := call(fd, p)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return 0, os.ErrDeadlineExceeded
		default:
			return n, err
		}
	}
}

func (s *socket) drained() bool { return s.short }

// abort's error would say that the connection is gone already.
func (s *socket) abort() { _ = unix.Shutdown(s.fd, unix.SHUT_RDWR) }

// Close must not be called beside other methods: the number of the descriptor
// may mean another file at once.
func (s *socket) Close() error { return os.NewSyscallError("close", unix.Close(s.fd)) }

// patientConn is a connection with TLS.
type patientConn struct {
	net.Conn
	silence time.Duration
}

func (c *patientConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.silence)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *patientConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.silence)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (c *patientConn) drained() bool { return false }

// abort does not say goodbye, for which TLS might wait.
func (c *patientConn) abort() {
	conn := c.Conn
	if secure, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = secure.NetConn()
	}
	_ = conn.Close() // nothing more is expected of it
}
