package recovery

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/internal/controlfile"
	"github.com/walstream/walstream/internal/crashpoint"
)

// configure writes the recovery settings and the signal file, and what a
// server cannot start without.
func (r *restore) configure(ctx context.Context) error {
	// These steer a server and must not come out of a backup.
	for _, name := range []string{"standby.signal", "recovery.signal", "postmaster.pid", "recovery.conf"} {
		if err := r.data().Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := r.checkLabel(); err != nil {
		return err
	}
	c, err := r.readControl()
	if err != nil {
		return err
	}
	if err := r.addMissing(ctx, c); err != nil {
		return err
	}
	if err := r.keepHome(); err != nil {
		return err
	}
	old, err := r.data().ReadFile("postgresql.auto.conf")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	begin, signal := blockBegin+"\n"+blockSaid, "recovery.signal"
	if r.cfg.Standby != nil {
		begin, signal = blockStandby, "standby.signal"
	}
	conf, err := mergeAutoConf(string(old), begin, append(r.SettingsIn(r.cfg), r.raised(c)...))
	if err != nil {
		return err
	}
	if err := r.replace("postgresql.auto.conf", []byte(conf)); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.RestoreConfigured)
	return writeNew(r.data(), signal, nil, r.owner)
}

// checkLabel refuses a data directory without backup_label: PostgreSQL would
// start from the checkpoint in pg_control, which is silent corruption.
func (r *restore) checkLabel() error {
	info, err := r.data().Stat("backup_label")
	if err == nil && info.Size() == 0 {
		err = errors.New("it is empty")
	}
	if err != nil {
		return fmt.Errorf("backup %s has no usable backup_label: %w", r.Backup.ID, err)
	}
	return nil
}

// readControl reads the backup's pg_control, which must be of the cluster.
func (r *restore) readControl() (c controlfile.Control, err error) {
	body, err := r.data().ReadFile(heldBack)
	if err != nil {
		return c, fmt.Errorf("backup %s has no %s: %w", r.Backup.ID, controlfile.Path, err)
	}
	if c, err = controlfile.Parse(body); err != nil {
		return c, err
	}
	if c.SystemIdentifier != r.Identity.SystemIdentifier || c.SegmentSize != r.Identity.SegmentSize {
		return c, fmt.Errorf("%s is of system identifier %d with segments of %d bytes, not of %d with %d",
			controlfile.Path, c.SystemIdentifier, c.SegmentSize, r.Identity.SystemIdentifier, r.Identity.SegmentSize)
	}
	if want := controlfile.Version(r.Identity.MajorVersion); c.Version != want {
		return c, fmt.Errorf("%s has version %d, that of PostgreSQL %d is %d", controlfile.Path, c.Version, r.Identity.MajorVersion, want)
	}
	return c, nil
}

// addMissing writes the configuration files that the backup lacks, and its
// manifest.
func (r *restore) addMissing(ctx context.Context, c controlfile.Control) error {
	confs := minimalConf(c)
	for _, name := range slices.Sorted(maps.Keys(confs)) {
		if err := writeNew(r.data(), name, []byte(confs[name]), r.owner); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if global, err := r.data().Stat("global"); err != nil {
		return err
	} else if err := r.data().Chmod(".", global.Mode().Perm()&0o750); err != nil {
		return err
	}
	manifest, err := backup.ReadManifest(ctx, r.cfg.Source.Archive, &r.Backup)
	if err != nil {
		return err
	}
	return writeNew(r.data(), "backup_manifest", manifest, r.owner)
}

func (r *restore) keepHome() error {
	const name = "postgresql.conf"
	old, err := r.data().ReadFile(name)
	if err != nil {
		return err
	}
	conf, err := keepHome(old, r.cfg.Dir)
	if err != nil || len(conf) == len(old) {
		return err
	}
	return r.replace(name, conf)
}
