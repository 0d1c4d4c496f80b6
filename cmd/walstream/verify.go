package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/term"
	"github.com/walstream/walstream/recovery"
)

type verifyFlags struct {
	since, backup string
	full          bool
}

func (a *app) verifyCommand() *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{
		Use: "verify", Short: "Check the archive; exit code 3 when something is damaged or missing", Args: wants(),
		Long: `Check that all is in the archive that restores need, and tell what cannot be
restored if not: each backup with all its parts, and from the oldest on the WAL
of each timeline without a hole.

It reads the header of every segment, and the contents of the newest 512 MiB of
WAL and of the newest 512 MiB of backups, as they are stored; with --full all
contents. Nothing is changed. In an encrypted archive the contents of WAL can be
read with --identity only.`,
		Example: `  walstream verify
  walstream verify --since 7d --full`,
		RunE: a.configured(func(ctx context.Context, c *config.Loaded, _ []string) error { return a.verify(ctx, c, f) }),
	}
	flags := cmd.Flags()
	flags.StringVar(&f.since, "since", "", "only what restores to moments since then need, like 7d or 36h")
	flags.StringVar(&f.backup, "backup", "", "only the backup with this ID, and the WAL that it needs itself")
	flags.BoolVar(&f.full, "full", false, "read the contents of everything")
	return cmd
}

func (a *app) verify(ctx context.Context, c *config.Loaded, f verifyFlags) error {
	since, err := parseSince(f.since, time.Now())
	if err != nil {
		return asUsage(a.cmd, err)
	}
	arch, err := a.openArchive(ctx, c)
	if err != nil {
		return err
	}
	start := time.Now()
	progress := term.NewProgress(a.stderr, a.logger(term.LogText), "verify")
	var v *recovery.Verification
	err = progress.While(ctx, func(ctx context.Context) (err error) {
		v, err = recovery.Verify(ctx, recovery.VerifyConfig{Archive: arch, Since: since, Backup: f.backup, Full: f.full, Progress: progress.Set})
		return err
	})
	if err != nil {
		return err
	}
	if err := a.printVerify(v, time.Since(start)); err != nil {
		return err
	}
	if n := len(v.Problems); n > 0 {
		return hint.With(&problemsError{term.Count(n, "problem")}, "what cannot be mended needs a new beginning: walstream backup")
	}
	return nil
}

// parseSince reads a length of time before now, in days too; "" is for ever.
func parseSince(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	d, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d < 0 {
		return time.Time{}, fmt.Errorf("--since %q: write it like 7d, 36h or 90m", s)
	}
	return now.Add(-d), nil
}

// verifyView is the result as --json prints it.
type verifyView struct {
	*recovery.Verification
	Problems []findingView `json:"problems"`
	Gaps     []findingView `json:"gaps"`
}

type findingView struct {
	recovery.Finding
	Effect string `json:"effect"`
}

func viewFindings(list []recovery.Finding) []findingView {
	views := make([]findingView, len(list))
	for i, f := range list {
		views[i] = findingView{f, effect(f)}
	}
	return views
}

func (a *app) printVerify(result *recovery.Verification, took time.Duration) error {
	v := verifyView{result, viewFindings(result.Problems), viewFindings(result.Gaps)}
	if a.json {
		return term.JSON(a.stdout, v)
	}
	table := term.NewTable(a.stdout)
	table.Row("checked", fmt.Sprintf("%s, %s, %s in %s; read %s of them", term.Count(v.Backups, "backup"), term.Count(v.Segments, "segment"),
		term.Size(v.StoredBytes), term.Duration(took), term.Size(v.ReadBytes)))
	for _, note := range v.Notes {
		table.Row("note", note)
	}
	for _, f := range v.Gaps {
		table.Row("gap", f.Object+": "+f.Problem)
		table.Row("effect", f.Effect)
	}
	for _, f := range v.Problems {
		table.Row("PROBLEM", f.Object+": "+f.Problem)
		table.Row("effect", f.Effect)
	}
	if len(v.Problems) == 0 {
		table.Row("result", "nothing is wrong")
	}
	return table.Flush()
}

// effect says what a finding costs.
func effect(f recovery.Finding) string {
	switch {
	case f.Backup != "":
		return "backup " + f.Backup + " cannot be restored"
	case f.Timeline == 0:
		return "nothing can be restored"
	case strings.HasPrefix(f.Object, "timeline "):
		return "nothing of timeline " + f.Timeline.String() + " can be restored"
	}
	on := " on timeline " + f.Timeline.String() + " cannot be reached"
	behind := term.Time(f.To) + " (backup " + f.Behind + ")"
	switch {
	case f.Behind == "" && f.From.IsZero():
		return "targets behind it" + on
	case f.Behind == "":
		return "targets after " + term.Time(f.From) + on
	case f.From.IsZero():
		return "targets before " + behind + on
	}
	return "targets between " + term.Time(f.From) + " and " + behind + on
}
