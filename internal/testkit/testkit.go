// Package testkit runs real PostgreSQL servers, and the walstream binary
// beside them, for tests. PostgreSQL refuses to run as root, so for root the
// kit starts every process as an unprivileged user, in directories that this
// user owns.
package testkit

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// BinDir is the directory of the PostgreSQL server programs, as pg_config
// tells it. A machine without them fails the test: it is never skipped.
func BinDir(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("pg_config", "--bindir").Output()
	if err == nil {
		dir := strings.TrimSpace(string(out))
		if _, err := os.Stat(filepath.Join(dir, "initdb")); err == nil {
			return dir
		}
	}
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(dirs) == 0 {
		t.Fatal("no PostgreSQL server programs on this machine: make test installs them")
	}
	return filepath.Dir(dirs[len(dirs)-1])
}

// binDir is [BinDir] for a certain major version, 0 for the machine's own.
// Another one internal/setup fetches if need be.
func binDir(t testing.TB, major int) string {
	t.Helper()
	own := BinDir(t)
	if have, err := majorOf(own); err != nil {
		t.Fatal(err)
	} else if major == 0 || major == have {
		return own
	}
	_, file, _, _ := runtime.Caller(0)
	cmd := exec.Command(filepath.Join(filepath.Dir(file), "../setup/majors.sh"), strconv.Itoa(major))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("server programs of PostgreSQL %d: %v", major, err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), strconv.Itoa(major), "bin")
}

// majorOf asks the server program in bin for its major version.
func majorOf(bin string) (int, error) {
	out, err := exec.Command(filepath.Join(bin, "postgres"), "--version").Output()
	if err != nil {
		return 0, fmt.Errorf("postgres --version: %w", err)
	}
	var major int
	if _, err := fmt.Sscanf(string(out), "postgres (PostgreSQL) %d", &major); err != nil {
		return 0, fmt.Errorf("postgres --version says %q: %w", out, err)
	}
	return major, nil
}

// Unprivileged is who runs PostgreSQL: the postgres user (or nobody) when the
// tests run as root, otherwise nil for the user who runs the tests.
func Unprivileged(t testing.TB) *syscall.Credential {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, _ := strconv.ParseUint(u.Uid, 10, 32)
		gid, _ := strconv.ParseUint(u.Gid, 10, 32)
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	t.Fatal("running as root, and there is neither a user postgres nor nobody")
	return nil
}

// Dir makes a directory that the unprivileged user owns, with a path short
// enough for unix sockets. It is removed when the test ends.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ws")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	Own(t, dir)
	return dir
}

// Own gives path, and what is below it, to the unprivileged user.
func Own(t testing.TB, path string) {
	t.Helper()
	cred := Unprivileged(t)
	if cred == nil {
		return
	}
	err := filepath.WalkDir(path, func(p string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, int(cred.Uid), int(cred.Gid))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Command prepares a program to run as the unprivileged user. It dies with
// the test process. Receivers beside each other serve HTTP on ports of their own.
func Command(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: Unprivileged(t), Pdeathsig: syscall.SIGKILL}
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "HOME=/nonexistent", "LC_ALL=C", "WALSTREAM_HTTP_LISTEN=127.0.0.1:0")
	return cmd
}

// Run runs a program as the unprivileged user and returns its standard
// output; a failure ends the test with what the program said.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := Command(t, name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

// Wait calls done every few milliseconds until it returns true; after a
// minute the test fails with what and the last detail.
func Wait(t testing.TB, what string, done func() (ok bool, detail string)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var detail string
	var ok bool
	for {
		if ok, detail = done(); ok {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waited a minute for %s: %s", what, detail)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// FreePort is a TCP port on 127.0.0.1 that nobody listens on.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Build compiles the walstream binary into dir, for everyone to run. flags are
// those of go build.
func Build(dir string, flags ...string) (path string, err error) {
	path = filepath.Join(dir, "walstream")
	args := append([]string{"build", "-o", path}, flags...)
	cmd := exec.Command("go", append(args, "github.com/walstream/walstream/cmd/walstream")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, os.Chmod(dir, 0o755)
}
