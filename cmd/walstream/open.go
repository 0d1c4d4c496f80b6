package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/segment"
)

// openArchive opens the archive that the settings name, which must exist.
func (a *app) openArchive(ctx context.Context, c *config.Loaded) (*archive.Archive, error) {
	if _, err := requireArchive(c); err != nil {
		return nil, err
	}
	patient := slices.Contains([]string{"backup", "restore"}, a.cmd.Name())
	store, err := locate(ctx, c, false, patient)
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

// locate opens the store that the settings name. A patient one repeats requests
// for half a minute: what was long at work should not end by a short outage. Who
// tells a person, or repeats by himself, wants to know sooner.
func locate(ctx context.Context, c *config.Loaded, create, patient bool) (archive.Store, error) {
	cfg := archive.S3Config{
		Endpoint: c.S3.Endpoint, Region: c.S3.Region, PathStyle: c.S3.PathStyle, Checksum: c.S3.Checksum,
		StorageClass: c.S3.StorageClass, SSE: c.S3.SSE, KMSKey: c.S3.KMSKey, CAFile: c.S3.CAFile,
		Unconditional: c.S3.UnsafeUnconditional,
	}
	if !patient {
		cfg.Attempts, cfg.Silence = 3, 30*time.Second
	}
	return archive.Locate(ctx, c.Archive, create, cfg)
}

// keys are what the archive is encrypted with, if it is.
func keys(c *config.Loaded) archive.Keys {
	return archive.Keys{Recipients: c.Recipients, IdentityFile: c.IdentityFile}
}

// serverIdentity asks a server who it is.
func serverIdentity(ctx context.Context, opts pg.Options) (segment.Identity, pg.System, error) {
	conn, err := pg.ConnectReplication(ctx, opts)
	if err != nil {
		return segment.Identity{}, pg.System{}, err
	}
	defer conn.Done()
	return conn.Identity(ctx)
}

// server leads to the primary for a short task. The name by which the
// receiver is known as a synchronous standby stays its own.
func server(c *config.Loaded, task string) pg.Options {
	return pg.Options{Conninfo: c.DBName, ApplicationName: pg.DefaultApplicationName + "_" + task}
}
