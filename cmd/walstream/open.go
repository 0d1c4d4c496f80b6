package main

import (
	"context"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/pg"
)

// openArchive opens the archive that the settings name, which must exist.
func (a *app) openArchive(ctx context.Context, c *config.Loaded) (*archive.Archive, error) {
	location, err := requireArchive(c)
	if err != nil {
		return nil, err
	}
	store, err := archive.Locate(location, false)
	if err != nil {
		return nil, err
	}
	return archive.Open(ctx, store)
}

// server leads to the primary for a short task. The name by which the
// receiver is known as a synchronous standby stays its own.
func server(c *config.Loaded, task string) pg.Options {
	return pg.Options{Conninfo: c.DBName, ApplicationName: pg.DefaultApplicationName + "_" + task}
}
