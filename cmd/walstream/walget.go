package main

import (
	"context"
	"errors"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/term"
	"github.com/walstream/walstream/recovery"
	"github.com/walstream/walstream/segment"
)

func (a *app) walGetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "wal-get FILE PATH", Short: "Give PostgreSQL a WAL file: for restore_command", Args: wants("FILE", "PATH"),
		Long: `Put the WAL segment or timeline history FILE at PATH, verified and durable. It is
made for PostgreSQL's restore_command, which "walstream restore" writes.

Exit code 0: the file is there. 1: there is no such file, and nothing needs it.
200: anything else; PostgreSQL stops, and goes on when it is started again.`,
		RunE: a.runs(func(ctx context.Context, args []string) error { return a.walGet(ctx, args[0], args[1]) }),
	}
	a.addSettings(cmd.Flags(), "wal-get")
	return cmd
}

func (a *app) walGet(ctx context.Context, file, path string) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	if _, err := requireArchive(c); err != nil {
		return err // waiting does not mend it
	}
	spool, err := a.spoolToRead(c)
	if err != nil {
		return err
	}
	retry := c.RestoreRetry
	if retry == 0 {
		retry = -1 // not at all
	}
	log := a.logger(term.LogText)
	out, err := recovery.WalGet(ctx, recovery.WalGetConfig{
		Open:  func(ctx context.Context) (*archive.Archive, error) { return a.openArchive(ctx, c) },
		Spool: spool, RetryFor: retry, Log: log,
	}, file, path)
	switch {
	case out == recovery.Delivered:
		return nil
	case err == nil:
		err = errors.New(file + " was not delivered")
	}
	if out == recovery.Absent {
		return &absentError{err}
	}
	if len(hint.Of(err)) == 0 {
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
