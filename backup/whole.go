package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/segment"
)

// Whole looks whether all of a backup is there that a listing can tell: its
// manifest, every part in the size that it had, and the WAL from its start to
// its stop, along history h, on whose way it lies. It fails with an
// [*UnusableError] if not.
func Whole(ctx context.Context, a *archive.Archive, c *Commit, h segment.History) error {
	if err := c.present(ctx, a); err != nil {
		return err
	}
	missing, err := missingWAL(ctx, a, c.WAL(h), c.StopLSN)
	if err == nil && missing != "" {
		err = &UnusableError{Object: "backup " + c.ID, Err: fmt.Errorf("WAL segment %s, which it needs, is missing", missing)}
	}
	return err
}

// present looks for manifest and parts.
func (c *Commit) present(ctx context.Context, a *archive.Archive) error {
	unusable := func(format string, args ...any) error {
		return &UnusableError{Object: "backup " + c.ID, Err: fmt.Errorf(format, args...)}
	}
	sizes := map[string]int64{}
	for info, err := range a.Store().List(ctx, DataPrefix(c.ID), "") {
		if err != nil {
			return fmt.Errorf("list backup %s: %w", c.ID, err)
		}
		sizes[info.Name] = info.Size
	}
	if name := a.SealedName(ManifestName(c.ID)); sizes[name] == 0 {
		return unusable("%s is missing", name)
	}
	for _, p := range c.Parts {
		switch size, ok := sizes[p.Name]; {
		case !ok:
			return unusable("%s is missing", p.Name)
		case size != p.StoredSize:
			return unusable("%s has %d bytes, not %d", p.Name, size, p.StoredSize)
		}
	}
	return nil
}

// CheckPart reads a part of a backup and compares it with what was stored. It
// fails with an [*archive.CorruptError] or [archive.ErrNotExist] if it is not
// that. It needs no identity.
func CheckPart(ctx context.Context, a *archive.Archive, p Part) error {
	r, err := a.Store().Get(ctx, p.Name, 0, -1)
	if err != nil {
		return err
	}
	defer r.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, r); err != nil {
		return fmt.Errorf("get %s: %w", p.Name, err)
	}
	if have := hex.EncodeToString(sum.Sum(nil)); have != p.SHA256 {
		return &archive.CorruptError{Object: p.Name, What: "sha256", Have: have, Want: p.SHA256}
	}
	return nil
}

// WAL is the segments from a backup's start to its stop on the way of h.
func (c *Commit) WAL(h segment.History) []archive.Range {
	var needed []archive.Range
	size := c.SegmentSize
	last := max(c.StopLSN, c.StartLSN+1) - 1
	for no := uint64(c.StartLSN) / uint64(size); no <= uint64(last)/uint64(size); no++ {
		id := h.SegmentAt(segment.ID{No: no}.Start(size), size)
		if n := len(needed); n > 0 && needed[n-1].Timeline == id.Timeline {
			needed[n-1].Last = no
			continue
		}
		needed = append(needed, archive.Range{Timeline: id.Timeline, First: no, Last: no})
	}
	return needed
}
