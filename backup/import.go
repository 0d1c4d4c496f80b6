package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/rs/zerolog"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// ImportConfig says what [Import] works with.
type ImportConfig struct {
	Archive *archive.Archive
	Level   zstd.EncoderLevel // zero means the fastest
	// PartSize is as in [Config].
	PartSize int64
	// Progress, if set, is told the plain bytes that passed, often.
	Progress func(bytes int64)
	Log      zerolog.Logger
}

// Import stores a base backup of pg_basebackup as one of walstream: every file
// is compared with the manifest while it is packed, and the WAL from the
// backup's start to its stop has to be in the archive already. had says that
// the archive holds this very backup; nothing is stored then. On an error
// there is no backup, as with [Take]; it names the source
// as an [*archive.FileError] does.
func Import(ctx context.Context, cfg ImportConfig, src *Source) (c *Commit, had bool, err error) {
	if cfg.Level == 0 {
		cfg.Level = zstd.SpeedFastest
	}
	if cfg.PartSize == 0 {
		cfg.PartSize = defaultPartSize
	}
	if cfg.Progress == nil {
		cfg.Progress = func(int64) {}
	}
	body, err := os.ReadFile(filepath.Join(src.Dir, manifestFile))
	if err != nil {
		return nil, false, &archive.FileError{Path: src.Dir, Err: err}
	}
	c, err = sameManifest(ctx, cfg.Archive, sha256Hex(body))
	if c != nil || err != nil {
		return c, c != nil, err
	}
	m, err := ParseManifest(body)
	if err == nil {
		c, err = importNew(ctx, cfg, src, m, body)
	}
	if err != nil {
		return nil, false, &archive.FileError{Path: src.Dir, Err: err}
	}
	cfg.Log.Info().Str("backup", c.ID).Str("from", src.Dir).Int64("bytes", c.PlainBytes).Int64("stored", c.StoredBytes).Msg("backup is imported")
	return c, false, nil
}

// sameManifest is the backup with this manifest, nil if there is none.
func sameManifest(ctx context.Context, a *archive.Archive, sha256 string) (*Commit, error) {
	for c, err := range List(ctx, a) {
		var unusable *UnusableError
		if errors.As(err, &unusable) {
			continue
		}
		if err != nil || c.ManifestSHA256 == sha256 {
			return c, err
		}
	}
	return nil, nil
}

func importNew(ctx context.Context, cfg ImportConfig, src *Source, m *Manifest, body []byte) (*Commit, error) {
	if len(m.WALRanges) == 0 {
		return nil, errors.New("backup_manifest names no WAL")
	}
	stop := m.WALRanges[0]
	c := &Commit{
		FormatVersion: FormatVersion, Identity: cfg.Archive.Identity().Identity,
		Timeline: stop.Timeline, StopLSN: stop.End,
	}
	if m.Version > 1 && m.SystemIdentifier != c.SystemIdentifier {
		return nil, fmt.Errorf("it is of another cluster: system identifier %d, not %d", m.SystemIdentifier, c.SystemIdentifier)
	}
	if err := haveWAL(ctx, cfg.Archive, m); err != nil {
		return nil, err
	}
	err := pack(ctx, cfg, src, m, c)
	if err == nil {
		err = c.putManifest(ctx, cfg.Archive, body)
	}
	if err != nil {
		cleanup(ctx, cfg.Archive.Store(), cfg.Log, c)
		return nil, err
	}
	return c, putCommit(ctx, cfg.Archive.Store(), c)
}

// haveWAL checks that the archive holds the WAL that the backup needs. Of the
// last segment its beginning up to the backup's stop is enough: pg_basebackup
// takes no more along.
func haveWAL(ctx context.Context, a *archive.Archive, m *Manifest) error {
	missing, err := missingWAL(ctx, a, m.segments(a.Identity().SegmentSize), m.WALRanges[0].End)
	if err == nil && missing != "" {
		err = hint.Errorf("add the segment to what you import, then run the same command again",
			"WAL segment %s, which the backup needs, is neither here nor in the archive", missing)
	}
	return err
}

// missingWAL names the first segment of which the archive does not hold what a
// backup needs that stops at stop.
func missingWAL(ctx context.Context, a *archive.Archive, needed []archive.Range, stop wal.LSN) (string, error) {
	if n := len(needed); n > 0 {
		last := &needed[n-1]
		tail, err := tailEnd(ctx, a, segment.ID{Timeline: last.Timeline, No: last.Last})
		switch {
		case err != nil:
			return "", err
		case tail >= stop && last.First == last.Last:
			needed = needed[:n-1]
		case tail >= stop:
			last.Last--
		}
	}
	return firstMissing(ctx, a, needed)
}

// tailEnd is how far tail objects hold a segment from its start on.
func tailEnd(ctx context.Context, a *archive.Archive, id segment.ID) (end wal.LSN, err error) {
	tails, err := a.Tails(ctx, id)
	for _, t := range tails {
		if t.From == 0 {
			end = max(end, id.Start(a.Identity().SegmentSize)+wal.LSN(t.To))
		}
	}
	return end, err
}

// pack stores the parts and completes the commit object.
func pack(ctx context.Context, cfg ImportConfig, src *Source, m *Manifest, c *Commit) error {
	// The backup's ID is its start time, which its label tells.
	l, err := src.label()
	if err != nil {
		return err
	}
	c.Label, c.FromStandby = l.name, l.fromStandby
	c.StartLSN, c.StartTimeline = l.start.lsn, l.start.timeline
	if c.Started, c.Finished, err = l.times(m); err != nil {
		return err
	}
	if err := m.checkWAL(c); err != nil {
		return err
	}
	if err := c.reserve(ctx, cfg.Archive.Store()); err != nil {
		return err
	}
	w, err := newPartWriter(ctx, cfg.Archive, c.ID, cfg.Level)
	if err != nil {
		return err
	}
	p := newPacker(w, cfg, m)
	if c.Parts, err = w.finish(p.run(w.ctx, src)); err != nil {
		return err
	}
	c.count()
	if c.Tablespaces, err = p.tablespaces(); err != nil {
		return err
	}
	if err := p.identify(c); err != nil {
		return err
	}
	if err := m.check(p.in.files, c); err != nil {
		return fmt.Errorf("compare with backup_manifest: %w", err)
	}
	return nil
}

// times is when the backup began and, as far as its manifest tells, ended.
func (l label) times(m *Manifest) (started, finished time.Time, err error) {
	var written time.Time
	for _, f := range m.Files {
		if f.Path == labelFile {
			written = f.Modified
		}
		if f.Modified.After(finished) {
			finished = f.Modified
		}
	}
	started, err = l.time(written)
	if finished.Before(started) {
		finished = started
	}
	return started, finished, err
}

// identify compares the files that say whose backup it is with the archive.
func (p *packer) identify(c *Commit) error {
	c.bound(p.in.control)
	if id := p.in.control.SystemIdentifier; id != c.SystemIdentifier {
		return fmt.Errorf("it is of another cluster: system identifier %d, not %d", id, c.SystemIdentifier)
	}
	c.ServerVersion = strings.TrimSpace(p.kept[versionFile].String())
	if c.ServerVersion != fmt.Sprint(c.MajorVersion) {
		return fmt.Errorf("it is of PostgreSQL %s, the archive of %d", c.ServerVersion, c.MajorVersion)
	}
	return nil
}
