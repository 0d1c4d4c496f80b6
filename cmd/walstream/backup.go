package main

import (
	"context"
	"fmt"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"

	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/term"
)

type backupFlags struct {
	label      string
	checkpoint string
	maxRate    config.Size
	walTimeout time.Duration
}

func (a *app) backupCommand() *cobra.Command {
	var f backupFlags
	cmd := &cobra.Command{
		Use: "backup", Short: "Take a base backup into the archive", Args: wants(),
		Long: `Take a base backup over the replication protocol, straight into the archive.

It counts once the WAL that belongs to it is in the archive, which needs a
running "walstream receive".`,
		RunE: a.configured(func(ctx context.Context, c *config.Loaded, _ []string) error { return a.backup(ctx, c, f) }),
	}
	flags := cmd.Flags()
	flags.StringVar(&f.label, "label", "walstream", "label, kept in the backup")
	flags.StringVar(&f.checkpoint, "checkpoint", string(backup.Spread), "fast: begin at once; spread: spare the disk")
	flags.Var(&f.maxRate, "max-rate", "most bytes a second to read from the server, 0 is no limit")
	flags.DurationVar(&f.walTimeout, "wal-timeout", 10*time.Minute, "how long to wait for the backup's WAL in the archive")
	return cmd
}

func (a *app) backup(ctx context.Context, c *config.Loaded, f backupFlags) error {
	if f.checkpoint != string(backup.Fast) && f.checkpoint != string(backup.Spread) {
		return &usageError{fmt.Errorf("--checkpoint %q: want fast or spread", f.checkpoint)}
	}
	arch, err := a.openArchive(ctx, c)
	if err != nil {
		return err
	}
	log := a.logger(term.LogText)
	progress := term.NewProgress(a.stderr, log, "backup")
	var commit *backup.Commit
	err = progress.While(ctx, func(ctx context.Context) (err error) {
		commit, err = backup.Take(ctx, backup.Config{
			Server: server(c, "backup"), Archive: arch, Label: f.label, Checkpoint: backup.Checkpoint(f.checkpoint),
			MaxRate: int64(f.maxRate), Level: zstdLevel(c.CompressionLevel), WALTimeout: f.walTimeout,
			Progress: progress.Set, Log: log,
		})
		return err
	})
	if err != nil {
		return err
	}
	return a.result(viewBackup(commit), "backup %s: %s in %s, %s stored in %s\n", commit.ID, term.Size(commit.PlainBytes),
		term.Duration(commit.Finished.Sub(commit.Started)), term.Size(commit.StoredBytes), arch.Store())
}

// zstdLevel is the effort that compression_level names.
func zstdLevel(name string) zstd.EncoderLevel {
	_, level := zstd.EncoderLevelFromString(name)
	return level
}
