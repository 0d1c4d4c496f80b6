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
	location, err := requireArchive(c)
	if err != nil {
		return nil, err
	}
	store, err := archive.Locate(location, false)
	var arch *archive.Archive
	if err == nil {
		arch, err = archive.Open(ctx, store)
	}
	absent := errors.Is(err, archive.ErrNoDirectory) || errors.Is(err, archive.ErrNotPinned)
	if absent && slices.Contains([]string{"backup", "mark", "list"}, a.cmd.Name()) {
		err = hint.With(err, "if there is none yet: walstream receive --create-slot")
	}
	return arch, err
}

// server leads to the primary for a short task. The name by which the
// receiver is known as a synchronous standby stays its own.
func server(c *config.Loaded, task string) pg.Options {
	return pg.Options{Conninfo: c.DBName, ApplicationName: pg.DefaultApplicationName + "_" + task}
}
