package main

import (
	"context"
	"errors"
	"slices"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/pg"
)

// openArchive opens the archive that the settings name, which must exist.
func (a *app) openArchive(ctx context.Context, c *config.Loaded) (*archive.Archive, error) {
	if _, err := requireArchive(c); err != nil {
		return nil, err
	}
	store, err := locate(ctx, c, false)
	var arch *archive.Archive
	if err == nil {
		arch, err = keys(c).Open(ctx, store)
	}
	absent := errors.Is(err, archive.ErrNoDirectory) || errors.Is(err, archive.ErrNotPinned)
	if absent && slices.Contains([]string{"backup", "mark", "list"}, a.cmd.Name()) {
		err = hint.With(err, "if there is none yet: walstream receive --create-slot")
	}
	return arch, err
}

// locate opens the store that the settings name.
func locate(ctx context.Context, c *config.Loaded, create bool) (archive.Store, error) {
	return archive.Locate(ctx, c.Archive, create, archive.S3Config{
		Endpoint: c.S3.Endpoint, Region: c.S3.Region, PathStyle: c.S3.PathStyle, Checksum: c.S3.Checksum,
		StorageClass: c.S3.StorageClass, SSE: c.S3.SSE, KMSKey: c.S3.KMSKey, CAFile: c.S3.CAFile,
		Unconditional: c.S3.UnsafeUnconditional,
	})
}

// keys are what the archive is encrypted with, if it is.
func keys(c *config.Loaded) archive.Keys {
	return archive.Keys{Recipients: c.Recipients, IdentityFile: c.IdentityFile}
}

// server leads to the primary for a short task. The name by which the
// receiver is known as a synchronous standby stays its own.
func server(c *config.Loaded, task string) pg.Options {
	return pg.Options{Conninfo: c.DBName, ApplicationName: pg.DefaultApplicationName + "_" + task}
}
