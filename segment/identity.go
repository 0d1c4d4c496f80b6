package segment

import (
	"fmt"

	"github.com/walstream/walstream/wal"
)

// Identity is what makes WAL of one cluster unfit for another. It is pinned
// in spool and archive at first use.
type Identity struct {
	// SystemIdentifier is the number that initdb gave the cluster.
	SystemIdentifier uint64 `json:"system_identifier,string"`
	// MajorVersion is 13 to 18.
	MajorVersion int  `json:"major_version"`
	SegmentSize  Size `json:"segment_size"`
}

// ScanConfig is what to scan a segment of this cluster with, from its start on.
func (id Identity) ScanConfig(s ID) wal.ScanConfig {
	return wal.ScanConfig{
		Start:            s.Start(id.SegmentSize),
		Timeline:         s.Timeline,
		SystemIdentifier: id.SystemIdentifier,
		SegmentSize:      uint32(id.SegmentSize),
		Major:            id.MajorVersion,
	}
}

// ForeignError says that something belongs to another cluster than expected.
type ForeignError struct {
	Object string // what holds Have: a spool, an archive, a server
	Have   Identity
	Want   Identity
}

func (e *ForeignError) Error() string {
	switch {
	case e.Have.SystemIdentifier != e.Want.SystemIdentifier:
		return fmt.Sprintf("%s belongs to another cluster: system identifier %d, not %d", e.Object, e.Have.SystemIdentifier, e.Want.SystemIdentifier)
	case e.Have.MajorVersion != e.Want.MajorVersion:
		return fmt.Sprintf("%s belongs to PostgreSQL %d, not %d", e.Object, e.Have.MajorVersion, e.Want.MajorVersion)
	default:
		return fmt.Sprintf("%s has WAL segments of %d bytes, not %d", e.Object, e.Have.SegmentSize, e.Want.SegmentSize)
	}
}

// Match compares what object holds with what is wanted; a difference is a
// [*ForeignError].
func (id Identity) Match(object string, want Identity) error {
	if id == want {
		return nil
	}
	return &ForeignError{Object: object, Have: id, Want: want}
}
