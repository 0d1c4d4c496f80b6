// Package ready asks a prefetching server for what it has ready: the short way
// of wal-get. PostgreSQL starts a process for each segment, and in this program
// most of its time goes into initialising packages, those for S3 and for
// metrics above all. They come after this one as long as it imports only what
// package os needs anyhow: Go takes packages in the order of their import paths,
// each after those that it imports. So a question that a server answers is over
// before main begins.
package ready

import (
	"errors"
	"io"
	"os"
	"slices"
	"syscall"
	"time"
)

const (
	// Name is that of the server's directory. It is in pg_wal, so that a file
	// that is ready has only to be renamed. PostgreSQL heeds no such name
	// there, and no base backup holds what is in pg_wal.
	Name = "walstream.prefetch"
	// Socket is the server's, in that directory.
	Socket = "socket"
	// MaxRequest bounds the bytes of a request.
	MaxRequest = 1 << 20
	// ServerFlag makes wal-get the server.
	ServerFlag = "prefetch-server"
	// ServerArg is that flag as the server's first argument.
	ServerArg = "--" + ServerFlag + "=true"
	// Silence is after how long a server that says nothing hangs.
	Silence = 5 * time.Second
	// patience is how long one request may take.
	patience = time.Minute
)

// What an answer begins with. White space before it is a sign of life. It ends
// with a line feed, and so does not count when it was cut off.
const (
	Delivered = "+" // and a file in the server's directory
	Absent    = "-" // and why
)

// Request asks for a file that PostgreSQL wants.
type Request struct {
	// File is a segment or a history.
	File string
	// Dir is pg_wal.
	Dir string
	// Path is where the file is to be.
	Path string
	// Key stands for all that an answer depends on: a server with another one
	// has none.
	Key string
}

func init() { //nolint:gochecknoinits // anything later is too late, see above
	if r, ok := Parse(os.Args[1:], os.Environ()); ok {
		r.exit()
	}
}

// exit ends the process with an answer of wal-get, if a server has it. A crash
// would end it with one that means "there is no such file".
func (r Request) exit() {
	defer func() { _ = recover() }()
	switch absent, err := r.Ask(Silence); {
	case err != nil:
	case absent == "":
		os.Exit(0)
	default:
		_, _ = os.Stderr.WriteString("walstream: " + absent + "\n")
		os.Exit(1)
	}
}

// Parse reads the arguments with which PostgreSQL calls wal-get: %f and %p
// beside each other. What else is there, the program and the environment make
// the key.
func Parse(args, environ []string) (r Request, ok bool) {
	at := slices.IndexFunc(args, func(s string) bool { return s == "pg_wal/RECOVERYXLOG" || s == "pg_wal/RECOVERYHISTORY" })
	if at < 1 || args[0] == ServerArg || !slices.Contains(args[:at-1], "wal-get") {
		return r, false
	}
	r = Request{File: args[at-1], Dir: "pg_wal", Path: args[at]}
	r.Key, _ = os.Executable() // always known on Linux
	for _, word := range slices.Concat(args[:at-1], args[at+1:]) {
		r.Key += "\x00" + word
	}
	for _, pair := range environ {
		if hasPrefix(pair, "WALSTREAM_") || hasPrefix(pair, "AWS_") {
			r.Key += "\x00" + pair
		}
	}
	return r, true
}

// hasPrefix is that of package strings, which would be too late.
func hasPrefix(s, prefix string) bool { return len(s) >= len(prefix) && s[:len(prefix)] == prefix }

var errNoAnswer = errors.New("the server has no answer")

// Ask asks the server, if there is one, and puts the file into its place; absent
// says why there is none. What was delivered was verified as wal-get does it.
// Its name is not durable yet: PostgreSQL changes that again, durably, before it
// reads the file (KeepFileRestoredFromArchive). After an error wal-get has to
// find the answer by itself.
func (r Request) Ask(silence time.Duration) (absent string, err error) {
	dir := r.Dir + "/" + Name
	answer, err := r.talk(dir+"/"+Socket, silence)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// It hangs, and no request shall wait for it again. It ends when it sees this.
		err = errors.Join(err, os.Remove(dir+"/"+Socket))
	}
	if err != nil {
		return "", err
	}
	for hasPrefix(answer, "\n") {
		answer = answer[1:]
	}
	if len(answer) < 3 || answer[len(answer)-1] != '\n' {
		return "", errNoAnswer
	}
	said := answer[1 : len(answer)-1]
	switch answer[:1] {
	case Delivered:
		return "", os.Rename(dir+"/"+said, r.Path)
	case Absent:
		return said, nil
	}
	return "", errNoAnswer
}

// talk returns all that a server says.
func (r Request) talk(socket string, silence time.Duration) (string, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), socket)
	defer f.Close()
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: socket}); err != nil {
		return "", &os.PathError{Op: "connect", Path: socket, Err: err}
	}
	if err := f.SetWriteDeadline(time.Now().Add(silence)); err != nil {
		return "", err
	}
	if _, err := f.WriteString(r.File + "\n" + r.Key); err != nil {
		return "", err
	}
	if err := syscall.Shutdown(fd, syscall.SHUT_WR); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(patient{f, silence, time.Now().Add(patience)})
	return string(answer), err
}

// patient is a connection from which something must come again and again.
type patient struct {
	*os.File
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
	return p.File.Read(b)
}
