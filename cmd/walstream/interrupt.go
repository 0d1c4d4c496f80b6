package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// interruptError is the cause of a context that a signal ended.
type interruptError struct{ signal os.Signal }

func (e *interruptError) Error() string { return fmt.Sprintf("interrupted (%s)", e.signal) }

func wasInterrupted(ctx context.Context) bool {
	return errors.As(context.Cause(ctx), new(*interruptError))
}

// interruptible ends the context at the first SIGINT or SIGTERM, so that what
// is in flight is finished; the second ends the process at once.
func (a *app) interruptible(parent context.Context, walGet bool) (ctx context.Context, stop func()) {
	code := exitInterrupted
	if walGet {
		code = walGetTrouble
	}
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	if walGet { // an immediate shutdown; Go would put its stacks into the server's log
		signal.Notify(signals, syscall.SIGQUIT)
	}
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-done:
			return
		case s := <-signals:
			cancel(&interruptError{s})
		}
		select {
		case <-done:
		case <-signals:
			os.Exit(code)
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		<-stopped
		cancel(nil)
	}
}
