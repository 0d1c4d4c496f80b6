package recovery

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/controlfile"
	"github.com/walstream/walstream/internal/crashpoint"
	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/segment"
)

// RestoreConfig says where and how a plan is carried out.
type RestoreConfig struct {
	// Dir is the data directory to make: absent or empty, an absolute path.
	Dir    string
	Source Source
	// Command is the restore_command as an argument vector, without the
	// option --spool, which is added: program, wal-get, options. It must
	// hold absolute paths only.
	Command []string
	// Reads are files that Command needs: whoever runs PostgreSQL must be able
	// to read them.
	Reads []Read
	// Standby, if set, makes a standby, whose restore_command reads the
	// spool of Source itself.
	Standby *Standby
	// TablespaceMap gives tablespaces another place, old path to new.
	TablespaceMap map[string]string
	// Owner is who the files shall belong to. Nil leaves it to whoever runs
	// this, and for root to the owner of Dir or else of its parent, who must
	// be another user.
	Owner *Owner
	// Jobs is how many parts are restored at a time; 0 means 4.
	Jobs int
	// Progress, if set, is told the plain bytes done of the total, often,
	// but never from two goroutines at once.
	Progress func(done, total int64)
	Log      zerolog.Logger
}

// SideDir is the directory beside a data directory in which a restore keeps
// its plan and the WAL that only a spool held. wal-get reads it as its spool.
func SideDir(dir string) string { return filepath.Clean(dir) + sideSuffix }

const (
	sideSuffix = ".walstream"

	planFile = "plan.json"
	// unfinished is in the side directory from the first byte to the last,
	// and holds the command that removes what was made.
	unfinished = "unfinished"
	// partsFile lists the parts that are laid down, see [laidPart].
	partsFile = "parts"
	// heldBack is pg_control until everything else is durable. Without it
	// no server starts.
	heldBack = controlfile.Path + ".walstream"
)

// SettingsIn is the recovery configuration that Execute will write.
func (p *Plan) SettingsIn(cfg RestoreConfig) []Setting {
	command, spool := cfg.Command[:len(cfg.Command):len(cfg.Command)], SideDir(cfg.Dir)
	if cfg.Standby != nil {
		spool = cfg.Source.Spool // what comes later is there, and in no plan
	}
	if spool != "" {
		command = append(command, "--spool", spool)
	}
	return p.Settings(command, cfg.Standby)
}

// Execute restores the backup of the plan and prepares recovery to its target;
// whoever calls it starts PostgreSQL. Nothing that exists is overwritten. All
// checks of the target come before the first byte. After an error the
// directory cannot be started, and the error says how to begin anew. A restore
// that was interrupted goes on when it is executed again with the same backup,
// target, and places.
func (p *Plan) Execute(ctx context.Context, cfg RestoreConfig) error {
	r, err := p.prepare(cfg)
	if err != nil {
		return err
	}
	if err := r.run(ctx); err != nil {
		err = fmt.Errorf("restore to %s: %w", cfg.Dir, err)
		const anew = "remove what was restored so far and begin anew: %s"
		switch {
		case errors.Is(err, errNotOurs):
			return hint.With(err, "%s", elsewhere(cfg.Dir))
		case isDamage(err) || errors.Is(err, archive.ErrNotExist):
			err = hint.With(err, "another backup, by --backup, may be good: walstream list backups")
			return hint.With(err, anew, r.removal())
		}
		return hint.With(hint.With(err, anew, r.removal()), "go on with what is missing: %s", r.again(cfg.Standby))
	}
	return nil
}

// restore is one execution of a plan.
type restore struct {
	*Plan
	cfg   RestoreConfig
	owner *Owner
	side  string
	// readSpool makes a view of the source's spool.
	readSpool func() (*segment.SpoolView, error)
	places    []place // the data directory first, then tablespaces
	progress  *progress

	begun    bool // by an earlier restore, which made the side directory
	resuming bool // which also laid files down
	whole    bool // all of them: pg_control has its name
}

// place is a directory that parts of the backup go to.
type place struct {
	oid  uint32 // of the tablespace, 0 for the data directory
	path string
	root *os.Root
}

// Check does what Execute does before the first byte.
func (p *Plan) Check(cfg RestoreConfig) error {
	_, err := p.prepare(cfg)
	return err
}

