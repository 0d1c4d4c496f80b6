package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/recovery"
	"github.com/walstream/walstream/segment"
)

// The exit codes of every command but wal-get.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2   // usage or configuration
	exitProblems    = 3   // ran, found problems
	exitUnreachable = 4   // the target cannot be reached
	exitLocked      = 5   // another instance holds the lock
	exitInterrupted = 130 // by SIGINT or SIGTERM, with work left undone
)

// walGetTrouble is what wal-get returns for everything but a delivered file
// (0) and a definite "there is no such file" (1), which may end recovery.
// PostgreSQL stops at anything above 125.
const walGetTrouble = 200

// absentError is wal-get's definite answer.
type absentError struct{ error }

func (e *absentError) Unwrap() error { return e.error }

// usageError marks errors of the command line.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

// problemsError says that a command did its work and found problems, which it
// has already shown.
type problemsError struct{ summary string }

func (e *problemsError) Error() string { return e.summary }

// asUsage completes an error that the command line parser found.
func asUsage(cmd *cobra.Command, err error) error {
	if len(hint.Of(err)) == 0 {
		err = hint.With(err, "%s --help", cmd.CommandPath())
	}
	return &usageError{err}
}

func exitCode(ctx context.Context, err error) int {
	switch {
	case err == nil:
		return exitDone
	case wasInterrupted(ctx):
		return exitInterrupted
	case errors.As(err, new(*usageError)), errors.As(err, new(*config.Error)), errors.As(err, new(*pgconn.ParseConfigError)):
		return exitUsage
	case errors.As(err, new(*problemsError)):
		return exitProblems
	case errors.As(err, new(*recovery.Refusal)):
		return exitUnreachable
	case errors.As(err, new(*segment.LockedError)):
		return exitLocked
	}
	return exitFailed
}

// walGetCode maps every failure to trouble: only a definite "absent" may be 1.
func walGetCode(err error) int {
	switch {
	case err == nil:
		return recovery.Delivered.ExitCode()
	case errors.As(err, new(*absentError)):
		return recovery.Absent.ExitCode()
	}
	return walGetTrouble
}

// failure is an error as --json prints it, on one line like a log line.
type failure struct {
	Type  string   `json:"type"` // "error"
	Code  int      `json:"code"`
	Error string   `json:"error"`
	Hints []string `json:"hints,omitempty"`
}

// report prints what went wrong and what can be done about it.
func (a *app) report(ctx context.Context, err error, code int) {
	text := err.Error()
	if wasInterrupted(ctx) {
		text = context.Cause(ctx).Error()
		if !errors.Is(err, context.Canceled) {
			text += ": " + err.Error()
		}
	}
	hints := hint.Of(err)
	if len(hints) == 0 && errors.As(err, new(*segment.ForeignError)) {
		hints = []string{"give the server that belongs to the archive in -d, or another --archive"}
	}
	for i := range hints {
		hints[i] = a.pasteable(hints[i])
	}
	if a.json {
		// Nothing is left to do when standard error cannot be written.
		_ = json.NewEncoder(a.stderr).Encode(failure{Type: "error", Code: code, Error: text, Hints: hints})
		return
	}
	for line := range strings.Lines(text) {
		fmt.Fprintf(a.stderr, "walstream: %s\n", strings.TrimSuffix(line, "\n"))
	}
	for _, h := range hints {
		fmt.Fprintf(a.stderr, "hint: %s\n", h)
	}
	if a.debug {
		a.chain(err, "")
	}
}

// chain shows the types behind an error.
func (a *app) chain(err error, indent string) {
	fmt.Fprintf(a.stderr, "debug: %s%T: %v\n", indent, err, err)
	switch e := err.(type) { //nolint:errorlint // the chain itself is the subject
	case interface{ Unwrap() error }:
		if next := e.Unwrap(); next != nil {
			a.chain(next, indent+"  ")
		}
	case interface{ Unwrap() []error }:
		for _, next := range e.Unwrap() {
			a.chain(next, indent+"  ")
		}
	}
}
