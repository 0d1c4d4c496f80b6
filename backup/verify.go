package backup

import (
	"bytes"
	"fmt"

	"github.com/walstream/walstream/internal/controlfile"
)

// check compares the manifest with what came of the backup.
func (m *Manifest) check(files map[string]fileSum, c *Commit) error {
	if m.Version > 1 && m.SystemIdentifier != c.SystemIdentifier {
		return fmt.Errorf("system identifier %d in backup_manifest is not that of the cluster, %d", m.SystemIdentifier, c.SystemIdentifier)
	}
	if n := len(c.Parts); n == 0 || !c.Parts[n-1].Control {
		return fmt.Errorf("%s was not sent, or not last", controlfile.Path)
	}
	if err := m.compare(files); err != nil {
		return err
	}
	return m.checkWAL(c)
}

// compare checks that the files that passed are those of the manifest, byte
// for byte as far as size and checksum tell.
func (m *Manifest) compare(files map[string]fileSum) error {
	listed := make(map[string]bool, len(m.Files))
	for _, f := range m.Files {
		listed[f.Path] = true
		have, ok := files[f.Path]
		switch {
		case !ok:
			return fmt.Errorf("file %q is in backup_manifest but was not sent", f.Path)
		case f.Algorithm != have.algorithm:
			return fmt.Errorf("file %q has a checksum of algorithm %q in backup_manifest, not %s", f.Path, f.Algorithm, have.algorithm)
		case have.size != f.Size:
			return fmt.Errorf("file %q came with %d bytes, backup_manifest has %d", f.Path, have.size, f.Size)
		case !bytes.Equal(have.sum, f.Checksum):
			return fmt.Errorf("file %q came with checksum %x, backup_manifest has %x", f.Path, have.sum, f.Checksum)
		}
	}
	for path := range files {
		if !listed[path] {
			return fmt.Errorf("file %q was sent but is not in backup_manifest", path)
		}
	}
	return nil
}

// checkWAL checks that the WAL ranges lead without a hole from the start of
// the backup to its stop.
func (m *Manifest) checkWAL(c *Commit) error {
	begin, at := position{c.StartLSN, c.StartTimeline}, position{c.StopLSN, c.Timeline}
	for i, r := range m.WALRanges {
		if r.End != at.lsn || (i == 0) != (r.Timeline == at.timeline) || r.Timeline > at.timeline {
			return fmt.Errorf("WAL range %s to %s of timeline %s does not lead to %s of timeline %s",
				r.Start, r.End, r.Timeline, at.lsn, at.timeline)
		}
		at = position{r.Start, r.Timeline}
	}
	if at != begin {
		return fmt.Errorf("WAL ranges begin at %s of timeline %s, the backup at %s of timeline %s",
			at.lsn, at.timeline, begin.lsn, begin.timeline)
	}
	return nil
}
