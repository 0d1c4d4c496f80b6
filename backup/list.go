package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/wal"
)

// UnusableError says that a backup is in the archive but cannot be used: its
// commit object is damaged, of another cluster, or of a newer version, or what
// that object names is not all there. Other backups are not affected.
type UnusableError struct {
	Object string
	Err    error
}

func (e *UnusableError) Error() string { return fmt.Sprintf("%s is unusable: %v", e.Object, e.Err) }

func (e *UnusableError) Unwrap() error { return e.Err }

// Names yields the backups of an archive in order of timeline and stop LSN, as
// far as the names of their commit objects tell: Timeline, which StartTimeline is
// taken for, StopLSN, ID and Started, which is the clock in the ID. The rest is what [Commit.Read] reads.
// A name that is none yields an [*UnusableError], and the list goes on; any
// other error ends it and means that there may be more.
func Names(ctx context.Context, a *archive.Archive) iter.Seq2[*Commit, error] {
	return func(yield func(*Commit, error) bool) {
		for info, err := range a.Store().List(ctx, archive.BackupsPrefix, "") {
			if err != nil {
				yield(nil, fmt.Errorf("list backups: %w", err))
				return
			}
			c, err := parseCommitName(info.Name)
			if !yield(c, err) {
				return
			}
		}
	}
}

func parseCommitName(name string) (*Commit, error) {
	c := &Commit{}
	var tli uint32
	var stop uint64
	_, err := fmt.Sscanf(strings.TrimPrefix(name, archive.BackupsPrefix), "%8X-%16X-%s", &tli, &stop, &c.ID)
	c.Timeline, c.StopLSN, c.ID = wal.Timeline(tli), wal.LSN(stop), strings.TrimSuffix(c.ID, ".json")
	c.StartTimeline = c.Timeline
	if err == nil {
		c.Started, err = time.Parse(idLayout, c.ID)
	}
	if err != nil || c.CommitName() != name {
		return nil, &UnusableError{Object: name, Err: errors.New("by its name it is no commit object")}
	}
	return c, nil
}

// Read reads the commit object of a backup of [Names]. It fails with an
// [*UnusableError] if it cannot be used.
func (c *Commit) Read(ctx context.Context, a *archive.Archive) error {
	whole, err := loadCommit(ctx, a, c.CommitName())
	if err == nil {
		*c = *whole
	}
	return err
}

// List yields the backups of an archive as [Names] does, and reads all of them.
func List(ctx context.Context, a *archive.Archive) iter.Seq2[*Commit, error] {
	return func(yield func(*Commit, error) bool) {
		for c, err := range Names(ctx, a) {
			if err == nil {
				err = c.Read(ctx, a)
			}
			if errors.Is(err, archive.ErrNotExist) {
				continue // deleted since the listing
			}
			if err != nil {
				c = nil
			}
			if !yield(c, err) || err != nil && !errors.As(err, new(*UnusableError)) {
				return
			}
		}
	}
}

// Load reads the commit object of the backup with this ID. Without one it
// fails with [archive.ErrNotExist].
func Load(ctx context.Context, a *archive.Archive, id string) (*Commit, error) {
	for info, err := range a.Store().List(ctx, archive.BackupsPrefix, "") {
		if err != nil {
			return nil, fmt.Errorf("look for backup %s: %w", id, err)
		}
		if info.Name[strings.LastIndexByte(info.Name, '-')+1:] == id+".json" {
			return loadCommit(ctx, a, info.Name)
		}
	}
	return nil, hint.With(fmt.Errorf("backup %q: %w", id, archive.ErrNotExist), "which there are: walstream list")
}

