package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/term"
	"github.com/walstream/walstream/recovery"
	"github.com/walstream/walstream/wal"
)

func (a *app) listCommand() *cobra.Command {
	lists := map[string]func(context.Context, recovery.Source) error{
		"backups": a.listBackups, "wal": a.listWAL, "timelines": a.listTimelines,
	}
	return &cobra.Command{
		Use: "list [backups|wal|timelines]", Short: "List what the archive holds, and what can be restored",
		Long: `List the backups in the archive and the time span that can be restored with
them, WAL that is still in the spool included; or the runs of WAL segments, with
what is missing between them; or the timelines and where they forked off.`,
		ValidArgs: []string{"backups", "wal", "timelines"},
		Args:      cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs),
		RunE: a.configured(func(ctx context.Context, c *config.Loaded, args []string) error {
			arch, err := a.openArchive(ctx, c)
			if err != nil {
				return err
			}
			return lists[append(args, "backups")[0]](ctx, sourceToLookAt(c, arch))
		}),
	}
}

// backupView is a backup as --json shows it: all but the list of its parts.
type backupView struct {
	ID               string       `json:"id"`
	Label            string       `json:"label"`
	ServerVersion    string       `json:"server_version"`
	Timeline         wal.Timeline `json:"timeline"`
	StartLSN         wal.LSN      `json:"start_lsn"`
	StopLSN          wal.LSN      `json:"stop_lsn"`
	Started          time.Time    `json:"started"`
	Finished         time.Time    `json:"finished"`
	PlainBytes       int64        `json:"plain_bytes"`
	StoredBytes      int64        `json:"stored_bytes"`
	Parts            int          `json:"parts"`
	Files            int64        `json:"files"`
	ChecksumFailures bool         `json:"checksum_failures"`
}

func viewBackup(c *backup.Commit) backupView {
	return backupView{c.ID, c.Label, c.ServerVersion, c.Timeline, c.StartLSN, c.StopLSN, c.Started.UTC(), c.Finished.UTC(),
		c.PlainBytes, c.StoredBytes, len(c.Parts), c.Files, c.ChecksumFailures}
}

func (v backupView) state() string {
	if v.ChecksumFailures {
		return "holds damaged pages"
	}
	return "ok"
}

func (a *app) listBackups(ctx context.Context, source recovery.Source) error {
	backups, unusable := []backupView{}, []string{}
	for c, err := range backup.List(ctx, source.Archive) {
		switch {
		case errors.As(err, new(*backup.UnusableError)):
			unusable = append(unusable, err.Error())
		case err != nil:
			return err
		default:
			backups = append(backups, viewBackup(c))
		}
	}
	windows, err := source.Windows(ctx)
	if err != nil {
		return err
	}
	if err := a.printBackups(backups, unusable, windows); err != nil {
		return err
	}
	if len(unusable) > 0 {
		return &problemsError{term.Count(len(unusable), "backup") + " cannot be used"}
	}
	return nil
}

func (a *app) printBackups(backups []backupView, unusable []string, windows []recovery.Window) error {
	if a.json {
		return term.JSON(a.stdout, map[string]any{"backups": backups, "unusable": unusable, "recoverable": append([]recovery.Window{}, windows...)})
	}
	if len(backups)+len(unusable) == 0 {
		return a.say("no backups; take one: walstream backup\n")
	}
	table := term.NewTable(a.stdout)
	if len(backups) > 0 {
		table.Row("BACKUP", "STARTED", "TOOK", "SIZE", "STORED", "TL", "START LSN", "STATE")
	}
	for _, b := range backups {
		table.Row(b.ID, term.Minute(b.Started), term.Duration(b.Finished.Sub(b.Started)), term.Size(b.PlainBytes),
			term.Size(b.StoredBytes), b.Timeline.String(), b.StartLSN.String(), b.state())
	}
	if err := table.Flush(); err != nil {
		return err
	}
	return a.say("%s\n", strings.Join(append(unusable, "recoverable: "+windowsText(windows)), "\n"))
}
