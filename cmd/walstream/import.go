package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/term"
	"github.com/walstream/walstream/segment"
)

type importFlags struct {
	backups []string
	dryRun  bool
}

func (a *app) importCommand() *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use: "import DIR", Short: "Take over WAL and base backups of pg_receivewal, archive_command and pg_basebackup", Args: wants("DIR"),
		Long: `Take over what other programs archived: WAL segments (also compressed by gzip,
lz4 or zstd), unfinished ones (.partial), timeline histories, and base backups
that have a backup_manifest, in DIR and the directories below it.

Everything is checked before it counts. What is damaged or of another cluster is
left out and listed, and so are holes in the WAL; the exit code is 3 then. DIR
is only read, nothing in the archive is replaced, and the command may be
repeated, also while "walstream receive" runs. With -d the server has to be of
the same cluster.`,
		Example: `  walstream import /var/lib/pgsql/wal_archive --dry-run
  walstream import /var/lib/pgsql/wal_archive --backup /backups/2026-11-22`,
		RunE: a.configured(func(ctx context.Context, c *config.Loaded, args []string) error {
			return a.importDir(ctx, c, args[0], f)
		}),
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&f.backups, "backup", nil, "directory of a base backup that is not below DIR; may be repeated")
	flags.BoolVarP(&f.dryRun, "dry-run", "n", false, "check everything, store nothing")
	return cmd
}

// takeover is one run of import.
type takeover struct {
	location string // of the archive
	found    backup.Found
	arch     *archive.Archive
	dryRun   bool
	wal      *archive.Imported
	backups  []importedBackup
	progress *term.Progress
	done     int64
	total    int64
}

type importedBackup struct {
	ID   string `json:"id"`
	From string `json:"from"`
	Had  bool   `json:"had"` // it was in the archive already
}

func (a *app) importDir(ctx context.Context, c *config.Loaded, dir string, f importFlags) error {
	location, err := requireArchive(c)
	if err != nil {
		return err
	}
	t := &takeover{location: location, dryRun: f.dryRun}
	if err := t.discover(dir, f.backups); err != nil {
		return err
	}
	temp, err := t.found.OpenWAL()
	defer os.RemoveAll(temp) // only copies
	if err != nil {
		return err
	}
	if err := a.openForImport(ctx, c, t); err != nil {
		return err
	}
	log := a.logger(term.LogText)
	t.progress = term.NewProgress(a.stderr, log, "import")
	level := zstdLevel(c.CompressionLevel)
	err = t.progress.While(ctx, func(ctx context.Context) (err error) {
		t.wal, err = archive.Import(ctx, archive.ImportConfig{Archive: t.arch, Level: level, Progress: t.advance, Log: log}, t.found.WAL)
		if err != nil {
			return err
		}
		return t.importBackups(ctx, backup.ImportConfig{Archive: t.arch, Level: level, Progress: t.advance, Log: log})
	})
	if err != nil {
		return err
	}
	return a.printImport(t)
}

func (t *takeover) discover(dir string, backups []string) error {
	for _, path := range backups {
		src, err := backup.FindSource(filepath.Clean(path))
		if err == nil && src == nil {
			err = &usageError{hint.Errorf("give the directory that holds base.tar or PG_VERSION: --backup DIR", "%s holds no base backup", path)}
		}
		if err != nil {
			return err
		}
		t.found.Backups = append(t.found.Backups, src)
	}
	if err := t.found.Discover(filepath.Clean(dir)); err != nil {
		return err
	}
	for _, s := range t.found.Backups {
		t.total += s.Size
	}
	for _, w := range t.found.WAL {
		t.total += w.Size
	}
	return nil
}

func (t *takeover) advance(n int64) {
	t.done += n
	t.progress.Set(t.done, t.total)
}

// openForImport opens the archive, and makes it if there is none: for the
// cluster that most of the WAL is of.
func (a *app) openForImport(ctx context.Context, c *config.Loaded, t *takeover) error {
	identity, err := archive.ImportedCluster(t.found.WAL)
	if err != nil && len(t.found.Backups)+len(t.found.WAL) > 0 {
		// The archive may know more than what there is to import.
		if arch, err := a.openArchive(ctx, c); err == nil {
			return t.useArchive(ctx, c, arch.Store(), arch.Identity().Identity)
		}
	}
	if err != nil {
		return hint.With(fmt.Errorf("nothing to import: %w", err), "walstream import DIR, where DIR holds files like 000000010000000000000001 or 000000010000000000000001.gz")
	}
	if a.settings["dbname"].Changed {
		if err := matchServer(ctx, c, identity); err != nil {
			return err
		}
	}
	store, err := locate(ctx, c, !t.dryRun, true)
	if t.dryRun && errors.Is(err, archive.ErrNoDirectory) {
		store, err = archive.Absent(c.Archive), nil
	}
	if err != nil {
		return err
	}
	return t.useArchive(ctx, c, store, identity)
}

func (t *takeover) useArchive(ctx context.Context, c *config.Loaded, store archive.Store, identity segment.Identity) (err error) {
	if t.dryRun {
		store = archive.Rehearse(store)
	}
	t.arch, err = keys(c).Pin(ctx, store, identity)
	return err
}

// matchServer checks that the WAL is the server's.
func matchServer(ctx context.Context, c *config.Loaded, identity segment.Identity) error {
	opts := server(c, "import")
	opts.AllowStandby = true
	have, _, err := serverIdentity(ctx, opts)
	if err != nil {
		return err
	}
	return hint.With(identity.Match("most of the WAL", have), "give the server of this WAL in -d, or another DIR")
}

// importBackups goes on with the next one after a backup that cannot be
// imported.
func (t *takeover) importBackups(ctx context.Context, cfg backup.ImportConfig) error {
	for _, src := range t.found.Backups {
		c, had, err := backup.Import(ctx, cfg, src)
		if cerr := context.Cause(ctx); cerr != nil {
			return cerr
		}
		var failed *archive.FileError
		switch {
		case errors.As(err, &failed):
			t.found.Failed = append(t.found.Failed, failed)
			continue
		case err != nil:
			return err
		}
		t.backups = append(t.backups, importedBackup{c.ID, src.Dir, had})
	}
	return nil
}