// ReadManifest reads the manifest of a backup, byte for byte as PostgreSQL wrote
// it, verified against the commit object.
func ReadManifest(ctx context.Context, a *archive.Archive, c *Commit) ([]byte, error) {
	name := a.SealedName(ManifestName(c.ID))
	r, err := a.Store().Get(ctx, name, 0, -1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	plain, err := a.Unseal(name, r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(plain)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", name, err)
	}
	if have := sha256Hex(body); have != c.ManifestSHA256 {
		return nil, &archive.CorruptError{Object: name, What: "sha256", Have: have, Want: c.ManifestSHA256}
	}
	return body, nil
}

// LoadManifest reads and parses the manifest of a backup.
func LoadManifest(ctx context.Context, a *archive.Archive, c *Commit) (*Manifest, error) {
	body, err := ReadManifest(ctx, a, c)
	if err != nil {
		return nil, err
	}
	m, err := ParseManifest(body)
	if err == nil {
		err = m.checkWAL(c)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ManifestName(c.ID), err)
	}
	return m, nil
}

// Check looks whether a backup is there as a whole: its manifest as it was
// stored, which in an encrypted archive takes an identity, and every part in
// the size that it had. It fails with an [*UnusableError] if not. Damage inside
// a part is found by reading it only.
func Check(ctx context.Context, a *archive.Archive, c *Commit) error {
	unusable := func(err error) error { return &UnusableError{Object: "backup " + c.ID, Err: err} }
	_, err := LoadManifest(ctx, a, c)
	switch {
	case errors.Is(err, archive.ErrNotExist):
		return unusable(fmt.Errorf("%s is missing", a.SealedName(ManifestName(c.ID))))
	case errors.As(err, new(*archive.CorruptError)):
		return unusable(err)
	case err != nil:
		return err
	}
	return c.present(ctx, a)
}

func putCommit(ctx context.Context, store archive.Store, c *Commit) error {
	body, err := archive.EncodeJSON(c)
	if err == nil {
		err = store.Put(ctx, c.CommitName(), bytes.NewReader(body))
	}
	if err != nil {
		return hint.With(err, "whether backup %s counts is not known, its data was left alone; see: walstream list", c.ID)
	}
	return nil
}

func loadCommit(ctx context.Context, a *archive.Archive, name string) (*Commit, error) {
	body, err := archive.ReadAll(ctx, a.Store(), name, -1)
	if err != nil {
		return nil, err
	}
	c := &Commit{}
	err = archive.DecodeJSON(body, c)
	if err == nil || c.FormatVersion > FormatVersion {
		err = c.check(name, a)
	}
	if err != nil {
		return nil, &UnusableError{Object: name, Err: err}
	}
	return c, nil
}

// check verifies what a commit object says of itself.
func (c *Commit) check(name string, a *archive.Archive) error {
	if c.FormatVersion > FormatVersion {
		return hint.Errorf("use the walstream release that took this backup, or a newer one",
			"its format version is %d, this program knows versions up to %d", c.FormatVersion, FormatVersion)
	}
	if _, err := time.Parse(idLayout, c.ID); err != nil || c.FormatVersion < 1 {
		return fmt.Errorf("id %q, format version %d: it is no commit object", c.ID, c.FormatVersion)
	}
	if c.CommitName() != name {
		return fmt.Errorf("by its contents it should be %s", c.CommitName())
	}
	if err := c.Match("the backup", a.Identity().Identity); err != nil {
		return err
	}
	if c.StartTimeline == 0 || c.StartTimeline > c.Timeline || c.StartLSN > c.StopLSN {
		return fmt.Errorf("start %s on timeline %s, stop %s on timeline %s", c.StartLSN, c.StartTimeline, c.StopLSN, c.Timeline)
	}
	for i, p := range c.Parts {
		if p.Name != a.SealedName(PartName(c.ID, i+1)) || p.Control != (i == len(c.Parts)-1) {
			return fmt.Errorf("part %d of %d is %s", i+1, len(c.Parts), p.Name)
		}
	}
	if len(c.Parts) == 0 {
		return errors.New("it has no parts")
	}
	return nil
}
