package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/term"
	"github.com/walstream/walstream/recovery"
	"github.com/walstream/walstream/segment"
)

// checkView is the outcome of one check.
type checkView struct {
	Check  string   `json:"check"`
	State  string   `json:"state"` // ok, warning, FAIL or left out
	Detail string   `json:"detail"`
	Hints  []string `json:"hints,omitempty"`
}

// doctor is one run of checks.
type doctor struct {
	app      *app
	conf     *config.Loaded
	receives bool              // this host has a server to receive from
	identity *segment.Identity // of the server, nil when it is not known
	checks   []checkView
}

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Check what receive and restore need, before they need it; exit code 3 when a check fails", Args: wants(),
		Long: `Check the server, its settings and the slot, the spool, the archive and the keys:
all that receive, backup and restore need. Nothing is changed but for objects and
files that are made to try it, and removed.

Without -d, on a host that only restores, what concerns the server is left out,
and nothing is written to the archive.`,
		RunE: a.configured(a.doctor),
	}
}

func (a *app) doctor(ctx context.Context, c *config.Loaded, _ []string) error {
	d := &doctor{app: a, conf: c}
	d.receives = c.DBName != "" || slices.ContainsFunc(a.environ, func(pair string) bool {
		name, value, _ := strings.Cut(pair, "=")
		return value != "" && slices.Contains([]string{"PGHOST", "PGHOSTADDR", "PGSERVICE"}, name)
	})
	d.checkConfig()
	d.checkServer(ctx)
	d.checkSpool()
	d.checkArchive(ctx)
	return d.report()
}

func (d *doctor) add(check, state string, err error) {
	var hints []string
	for _, h := range hint.Of(err) {
		hints = append(hints, d.app.pasteable(h))
	}
	d.checks = append(d.checks, checkView{check, state, err.Error(), hints})
}

func (d *doctor) ok(check, format string, args ...any) {
	d.add(check, "ok", fmt.Errorf(format, args...))
}

func (d *doctor) leftOut(check, why string) { d.add(check, "left out", errors.New(why)) }

func (d *doctor) warn(check string, err error) { d.add(check, "warning", err) }

func (d *doctor) fail(check string, err error) { d.add(check, "FAIL", err) }

func (d *doctor) report() error {
	failed, warnings := 0, 0
	for _, c := range d.checks {
		switch c.State {
		case "FAIL":
			failed++
		case "warning":
			warnings++
		}
	}
	var err error
	if d.app.json {
		err = term.JSON(d.app.stdout, map[string]any{"checks": d.checks, "failed": failed, "warnings": warnings})
	} else {
		table := term.NewTable(d.app.stdout)
		for _, c := range d.checks {
			table.Row(c.State, c.Check, strings.ReplaceAll(c.Detail, "\n", "; "))
			for _, h := range c.Hints {
				table.Row("", "", "hint: "+h)
			}
		}
		err = table.Flush()
	}
	if err == nil && failed > 0 {
		err = &problemsError{fmt.Sprintf("%d of %d checks failed", failed, len(d.checks))}
	}
	return err
}

// checkConfig looks at the configuration file and what is suspicious in it.
func (d *doctor) checkConfig() {
	const check = "configuration"
	for _, w := range d.conf.Warnings {
		d.warn(check, errors.New(w))
	}
	if d.conf.File == "" {
		d.ok(check, "no file; flags, environment and defaults")
		return
	}
	info, err := os.Stat(d.conf.File)
	file := hint.Quote(d.conf.File)
	switch {
	case err != nil:
		d.fail(check, err)
	case info.Mode()&0o022 != 0:
		d.warn(check, hint.Errorf("chmod go-w "+file, "%s can be changed by others than its owner", d.conf.File))
	case info.Mode()&0o004 != 0 && config.Mask(d.conf.DBName) != d.conf.DBName:
		d.warn(check, hint.Errorf("chmod o-r "+file, "%s holds a password, and everybody may read it", d.conf.File))
	default:
		d.ok(check, "%s", d.conf.File)
	}
}

