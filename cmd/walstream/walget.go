package main

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/ready"
	"github.com/walstream/walstream/internal/term"
	"github.com/walstream/walstream/recovery"
	"github.com/walstream/walstream/segment"
)

// onErrorMode is what becomes of trouble that lasts: "fatal", "retry", or empty
// for what fits the server.
type onErrorMode string

// Set implements the flag.
func (m *onErrorMode) Set(s string) error {
	if s != "fatal" && s != "retry" {
		return errors.New("want fatal or retry")
	}
	*m = onErrorMode(s)
	return nil
}

func (m *onErrorMode) String() string { return string(*m) }

// Type implements the flag.
func (m *onErrorMode) Type() string { return "MODE" }

// standby says whether the server is to be treated as a standby. PostgreSQL
// runs its restore_command in the data directory.
func (m *onErrorMode) standby() (bool, error) {
	if *m != "" {
		return *m == "retry", nil
	}
	_, err := os.Stat("standby.signal")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (a *app) walGetCommand() *cobra.Command {
	var onError onErrorMode
	var from string
	var server bool
	cmd := &cobra.Command{
		Use: "wal-get FILE PATH", Short: "Give PostgreSQL a WAL file: for restore_command", Args: wants("FILE", "PATH"),
		Long: `Put the WAL segment or timeline history FILE at PATH, verified and durable. It is
made for PostgreSQL's restore_command, which "walstream restore" writes.

Exit code 0: the file is there. 1: there is no such file, and nothing needs it.
200: anything else; PostgreSQL stops, and goes on when it is started again.

A standby (standby.signal in the working directory) is not stopped: trouble is
retried for 30 s, then the code is 1, and the standby streams and asks again.
One that may be promoted should not go live without WAL that could not be read:
give --on-error fatal in its restore_command.

With --from the host needs no archive: "walstream serve" or "walstream receive"
answers at that URL, and what it sends is verified here too.

During recovery the first call leaves a process behind that fetches the segments
that will be asked for next into pg_wal/walstream.prefetch, and verifies them.
Later calls have only to rename them. The restore_command that restore writes
does that by itself, and calls wal-get for what is not ready. The process ends
with the recovery, and takes that directory along; if it was killed then, the
directory can be removed.`,
		RunE: a.runs(func(ctx context.Context, args []string) error {
			if server {
				return a.prefetch(ctx, from)
			}
			standby, err := onError.standby()
			if err != nil {
				return err
			}
			return a.walGet(ctx, from, args[0], args[1], standby)
		}),
	}
	cmd.Flags().BoolVar(&server, ready.ServerFlag, false, "")
	_ = cmd.Flags().MarkHidden(ready.ServerFlag) // it exists
	cmd.Flags().Var(&onError, "on-error", "fatal or retry: what a server is told of trouble; by default only a standby is to try again")
	cmd.Flags().StringVar(&from, "from", "", "URL of a walstream serve to ask instead of the archive")
	a.addSettings(cmd.Flags(), "wal-get")
	return cmd
}

// walGetConfig is what the settings, and --from, say about where WAL comes from.
// What is wrong there is not mended by waiting.
func (a *app) walGetConfig(from string) (*config.Loaded, recovery.WalGetConfig, error) {
	c, err := a.load()
	if err != nil {
		return nil, recovery.WalGetConfig{}, err
	}
	conf := recovery.WalGetConfig{
		Open:     func(ctx context.Context) (*archive.Archive, error) { return a.openArchive(ctx, c) },
		RetryFor: c.RestoreRetry, Log: a.logger(term.LogText),
	}
	if conf.RetryFor == 0 {
		conf.RetryFor = -1 // not at all
	}
	if from != "" {
		conf.From, err = remote(c.HTTP, from)
	} else {
		_, err = requireArchive(c)
	}
	if err == nil && (from == "" || c.FromFlag("spool.dir")) {
		conf.Spool, err = a.spoolToRead(c)
	}
	return c, conf, err
}

func (a *app) walGet(ctx context.Context, from, file, path string, standby bool) error {
	c, conf, err := a.walGetConfig(from)
	if err != nil {
		return err
	}
	request, started, err := a.startPrefetching(c)
	if err != nil {
		conf.Log.Warn().Err(err).Msg("WAL is not fetched ahead")
	}
	if started {
		if absent, err := request.Ask(ready.Silence); err == nil && absent != "" {
			return &absentError{errors.New(absent)}
		} else if err == nil {
			return nil
		}
	}
	conf.Standby = standby
	out, err := recovery.WalGet(ctx, conf, file, path)
	switch {
	case out == recovery.Delivered:
		return nil
	case err == nil:
		err = errors.New(file + " was not delivered")
	}
	if out == recovery.Absent {
		return &absentError{err}
	}
	switch {
	case len(hint.Of(err)) > 0:
	case from != "":
		err = hint.With(err, "does it answer? curl -i %s", hint.Quote(from+"/healthz"))
	default:
		err = hint.With(err, "what the archive has: walstream list wal")
	}
	return err
}

// spoolToRead is the spool to take WAL from that is not archived yet, empty if
// there is none. One that was asked for on the command line must be there.
func (a *app) spoolToRead(c *config.Loaded) (string, error) {
	if c.FromFlag("spool.dir") {
		return c.SpoolDir, nil
	}
	_, err := segment.ReadSpool(fsx.OS{}, c.SpoolDir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return c.SpoolDir, err
}
