package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/recovery"
	"github.com/walstream/walstream/segment"
)

func TestExitCodes(t *testing.T) {
	_, conninfo := pgconn.ParseConfig("host=a port=none")
	interrupted, cancel := context.WithCancelCause(t.Context())
	cancel(&interruptError{syscall.SIGTERM})
	for _, c := range []struct {
		name string
		ctx  context.Context
		err  error
		want int
	}{
		{"done", t.Context(), nil, 0},
		{"done in spite of a signal", interrupted, nil, 0},
		{"failed", t.Context(), errors.New("x"), 1},
		{"foreign cluster", t.Context(), &segment.ForeignError{}, 1},
		{"usage", t.Context(), &usageError{errors.New("x")}, 2},
		{"configuration", t.Context(), &config.Error{Problems: []string{"x"}}, 2},
		{"conninfo", t.Context(), conninfo, 2},
		{"problems", t.Context(), &problemsError{"x"}, 3},
		{"unreachable", t.Context(), &recovery.Refusal{}, 4},
		{"locked", t.Context(), &segment.LockedError{}, 5},
		{"interrupted", interrupted, context.Canceled, 130},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.err
			if err != nil {
				err = hint.With(fmt.Errorf("op object: %w", err), "a hint")
			}
			if got := exitCode(c.ctx, err); got != c.want {
				t.Errorf("exit code %d, want %d", got, c.want)
			}
		})
	}
}

// PostgreSQL ends recovery on 1 to 125, so nothing but the definite answer may
// be 1, and nothing at all 2 to 199.
func TestWALGetExitCodes(t *testing.T) {
	for err, want := range map[error]int{
		nil: 0, &absentError{errors.New("x")}: 1, errors.New("x"): 200, context.Canceled: 200,
		&usageError{errors.New("x")}: 200, &config.Error{}: 200, &problemsError{"x"}: 200,
		&recovery.Refusal{}: 200, &segment.LockedError{}: 200,
	} {
		if got := walGetCode(err); got != want {
			t.Errorf("%T: exit code %d, want %d", err, got, want)
		}
	}
}

func TestWALGetCrashIsTrouble(t *testing.T) {
	var stderr bytes.Buffer
	a := &app{stderr: &stderr} // without a root command it crashes
	if got := a.execute(t.Context(), true); got != 200 || !strings.Contains(stderr.String(), "walstream: crash: ") {
		t.Errorf("exit code %d:\n%s", got, &stderr)
	}
}

func TestReport(t *testing.T) {
	err := hint.With(hint.With(fmt.Errorf("open spool: %w", errors.New("first\nsecond")), "inner"), "outer")
	var stderr bytes.Buffer
	(&app{stderr: &stderr}).report(t.Context(), err, 1)
	if want := "walstream: open spool: first\nwalstream: second\nhint: outer\nhint: inner\n"; stderr.String() != want {
		t.Errorf("got\n%swant\n%s", &stderr, want)
	}
	stderr.Reset()
	(&app{stderr: &stderr, json: true}).report(t.Context(), err, 1)
	var f failure
	if jerr := json.Unmarshal(stderr.Bytes(), &f); jerr != nil || strings.Count(stderr.String(), "\n") != 1 {
		t.Fatalf("%v in %q", jerr, &stderr)
	}
	if f.Type != "error" || f.Code != 1 || f.Error != err.Error() || len(f.Hints) != 2 {
		t.Errorf("%+v", f)
	}
}

func TestReportNamesTheSignal(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(&interruptError{syscall.SIGINT})
	var stderr bytes.Buffer
	(&app{stderr: &stderr}).report(ctx, fmt.Errorf("backup: %w", context.Canceled), 130)
	if want := "walstream: interrupted (interrupt)\n"; stderr.String() != want {
		t.Errorf("%q", &stderr)
	}
}

// A server that shuts down sends these to its restore_command.
func TestWalGetInterrupted(t *testing.T) {
	t.Parallel()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGQUIT} {
		dir := t.TempDir()
		cmd := exec.Command(bin, "wal-get", "--archive", filepath.Join(dir, "unmounted"), "000000010000000000000001", filepath.Join(dir, "1"))
		stderr, err := cmd.StderrPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(stderr)
		if line, err := r.ReadString('\n'); err != nil || !strings.Contains(line, "cannot get WAL yet") {
			t.Errorf("%q, %v", line, err)
		}
		if err := cmd.Process.Signal(sig); err != nil {
			t.Error(err)
		}
		rest, err := io.ReadAll(r)
		_ = cmd.Wait() // its code is looked at
		if code := cmd.ProcessState.ExitCode(); err != nil || code != walGetTrouble || strings.Contains(string(rest), "goroutine") {
			t.Errorf("%s: exit code %d, %v\n%s", sig, code, err, rest)
		}
	}
}