// checkSpool tries whether WAL can be made durable there.
func (d *doctor) checkSpool() {
	const check = "spool"
	dir := d.conf.SpoolDir
	view, err := segment.ReadSpool(fsx.OS{}, dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !d.receives:
		d.leftOut(check, dir+" is no spool; this host receives nothing")
		return
	case errors.Is(err, fs.ErrNotExist):
		view, err = &segment.SpoolView{}, nil
	case err == nil && d.identity != nil:
		err = view.Identity.Match("spool "+dir, *d.identity)
	}
	var took time.Duration
	if err == nil && d.receives {
		took, err = tryDisk(dir)
	}
	var disk recovery.FileSystem
	if err == nil {
		disk, err = recovery.FileSystemOf(dir)
	}
	if err != nil {
		d.fail(check, err)
		return
	}
	held := int64(len(view.Sealed)+len(view.Partials)) * int64(view.Identity.SegmentSize)
	text := fmt.Sprintf("%s: %s held, %s free", dir, term.Size(held), term.Size(disk.Free))
	if d.receives {
		text += ", fsync took " + term.Duration(took)
	}
	if limit := int64(d.conf.SpoolMax); d.receives && limit > held+disk.Free {
		d.warn(check, hint.Errorf("make room, or set spool.max_size to less: df -h "+hint.Quote(dir),
			"%s; the disk is full before spool.max_size, %s", text, term.Size(limit)))
		return
	}
	d.ok(check, "%s", text)
}

// tryDisk makes a file durable in a directory, or where it will be made, and
// removes it.
func tryDisk(dir string) (time.Duration, error) {
	for {
		_, err := os.Stat(dir)
		if !errors.Is(err, fs.ErrNotExist) || filepath.Dir(dir) == dir {
			break
		}
		dir = filepath.Dir(dir)
	}
	f, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return 0, hint.With(err, "sudo chown %d %s", os.Getuid(), hint.Quote(dir))
	}
	defer os.Remove(f.Name())
	defer f.Close()
	_, err = f.Write(make([]byte, 8192))
	start := time.Now()
	if err == nil {
		err = f.Sync()
	}
	took := time.Since(start)
	if err == nil {
		err = fsx.OS{}.SyncDir(dir)
	}
	return took, err
}

// checkArchive tries what an archive rests on, and whether it can be read.
func (d *doctor) checkArchive(ctx context.Context) {
	const check = "archive"
	location, err := requireArchive(d.conf)
	var store archive.Store
	if err == nil {
		store, err = locate(ctx, d.conf, false, false)
	}
	if d.receives && errors.Is(err, archive.ErrNoDirectory) {
		if _, err = tryDisk(strings.TrimPrefix(location, "file://")); err == nil {
			d.ok(check, "%s is not there yet; receive makes it", location)
			return
		}
	}
	var arch *archive.Archive
	if err == nil {
		arch, err = keys(d.conf).Open(ctx, store)
	}
	empty := d.receives && errors.Is(err, archive.ErrNotPinned)
	if err == nil && d.identity != nil {
		err = arch.Identity().Match("archive "+location, *d.identity)
	}
	if err == nil && d.receives {
		err = arch.Writable()
	}
	if err != nil && !empty {
		d.fail(check, err)
		return
	}
	text := location + ": can be read; not written to, this host only restores"
	if d.receives {
		stored, err := archive.Probe(ctx, store)
		if err != nil {
			d.fail(check, err)
			return
		}
		text = location + ": put, put again (refused), list, delete"
		if skew := time.Since(stored).Round(time.Second); skew.Abs() > 30*time.Second {
			d.warn(check, hint.Errorf("sudo timedatectl set-ntp true", "its clock and that of this machine are %s apart", term.Duration(skew.Abs())))
		}
	}
	if empty {
		d.ok(check, "%s; empty, receive makes it this cluster's", text)
		return
	}
	d.ok(check, "%s", text)
	d.checkBackups(ctx, arch)
}

// checkBackups looks for a backup, and whether the keys can read it.
func (d *doctor) checkBackups(ctx context.Context, arch *archive.Archive) {
	last, err := lastBackup(ctx, arch)
	switch {
	case err != nil:
		d.fail("backup", err)
		return
	case last == nil:
		d.warn("backup", hint.Errorf("walstream backup", "there is none yet; without one nothing can be restored"))
	default:
		d.ok("backup", "%s, finished %s", last.ID, term.Age(last.Finished, time.Now()))
	}
	const check = "encryption"
	if !arch.Identity().Encrypted {
		d.ok(check, "the archive is not encrypted")
		return
	}
	if d.receives && d.conf.IdentityFile == "" {
		d.ok(check, "no identity here: receive and backup need none, a restore will")
		return
	}
	err = arch.Readable()
	if err == nil && last != nil {
		var c *backup.Commit
		if c, err = backup.Load(ctx, arch, last.ID); err == nil {
			_, err = backup.LoadManifest(ctx, arch, c)
		}
	}
	if err != nil {
		d.fail(check, err)
		return
	}
	d.ok(check, "%s reads the archive", d.conf.IdentityFile)
}
