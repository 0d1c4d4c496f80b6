package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/term"
	"github.com/walstream/walstream/recovery"
	"github.com/walstream/walstream/wal"
)

type restoreFlags struct {
	time, lsn, xid, name string
	immediate, exclusive bool
	timeline, action     string
	backup               string
	tablespaces          []string
	owner                string
	jobs                 int
	dryRun               bool
	standby              bool
	conninfo             string
	onError              onErrorMode
	wait                 bool
	pgBin                string
}

func (a *app) restoreCommand() *cobra.Command {
	var f restoreFlags
	cmd := &cobra.Command{
		Use: "restore DIR", Short: "Restore the cluster into DIR, to the end of WAL or any moment before", Args: wants("DIR"),
		Long: `Restore a backup into DIR, which must be empty or absent, and prepare recovery to
the target: start it with "pg_ctl -D DIR start". Without a target recovery goes
to the end of WAL, including what only the spool (--spool) holds. With --wait it
is started here, closed to clients, and where recovery ends is compared with the
plan.

With --standby it becomes a replica: it catches up from the archive, and then
streams from the server in --primary-conninfo, with its slot --slot if there is
one. Without --primary-conninfo it follows the archive only.

What cannot be reached is refused before anything is written. A restore that was
interrupted goes on when the same command is given again.`,
		Example: `  walstream restore /srv/restored --target-time '2026-11-22 09:41' --dry-run
  walstream restore /srv/restored --target-time '10 minutes ago'
  walstream restore /srv/restored
  walstream restore /srv/replica --standby --primary-conninfo 'host=db1 user=walstream'`,
		RunE: a.configured(func(ctx context.Context, c *config.Loaded, args []string) error { return a.restore(ctx, c, args[0], f) }),
	}
	flags := cmd.Flags()
	f.addTarget(cmd)
	flags.StringArrayVar(&f.tablespaces, "tablespace-map", nil, "put the tablespace at OLD to NEW instead, as OLD=NEW; may be repeated")
	flags.StringVar(&f.owner, "owner", "", "as root: the user who shall own the files (default: the owner of DIR or its parent)")
	flags.IntVar(&f.jobs, "jobs", 4, "parts to restore at the same time")
	flags.BoolVarP(&f.dryRun, "dry-run", "n", false, "show the plan, write nothing")
	flags.BoolVar(&f.standby, "standby", false, "make a standby, which keeps the settings for archiving and synchronous standbys")
	flags.StringVar(&f.conninfo, "primary-conninfo", "", "where the standby streams from")
	flags.Var(&f.onError, "on-error", "what wal-get tells the standby of trouble: retry, or fatal for one that is to take over (default retry)")
	flags.BoolVar(&f.wait, "wait", false, "start PostgreSQL, follow recovery to its end and compare it with the plan")
	flags.StringVar(&f.pgBin, "pg-bin", "", "directory of PostgreSQL's programs for --wait (default: pg_config's, or the usual ones)")
	return cmd
}

// addTarget defines the flags that say where to: all that a plan depends on.
func (f *restoreFlags) addTarget(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.time, "target-time", "", "recover up to this time; without an offset it is local")
	flags.StringVar(&f.lsn, "target-lsn", "", "recover up to this LSN")
	flags.StringVar(&f.xid, "target-xid", "", "recover up to the end of this transaction")
	flags.StringVar(&f.name, "target-name", "", "recover up to this restore point (walstream mark)")
	flags.BoolVar(&f.immediate, "target-immediate", false, "recover to the end of the backup only")
	flags.BoolVar(&f.exclusive, "target-exclusive", false, "stop just before the target instead of just after it")
	flags.StringVar(&f.timeline, "target-timeline", "latest", "timeline to recover along: latest, current or a number")
	flags.StringVar(&f.action, "target-action", "", "what to do at the target: pause, promote or shutdown (default pause)")
	flags.StringVar(&f.backup, "backup", "", "ID of the backup to use (default: the newest that reaches the target)")
	cmd.MarkFlagsMutuallyExclusive("target-time", "target-lsn", "target-xid", "target-name", "target-immediate")
}

