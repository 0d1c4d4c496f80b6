package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/internal/term"
)

func (a *app) configCommand() *cobra.Command {
	cmd := a.group("config", "Check or show the configuration")
	cmd.AddCommand(
		&cobra.Command{
			Use: "check", Short: "Find everything that is wrong with the configuration", Args: wants(),
			RunE: a.configured(a.configCheck),
		},
		&cobra.Command{
			Use: "show", Short: "Show every setting and where it comes from, passwords masked", Args: wants(),
			RunE: a.configured(a.configShow),
		},
		&cobra.Command{
			Use: "example", Short: "Print a commented configuration file with the defaults", Args: wants(),
			RunE: a.runs(func(context.Context, []string) error {
				_, err := fmt.Fprint(a.stdout, config.Example())
				return err
			}),
		},
	)
	return cmd
}

func (a *app) configCheck(_ context.Context, c *config.Loaded, _ []string) error {
	if _, err := requireArchive(c); err != nil {
		return err
	}
	if _, err := (pg.Options{Conninfo: c.DBName}).Name(); err != nil {
		return err
	}
	return a.result(map[string]any{"ok": true, "file": c.File}, "ok (file: %s)\n", cmp.Or(c.File, "none"))
}

func (a *app) configShow(_ context.Context, c *config.Loaded, _ []string) error {
	if a.json {
		return term.JSON(a.stdout, struct {
			File     string         `json:"file,omitempty"`
			Settings []config.Value `json:"settings"`
		}{c.File, c.Values})
	}
	table := term.NewTable(a.stdout, "KEY", "VALUE", "ORIGIN")
	for _, v := range c.Values {
		table.Row(v.Key, v.Value, v.Origin)
	}
	return table.Flush()
}

// requireArchive is the place of the archive, without which no command that
// touches WAL or backups makes sense.
func requireArchive(c *config.Loaded) (string, error) {
	if c.Archive == "" {
		return "", &usageError{hint.With(errors.New("archive: not set"),
			"set archive in %s, or WALSTREAM_ARCHIVE, or: --archive /srv/walstream/archive", config.DefaultFile)}
	}
	return c.Archive, nil
}
