package archive

import (
	"time"

	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// Header stands in front of every segment and tail object. It is enough to
// plan a recovery without reading the WAL itself.
type Header struct {
	segment.Identity
	Timeline wal.Timeline `json:"timeline"`
	StartLSN wal.LSN      `json:"start_lsn"` // of the segment, also in a tail
	// From and To are the plain bytes that the object holds, as offsets in
	// the segment; a complete segment has 0 and SegmentSize.
	From int64 `json:"from"`
	To   int64 `json:"to"`
	// SHA256 is over those plain bytes, lower-case hexadecimal.
	SHA256 string `json:"sha256"`
	// CRC32C is over the same bytes, nil unless [Archive.Describe] has just
	// read them: that they are the same when they are compressed is checked
	// at little cost.
	CRC32C *uint32 `json:"-"`

	wal.Summary

	// RunningMax is the latest commit or abort time seen on the way from
	// RunningMaxSince to the end of this object. Commit times are not
	// monotonic, so a planner needs it to search by time. Zero when nothing
	// finished since then.
	RunningMax      time.Time `json:"running_max,omitzero"`
	RunningMaxSince wal.LSN   `json:"running_max_since"`
	// Earlier changes came between RunningMaxSince and the object's start: the
	// newest ones.
	Earlier wal.Changes `json:"earlier,omitzero"`
	// Carry is the reader's state at the end of the object, with which the
	// next segment can be read without this one. Nil when the end is a
	// record boundary.
	Carry *wal.Carry `json:"carry,omitempty"`
}

// Identity pins an archive to one cluster at first use.
type Identity struct {
	FormatVersion int `json:"format_version"`
	segment.Identity
	Encrypted bool `json:"encrypted"`
}
