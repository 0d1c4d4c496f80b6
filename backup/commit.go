package backup

import (
	"fmt"
	"time"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/controlfile"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// FormatVersion is the version of commit objects that this program writes, and
// the newest that it reads.
const FormatVersion = 1

// idLayout is how a backup's start time, in UTC, becomes its ID.
const idLayout = "20060102T150405Z"

// Commit is the commit object of a base backup, written last: a backup
// without one does not exist.
type Commit struct {
	FormatVersion int    `json:"format_version"`
	ID            string `json:"id"` // start time, 20261122T010003Z
	segment.Identity
	ServerVersion  string       `json:"server_version"`
	Label          string       `json:"label"`
	Timeline       wal.Timeline `json:"timeline"`       // at StopLSN
	StartTimeline  wal.Timeline `json:"start_timeline"` // at StartLSN
	StartLSN       wal.LSN      `json:"start_lsn"`      // redo of the starting checkpoint
	StopLSN        wal.LSN      `json:"stop_lsn"`       // consistent from here on
	Started        time.Time    `json:"started"`
	Finished       time.Time    `json:"finished"`     // when the server stopped at StopLSN
	PlainBytes     int64        `json:"plain_bytes"`  // of all parts
	StoredBytes    int64        `json:"stored_bytes"` // of all parts and the manifest
	Files          int64        `json:"files"`
	Parts          []Part       `json:"parts"`
	Tablespaces    []Tablespace `json:"tablespaces,omitempty"`
	ManifestSHA256 string       `json:"manifest_sha256"`
	// ChecksumFailures is set when PostgreSQL reported damaged pages: the
	// backup can be restored but holds the damage.
	ChecksumFailures bool `json:"checksum_failures,omitempty"`
	// FromStandby says that the server was in recovery.
	FromStandby bool `json:"from_standby,omitempty"`
	// NextXID is a transaction ID with its epoch: what finished before StartLSN
	// had a lower one. OldestActiveXID is another: what finishes behind StopLSN
	// has that or a higher one. Both are 0 where they are not known.
	NextXID         uint64 `json:"next_xid,omitempty"`
	OldestActiveXID uint64 `json:"oldest_active_xid,omitempty"`
}

// Part is one tar.zst object. Parts are independent of each other; no file is
// split between two.
type Part struct {
	Name       string `json:"name"`                 // object name
	Tablespace uint32 `json:"tablespace,omitempty"` // OID, 0 for the data directory
	PlainBytes int64  `json:"plain_bytes"`          // of the tar stream
	StoredSize int64  `json:"stored_size"`
	SHA256     string `json:"sha256"` // of the stored bytes
	Files      int64  `json:"files"`
	// Control marks the part with global/pg_control, laid down last.
	Control bool `json:"control,omitempty"`
}

// Tablespace is one tablespace other than the default.
type Tablespace struct {
	OID uint32 `json:"oid"`
	// Location is the absolute path on the source, or one relative to the
	// data directory for a tablespace in place.
	Location string `json:"location"`
}

// bound takes what the control file of the backup tells of transactions, as far
// as its checkpoint is one of the backup.
func (c *Commit) bound(control controlfile.Control) {
	if c.StartLSN <= control.Redo && control.Redo <= c.StopLSN {
		c.NextXID, c.OldestActiveXID = control.NextXID, control.OldestActiveXID
	}
}

// CommitName is the object name of c: one listing shows all backups, in order
// of timeline and stop LSN.
func (c *Commit) CommitName() string {
	return archive.BackupsPrefix + c.Timeline.Hex() + "-" + archive.LSNHex(c.StopLSN) + "-" + c.ID + ".json"
}

// DataPrefix is the prefix of all data objects of the backup with this ID.
func DataPrefix(id string) string { return archive.BackupPrefix + id + "/" }

// PartName is the object of the part with this number, counted from 1.
func PartName(id string, number int) string {
	return fmt.Sprintf("%sdata/%06d.tar.zst", DataPrefix(id), number)
}

// ManifestName is the object that holds backup_manifest, byte for byte.
func ManifestName(id string) string { return DataPrefix(id) + "backup_manifest" }

// startedName is the object that reserves an ID, written first.
func startedName(id string) string { return DataPrefix(id) + "started.json" }
