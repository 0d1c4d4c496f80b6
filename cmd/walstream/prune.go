package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/term"
)

type pruneFlags struct {
	keep        int
	dryRun, yes bool
}

// pruneView is what prune deletes and what stays, as --json shows it.
type pruneView struct {
	DryRun     bool         `json:"dry_run"`
	Keep       []backupView `json:"keep"`
	Delete     []backupView `json:"delete"`
	Unfinished []string     `json:"unfinished"` // of backups that were never complete, data that goes too
	WALObjects int          `json:"wal_objects"`
	WALBytes   int64        `json:"wal_bytes"`
	Notes      []string     `json:"notes"`
	// RecoverableFrom is from when on the cluster can be restored afterwards.
	RecoverableFrom time.Time `json:"recoverable_from"`
}

func (a *app) pruneCommand() *cobra.Command {
	var f pruneFlags
	cmd := &cobra.Command{
		Use: "prune", Short: "Delete old backups, and WAL that no other needs", Args: wants(),
		Long: `Delete all but the newest backups that can be restored, and the WAL that none of
those needs. It shows first what it would delete, and asks; without a terminal
it needs --yes. What cannot be judged stays.`,
		Example: `  walstream prune --keep-backups 7 --dry-run
  walstream prune --keep-backups 7 --yes`,
		RunE: a.configured(func(ctx context.Context, c *config.Loaded, _ []string) error { return a.prune(ctx, c, f) }),
	}
	flags := cmd.Flags()
	flags.IntVar(&f.keep, "keep-backups", 0, "how many backups to keep, at least 1")
	flags.BoolVarP(&f.dryRun, "dry-run", "n", false, "only show what would be deleted")
	flags.BoolVar(&f.yes, "yes", false, "do not ask")
	return cmd
}

func (a *app) prune(ctx context.Context, c *config.Loaded, f pruneFlags) error {
	if f.keep < 1 {
		return asUsage(a.cmd, errors.New("--keep-backups: say how many to keep, at least 1"))
	}
	arch, err := a.openArchive(ctx, c)
	if err != nil {
		return err
	}
	plan, err := backup.PlanPrune(ctx, arch, f.keep, time.Now())
	if err != nil {
		return err
	}
	v := viewPrune(plan)
	v.DryRun = f.dryRun
	if f.dryRun || len(plan.Drop)+len(plan.Unfinished)+len(plan.WAL) == 0 {
		return a.printPrune(v)
	}
	if !a.json { // that tells what was deleted
		if err := a.printPrune(v); err != nil {
			return err
		}
	}
	if err := a.confirm(f.yes); err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	err = arch.WithLease(ctx, fmt.Sprintf("prune on %s, process %d", host, os.Getpid()), func(ctx context.Context) error {
		return a.pruneAsShown(ctx, arch, f.keep, plan)
	})
	if err == nil && a.json {
		err = a.printPrune(v)
	}
	return err
}

// pruneAsShown deletes if what was shown still holds.
func (a *app) pruneAsShown(ctx context.Context, arch *archive.Archive, keep int, shown *backup.Prune) error {
	plan, err := backup.PlanPrune(ctx, arch, keep, time.Now())
	if err != nil {
		return err
	}
	id := func(a, b *backup.Commit) bool { return a.ID == b.ID }
	if !slices.EqualFunc(plan.Keep, shown.Keep, id) || !slices.EqualFunc(plan.Drop, shown.Drop, id) {
		return errors.New("nothing was deleted: the backups have changed meanwhile; run it again")
	}
	progress := term.NewProgress(a.stderr, a.logger(term.LogText), "prune")
	total := viewPrune(plan).WALBytes
	return progress.While(ctx, func(ctx context.Context) error {
		return plan.Run(ctx, func(done int64) { progress.Set(done, total) })
	})
}

// confirm asks a person.
func (a *app) confirm(yes bool) error {
	if yes {
		return nil
	}
	if a.json || !term.IsTerminal(os.Stdin) {
		return &usageError{hint.Errorf("walstream prune --yes", "nothing was deleted: there is no terminal to ask on")}
	}
	fmt.Fprint(a.stderr, "delete this? [y/N] ")
	answer, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if answer = strings.ToLower(strings.TrimSpace(answer)); err != nil || answer != "y" && answer != "yes" {
		return errors.New("nothing was deleted")
	}
	return nil
}

func viewPrune(p *backup.Prune) pruneView {
	v := pruneView{Keep: []backupView{}, Delete: []backupView{}, Unfinished: append([]string{}, p.Unfinished...),
		Notes: append([]string{}, p.Notes...), WALObjects: len(p.WAL), RecoverableFrom: p.Oldest.Finished.UTC()}
	for _, c := range p.Keep {
		v.Keep = append(v.Keep, viewBackup(c))
	}
	for _, c := range p.Drop {
		v.Delete = append(v.Delete, viewBackup(c))
	}
	for _, info := range p.WAL {
		v.WALBytes += info.Size
	}
	return v
}

func (a *app) printPrune(v pruneView) error {
	if a.json {
		return term.JSON(a.stdout, v)
	}
	table := term.NewTable(a.stdout)
	for _, b := range v.Delete {
		table.Row("delete", b.ID, term.Size(b.StoredBytes), "of "+term.Minute(b.Started)+", timeline "+b.Timeline.String())
	}
	for _, id := range v.Unfinished {
		table.Row("delete", id, "", "what is left of a backup that was never complete")
	}
	if v.WALObjects > 0 {
		table.Row("delete", "WAL", term.Size(v.WALBytes), term.Count(v.WALObjects, "object"))
	}
	if len(v.Delete)+len(v.Unfinished)+v.WALObjects == 0 {
		table.Row("delete", "nothing")
	}
	for _, b := range v.Keep {
		table.Row("keep", b.ID, term.Size(b.StoredBytes), "of "+term.Minute(b.Started)+", timeline "+b.Timeline.String())
	}
	for _, note := range v.Notes {
		table.Row("note", note)
	}
	table.Row("recover", "from "+term.Time(v.RecoverableFrom)+" on")
	return table.Flush()
}
