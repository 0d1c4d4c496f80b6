package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/rs/zerolog"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/crashpoint"
	"github.com/walstream/walstream/internal/pg"
)

// cleanupTimeout bounds the deletion of what a failed backup stored.
const cleanupTimeout = time.Minute

// Take takes a base backup and returns its commit object, which is then in the
// archive. On an error there is no backup, and what was stored of it has been
// deleted as far as that was possible; only when it is not known whether the
// commit object was stored, nothing is deleted.
//
// It uses one walsender of the server while data is sent, and none while it
// waits for WAL. Of memory it takes some MiB for compression and a few
// hundred bytes for each file of the cluster.
func Take(ctx context.Context, cfg Config) (*Commit, error) {
	if err := errors.Join(cfg.complete(), cfg.Archive.Writable()); err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	c, err := take(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	cfg.Log.Info().Str("backup", c.ID).Int64("bytes", c.PlainBytes).Int64("stored", c.StoredBytes).
		Stringer("took", c.Finished.Sub(c.Started).Round(time.Millisecond)).Msg("backup is complete")
	return c, nil
}

func take(ctx context.Context, cfg Config) (*Commit, error) {
	c := &Commit{FormatVersion: FormatVersion, Label: cfg.Label, Started: cfg.Now().UTC()}
	history := branch{archive: cfg.Archive}
	needed, err := transfer(ctx, cfg, c, &history)
	if err == nil {
		crashpoint.Hit(crashpoint.BackupManifestPut)
		cfg.Log.Info().Str("backup", c.ID).Stringer("stop", c.StopLSN).Msg("data is stored; waiting for its WAL in the archive")
		err = waitForWAL(ctx, cfg, needed)
	}
	if err == nil {
		err = history.check(ctx, c.Timeline)
	}
	if err != nil {
		cleanup(ctx, cfg.Archive.Store(), cfg.Log, c)
		return nil, err
	}
	crashpoint.Hit(crashpoint.BackupWALArchived)
	if err := putCommit(ctx, cfg.Archive.Store(), c); err != nil {
		return nil, err
	}
	crashpoint.Hit(crashpoint.BackupCommitted)
	return c, nil
}

// transfer stores data and manifest, fills in the commit object, and returns
// the WAL that the backup needs.
func transfer(ctx context.Context, cfg Config, c *Commit, history *branch) (needed []archive.Range, err error) {
	conn, err := pg.ConnectReplication(ctx, cfg.Server)
	if err != nil {
		return nil, err
	}
	defer conn.Done()
	if err := c.identify(ctx, cfg.Archive, conn, history); err != nil {
		return nil, err
	}
	if err := c.reserve(ctx, cfg.Archive.Store()); err != nil {
		return nil, err
	}
	s := &stream{conn: conn, major: c.MajorVersion, log: cfg.Log.With().Str("backup", c.ID).Logger()}
	s.log.Info().Str("checkpoint", string(cfg.Checkpoint)).Msg("backup begins with a checkpoint")
	err = s.start(ctx, request{label: cfg.Label, checkpoint: cfg.Checkpoint, maxRate: cfg.MaxRate >> 10})
	if err != nil {
		return nil, fmt.Errorf("BASE_BACKUP: %w", err)
	}
	in, err := receive(ctx, cfg, s, c)
	if err != nil {
		return nil, err
	}
	m, err := ParseManifest(in.manifest.Bytes())
	if err != nil {
		return nil, err
	}
	if err := m.check(in.files, c); err != nil {
		return nil, fmt.Errorf("compare with backup_manifest: %w", err)
	}
	return m.segments(c.SegmentSize), c.putManifest(ctx, cfg.Archive, in.manifest.Bytes())
}

// identify compares the server with the archive, before the first byte.
func (c *Commit) identify(ctx context.Context, a *archive.Archive, conn *pg.Conn, history *branch) error {
	id, sys, err := conn.Identity(ctx)
	if err != nil {
		return err
	}
	c.Identity = id
	if err := a.Identity().Match("archive "+a.Store().String(), c.Identity); err != nil {
		return err
	}
	c.ServerVersion = conn.ParameterStatus("server_version")
	return history.fetch(ctx, conn, sys.Timeline)
}

// reserve gives the backup an ID of its own, even if another one begins in the
// same second: the object that says so can be made only once.
func (c *Commit) reserve(ctx context.Context, store archive.Store) error {
	body, err := json.Marshal(struct {
		Started time.Time `json:"started"`
		Label   string    `json:"label"`
	}{c.Started, c.Label})
	if err != nil {
		return err
	}
	for t := c.Started; ; t = t.Add(time.Second) {
		id := t.Format(idLayout)
		err := store.Put(ctx, startedName(id), bytes.NewReader(append(body, '\n')))
		if err == nil {
			c.ID = id
			crashpoint.Hit(crashpoint.BackupReserved)
		}
		if !errors.Is(err, archive.ErrExists) {
			return err
		}
	}
}

// receive stores the parts while the server sends them.
func receive(ctx context.Context, cfg Config, s *stream, c *Commit) (*intake, error) {
	w, err := newPartWriter(ctx, cfg.Archive, c.ID, cfg.Level)
	if err != nil {
		return nil, err
	}
	var done int64
	in := newIntake(w, cfg.PartSize)
	cfg.Progress(0, s.estimate)
	end, damaged, err := in.run(w.ctx, s, func(n int64) {
		done += n
		cfg.Progress(done, s.estimate)
	})
	if c.Parts, err = w.finish(err); err != nil {
		return nil, err
	}
	c.StartLSN, c.StartTimeline = s.begin.lsn, s.begin.timeline
	c.StopLSN, c.Timeline = end.lsn, end.timeline
	c.Finished = cfg.Now().UTC()
	c.Tablespaces = s.tablespaces
	c.ChecksumFailures = damaged
	c.bound(in.control)
	c.count()
	return in, nil
}

// count sums up the parts.
func (c *Commit) count() {
	for _, p := range c.Parts {
		c.PlainBytes += p.PlainBytes
		c.StoredBytes += p.StoredSize
		c.Files += p.Files
	}
}

// putManifest stores the manifest, once it agrees with what passed.
func (c *Commit) putManifest(ctx context.Context, a *archive.Archive, body []byte) error {
	c.ManifestSHA256 = sha256Hex(body)
	sealed, err := a.Seal(bytes.NewReader(body))
	if err != nil {
		return err
	}
	size := &counter{}
	err = a.Store().Put(ctx, a.SealedName(ManifestName(c.ID)), io.TeeReader(sealed, size))
	c.StoredBytes += size.n
	return err
}

// cleanup deletes what a failed backup stored, as far as that goes: without a
// commit object it is not looked at anyway.
func cleanup(ctx context.Context, store archive.Store, log zerolog.Logger, c *Commit) {
	if c.ID == "" {
		return // nothing was stored
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if err := deleteAll(ctx, store, DataPrefix(c.ID)); err != nil {
		log.Warn().Err(err).Str("backup", c.ID).Msg("the data of the failed backup could not be deleted; it only takes space")
	}
}

func deleteAll(ctx context.Context, store archive.Store, prefix string) error {
	var names []string
	for info, err := range store.List(ctx, prefix, "") {
		if err != nil {
			return err
		}
		names = append(names, info.Name)
	}
	for _, name := range names {
		if err := store.Delete(ctx, name); err != nil {
			return err
		}
	}
	return nil
}