func (a *app) restore(ctx context.Context, c *config.Loaded, dir string, f restoreFlags) error {
	target, err := f.target(time.Now())
	if err != nil {
		return &usageError{err}
	}
	conf, err := a.restoreConfig(ctx, c, dir, f)
	if err != nil {
		return err
	}
	plan, err := conf.Source.Plan(ctx, target)
	if err != nil {
		return err
	}
	var s *restored
	if f.wait {
		if s, err = findPrograms(ctx, f.pgBin, conf.Dir, plan.Identity.MajorVersion); err != nil {
			return err
		}
	}
	if f.dryRun {
		expected, err := plan.Expect(ctx, conf)
		if err != nil {
			return err
		}
		if err := a.printPlan(plan, conf, expected, nil); err != nil {
			return err
		}
		if err := plan.Check(conf); err != nil {
			return err
		}
		return a.say("nothing was written; run without --dry-run to restore\n")
	}
	progress := term.NewProgress(a.stderr, conf.Log, "restore")
	conf.Progress = progress.Set
	if err := progress.While(ctx, func(ctx context.Context) error { return plan.Execute(ctx, conf) }); err != nil {
		return err
	}
	if s == nil {
		if err := a.printPlan(plan, conf, nil, nil); err != nil {
			return err
		}
		return a.say("%s", nextSteps(plan, conf))
	}
	end, err := s.follow(ctx, plan, term.NewProgress(a.stderr, conf.Log, "recovery"), conf.Log)
	if err != nil {
		return err
	}
	if err := a.printPlan(plan, conf, nil, end); err != nil {
		return err
	}
	if err := a.say("%s", s.nextSteps(end)); err != nil || len(end.Differs) == 0 {
		return err
	}
	return &problemsError{"recovery did not end as planned"}
}

func (a *app) restoreConfig(ctx context.Context, c *config.Loaded, dir string, f restoreFlags) (recovery.RestoreConfig, error) {
	conf := recovery.RestoreConfig{Jobs: f.jobs, TablespaceMap: map[string]string{}, Log: a.logger(term.LogText)}
	if f.jobs < 1 {
		return conf, &usageError{fmt.Errorf("--jobs %d: want at least 1", f.jobs)}
	}
	for _, pair := range f.tablespaces {
		from, to, ok := strings.Cut(pair, "=")
		if !ok || !filepath.IsAbs(from) || !filepath.IsAbs(to) {
			return conf, &usageError{fmt.Errorf("--tablespace-map %q: want OLD=NEW, both absolute paths", pair)}
		}
		conf.TablespaceMap[filepath.Clean(from)] = filepath.Clean(to)
	}
	if f.standby {
		conf.Standby = &recovery.Standby{Conninfo: f.conninfo}
		if c.FromFlag("slot") { // elsewhere it is the receiver's
			conf.Standby.Slot = c.Slot
		}
	}
	var err error
	if conf.Dir, err = filepath.Abs(dir); err != nil {
		return conf, err
	}
	if f.owner != "" {
		if conf.Owner, err = recovery.LookupOwner(f.owner); err != nil {
			return conf, &usageError{fmt.Errorf("--owner %s: %w", f.owner, err)}
		}
	}
	if conf.Source.Archive, err = a.openArchive(ctx, c); err != nil {
		return conf, err
	}
	if conf.Source.Spool, err = a.spoolToRead(c); err != nil {
		return conf, err
	}
	if conf.Source.Spool == "" {
		conf.Log.Warn().Str("spool", c.SpoolDir).Msg("no spool there: commits that only a receiver has so far are not restored")
	}
	if conf.Reads, err = readsOf(c, conf); err != nil {
		return conf, err
	}
	conf.Command, err = restoreCommand(c, conf.Source.Archive.Store())
	if f.onError != "" {
		conf.Command = append(conf.Command, "--on-error", string(f.onError))
	}
	return conf, err
}

