package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/receiver"
	"github.com/walstream/walstream/segment"
)

// watch runs status --watch with its output going to out, until look, which
// reads the other end, has seen enough. It returns the exit code of ^C.
func (w *world) watch(out *os.File, look func(), args ...string) int {
	w.t.Helper()
	cmd := w.command(append([]string{"status", "--watch"}, args...)...)
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	out.Close()
	defer time.AfterFunc(time.Minute, func() { cmd.Process.Kill() }).Stop() // ends look too
	look()
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		w.t.Fatal(err)
	}
	_ = cmd.Wait() // the exit code says it
	return cmd.ProcessState.ExitCode()
}

// terminal is a pseudo-terminal, the end of a program and that of its user.
func terminal(t *testing.T) (program, user *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { user.Close() })
	if err := unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return program, user
}

func pipe(t *testing.T) (in, out *os.File) {
	t.Helper()
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	return in, out
}

// status --watch shows what changes: the receiver's end too, which does not
// end it.
func TestStatusWatch(t *testing.T) {
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	r := w.receive("--create-slot")

	in, out := pipe(t)
	states := map[receiver.State]int{}
	code := w.watch(in, func() {
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for states[receiver.Stopped] < 2 && lines.Scan() {
			var v statusView
			decode(t, lines.Text(), &v)
			if states[v.State]++; states[receiver.Streaming] == 2 && states[receiver.Stopped] == 0 {
				r.stop()
			}
		}
	}, "--json")
	if code != 130 || states[receiver.Streaming] < 2 || states[receiver.Stopped] != 2 {
		t.Errorf("exit code %d, saw %v", code, states)
	}

	in, out = pipe(t)
	var text strings.Builder
	code = w.watch(in, func() {
		lines := bufio.NewScanner(out)
		for range 2 {
			lines.Scan()
			fmt.Fprintln(&text, lines.Text())
		}
	})
	if want := "PROBLEM: no receiver is running on this spool\n"; code != 130 || strings.Count(text.String(), " UTC  stopped, flushed ") != 2 || strings.Count(text.String(), want) != 2 {
		t.Errorf("exit code %d:\n%s", code, &text)
	}

	program, user := terminal(t)
	var screen bytes.Buffer
	code = w.watch(program, func() {
		for buf := make([]byte, 4096); bytes.Count(screen.Bytes(), []byte("\x1b[H\x1b[2Jstate     stopped")) < 2; {
			n, err := user.Read(buf)
			screen.Write(buf[:n])
			if err != nil && err != io.EOF {
				t.Errorf("%v after %q", err, &screen)
				return
			}
		}
	})
	if code != 130 || strings.Contains(screen.String(), `"state"`) {
		t.Errorf("exit code %d:\n%q", code, &screen)
	}
}

// Each look would cost requests, and wait for a store that does not answer.
func TestWatchSparesTheArchive(t *testing.T) { synctest.Test(t, testWatchSparesTheArchive) }

func testWatchSparesTheArchive(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "archive")
	store, err := archive.Locate(t.Context(), dir, true, archive.S3Config{})
	if err == nil {
		_, err = archive.Pin(t.Context(), store, segment.Identity{SystemIdentifier: 1, MajorVersion: 15, SegmentSize: mib})
	}
	if err != nil {
		t.Fatal(err)
	}
	spool := t.TempDir()
	receiving, err := net.Listen("unix", filepath.Join(spool, socketName))
	if err != nil {
		t.Fatal(err)
	}
	l := looker{app: &app{cmd: &cobra.Command{Use: "status"}}, conf: &config.Loaded{Config: config.Config{Archive: dir, SpoolDir: spool}}}
	look := func(want string) {
		t.Helper()
		go func() {
			if conn, err := receiving.Accept(); err == nil {
				fmt.Fprint(conn, `{"running": true}`)
				conn.Close()
			}
		}()
		v, err := l.look(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(v.Problems, "; "); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	look("")
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	look("")
	time.Sleep(archiveInterval + time.Second)
	look("the archive cannot be looked at")
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	time.Sleep(archiveInterval + time.Second)
	look("")
	if err := receiving.Close(); err != nil {
		t.Error(err)
	}
}