func (p *Plan) prepare(cfg RestoreConfig) (_ *restore, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("restore to %s: %w", cfg.Dir, err)
		}
	}()
	if !filepath.IsAbs(cfg.Dir) {
		return nil, errors.New("it is not an absolute path")
	}
	cfg.Dir = filepath.Clean(cfg.Dir)
	if cfg.Jobs <= 0 {
		cfg.Jobs = 4
	}
	r := &restore{Plan: p, cfg: cfg, side: SideDir(cfg.Dir), progress: &progress{total: p.Backup.PlainBytes, tell: cfg.Progress}}
	r.readSpool = func() (*segment.SpoolView, error) { return segment.ReadSpool(fsx.OS{}, cfg.Source.Spool) }
	if r.places, err = p.locate(cfg); err != nil {
		return nil, err
	}
	// First of all: what is said of an unfinished restore removes the directory.
	if _, err := os.Lstat(filepath.Join(cfg.Dir, "postmaster.pid")); err == nil {
		return nil, hint.Errorf(elsewhere(cfg.Dir), "%s holds postmaster.pid: a server runs there or crashed", cfg.Dir)
	}
	if err := r.checkUnfinished(); err != nil {
		return nil, err
	}
	if err := r.checkPlaces(); err != nil {
		return nil, err
	}
	if r.owner, err = ownerFor(cfg); err != nil {
		return nil, err
	}
	for _, read := range cfg.Reads {
		if err := r.owner.mayRead(read.File); err != nil {
			return nil, hint.With(err, "%s", read.Remedy(r.owner))
		}
	}
	if err := r.checkTablespaces(); err != nil {
		return nil, err
	}
	if _, err := mergeAutoConf("", "", p.SettingsIn(cfg)); err != nil {
		return nil, err
	}
	return r, nil
}

// checkPlaces looks at where a restore shall go that does not go on with
// another.
func (r *restore) checkPlaces() error {
	if r.resuming {
		return nil
	}
	for _, pl := range r.places {
		if err := checkEmpty(pl.path); err != nil {
			return err
		}
	}
	if err := checkWritable(filepath.Dir(r.cfg.Dir)); err != nil { // for the side directory
		return err
	}
	return r.checkSpace()
}

// removal is the command that removes what a restore made.
func (r *restore) removal() string {
	words := []string{"rm -rf", hint.Quote(r.side)}
	for _, pl := range r.places {
		words = append(words, hint.Quote(pl.path))
	}
	return strings.Join(words, " ")
}

// checkEmpty refuses a directory in which there is anything. It may be absent.
func checkEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		parent := filepath.Dir(dir)
		if info, err := os.Stat(parent); err != nil || !info.IsDir() {
			return hint.Errorf("mkdir -p "+hint.Quote(parent), "%s is no directory", parent)
		}
		return checkWritable(parent)
	case err != nil:
		return err
	case len(entries) > 0:
		return hint.Errorf(elsewhere(dir), "%s is not empty: it holds %s", dir, entries[0].Name())
	}
	return checkWritable(dir)
}

// elsewhere is the hint for a directory that cannot be used.
func elsewhere(dir string) string {
	return "restore deletes nothing; into a directory that is absent or empty: walstream restore " + hint.Quote(dir+"-2")
}

func checkWritable(dir string) error {
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return hint.With(fmt.Errorf("write to %s: %w", dir, err),
			"restore into another directory, or as root: sudo -E walstream restore --owner %s DIR", hint.User())
	}
	return nil
}

func (r *restore) run(ctx context.Context) (err error) {
	if r.whole {
		if err := r.open(); err != nil {
			return err
		}
		defer r.close()
		return r.finish(ctx)
	}
	if err := r.makeSide(); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.RestoreSideMade)
	if err := r.copySpool(ctx); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.RestoreSpoolCopied)
	if err := r.open(); err != nil {
		return err
	}
	defer r.close()
	crashpoint.Hit(crashpoint.RestoreDirsMade)
	r.cfg.Log.Info().Str("backup", r.Backup.ID).Str("dir", r.cfg.Dir).Msg("restoring")
	for _, step := range []func(context.Context) error{r.layDown, r.linkTablespaces, r.keepForks, r.configure, r.syncDirs, r.finish} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	r.cfg.Log.Info().Str("backup", r.Backup.ID).Str("dir", r.cfg.Dir).Msg("restored, ready to start")
	return nil
}

// open makes the directories, if need be, and keeps them open.
func (r *restore) open() error {
	for i := range r.places {
		pl := &r.places[i]
		if !r.whole {
			if err := makeDir(pl.path, r.owner); err != nil {
				return err
			}
		}
		root, err := os.OpenRoot(pl.path)
		if err != nil {
			return err
		}
		pl.root = root
	}
	return nil
}

func (r *restore) close() {
	for _, pl := range r.places {
		if pl.root != nil {
			_ = pl.root.Close() // a directory handle, nothing is pending
		}
	}
}

func (r *restore) data() *os.Root { return r.places[0].root }

// finish makes the directory one that a server can start in.
func (r *restore) finish(context.Context) error {
	crashpoint.Hit(crashpoint.RestoreSynced)
	if !r.whole {
		if err := r.data().Rename(heldBack, controlfile.Path); err != nil {
			return err
		}
	}
	crashpoint.Hit(crashpoint.RestoreControlNamed)
	if err := syncIn(r.data(), "global"); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.RestoreControlSynced)
	if err := os.Remove(filepath.Join(r.side, unfinished)); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.RestoreFinished)
	return syncPath(r.side)
}