// readsOf lists what the user who runs PostgreSQL must be able to read for the
// restore_command to work.
func readsOf(c *config.Loaded, conf recovery.RestoreConfig) ([]recovery.Read, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	reads := []recovery.Read{{File: program, Remedy: func(*recovery.Owner) string {
		return "put it where all can run it, and restore with that: install -m 755 " + hint.Quote(program) + " /usr/local/bin/"
	}}}
	if c.File != "" {
		reads = append(reads, recovery.Read{File: c.File, Remedy: func(o *recovery.Owner) string {
			return fmt.Sprintf("let the group of that user read it: chgrp %d %[2]s && chmod g+r %[2]s", o.GID, hint.Quote(c.File))
		}})
	}
	if c.IdentityFile != "" {
		reads = append(reads, recovery.Read{File: c.IdentityFile, Remedy: func(o *recovery.Owner) string {
			return fmt.Sprintf("give that user a copy, and that copy to --identity: install -m 600 -o %d %s %s", o.UID, hint.Quote(c.IdentityFile), hint.Quote(filepath.Dir(conf.Dir)))
		}})
	}
	var dirs []string
	if _, ok := conf.Source.Archive.Store().(*archive.Dir); ok {
		dirs = append(dirs, c.Archive)
	}
	if conf.Standby != nil && conf.Source.Spool != "" { // other restores copy what they need
		dirs = append(dirs, conf.Source.Spool)
	}
	for _, dir := range dirs {
		reads = append(reads, recovery.Read{File: filepath.Join(dir, "walstream.json"), Remedy: func(o *recovery.Owner) string {
			return fmt.Sprintf("let the group of that user read what is there: chgrp -R %d %[2]s && find %[2]s -type d -exec chmod g+s {} +", o.GID, hint.Quote(dir))
		}})
	}
	return reads, nil
}

// restoreCommand is the wal-get that PostgreSQL will run, with every setting
// that it needs. Credentials are the business of PostgreSQL's own environment.
func restoreCommand(c *config.Loaded, store archive.Store) ([]string, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	command := []string{program, "wal-get"}
	if bucket, ok := store.(*archive.S3); ok {
		env := append([]string{"env"}, c.Environ("s3.")...)
		// What the operator's environment says to the SDK, PostgreSQL's may not.
		for _, pair := range []string{"WALSTREAM_S3_REGION=" + bucket.Region(), "WALSTREAM_S3_ENDPOINT=" + bucket.Endpoint()} {
			if !strings.HasSuffix(pair, "=") && !slices.Contains(env, pair) {
				env = append(env, pair)
			}
		}
		command = append(env, command...)
	}
	if c.File != "" {
		command = append(command, "--config", c.File)
	}
	if c.IdentityFile != "" {
		command = append(command, "--identity", c.IdentityFile)
	}
	return append(command, "--archive", c.Archive, "--restore-retry", c.RestoreRetry.String(), "--restore-prefetch", c.RestorePrefetch.String()), nil
}

func (f restoreFlags) target(now time.Time) (recovery.Target, error) {
	t := recovery.Target{Kind: recovery.KindEnd, Exclusive: f.exclusive, Backup: f.backup, Zone: time.Local}
	var err, terr, aerr error
	switch {
	case f.time != "":
		t.Kind = recovery.KindTime
		t.Time, err = recovery.ParseTime(f.time, time.Local, now)
	case f.lsn != "":
		t.Kind = recovery.KindLSN
		t.LSN, err = wal.ParseLSN(f.lsn)
	case f.xid != "":
		t.Kind = recovery.KindXID
		t.XID, err = recovery.ParseXID(f.xid)
	case f.name != "":
		t.Kind, t.Name = recovery.KindName, f.name
	case f.immediate:
		t.Kind = recovery.KindImmediate
	}
	t.Timeline, terr = recovery.ParseTargetTimeline(f.timeline)
	if f.action != "" {
		t.Action, aerr = recovery.ParseAction(f.action)
	}
	if err := errors.Join(err, terr, aerr, f.standbyError(t)); err != nil {
		return t, err
	}
	return t, t.Validate()
}

// standbyError says what does not go together with a standby, or without.
func (f restoreFlags) standbyError(t recovery.Target) error {
	switch {
	case !f.standby && (f.conninfo != "" || f.onError != ""):
		return hint.Errorf("--standby", "--primary-conninfo and --on-error are for a standby")
	case !f.standby:
		return nil
	case t.Kind != recovery.KindEnd || f.exclusive || f.action != "" || t.Timeline != recovery.TargetTimeline{}:
		return hint.Errorf("leave out either --standby or the --target flags", "a standby has no target: it follows its primary, also to the next timeline")
	case f.wait:
		return hint.Errorf("leave out --wait, and start it", "recovery of a standby has no end to wait for")
	}
	_, err := pgconn.ParseConfig(f.conninfo)
	if err != nil && strings.Contains(err.Error(), "failed to parse as") { // all else depends on where the standby runs
		return err
	}
	return nil
}
