package main

import (
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
			RunE: a.runs(func(context.Context, []string) error { return a.configCheck() }),
		},
		&cobra.Command{
			Use: "show", Short: "Show every setting and where it comes from, passwords masked", Args: wants(),
			RunE: a.runs(func(context.Context, []string) error { return a.configShow() }),
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

func (a *app) configCheck() error {
	loaded, err := a.load()
	if err != nil {
		return err
	}
	if _, err := requireArchive(loaded); err != nil {
		return err
	}
	if _, err := (pg.Options{Conninfo: loaded.DBName}).Name(); err != nil {
		return err
	}
	file := loaded.File
	if file == "" {
		file = "none"
	}
	if a.json {
		return term.JSON(a.stdout, map[string]any{"ok": true, "file": loaded.File})
	}
	_, err = fmt.Fprintf(a.stdout, "ok (file: %s)\n", file)
	return err
}

func (a *app) configShow() error {
	loaded, err := a.load()
	if err != nil {
		return err
	}
	if a.json {
		return term.JSON(a.stdout, struct {
			File     string         `json:"file,omitempty"`
			Settings []config.Value `json:"settings"`
		}{loaded.File, loaded.Values})
	}
	table := term.NewTable(a.stdout, "KEY", "VALUE", "ORIGIN")
	for _, v := range loaded.Values {
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
