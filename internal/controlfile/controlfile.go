// Package controlfile reads global/pg_control. The offsets are those of
// ControlFileData and CheckPoint in PostgreSQL's catalog/pg_control.h, the same
// from 13 to 18 up to where they are read; only the CRC moved in 18.
package controlfile

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

const (
	// Path is where a data directory has it.
	Path = "global/pg_control"
	// Size is that of the file in bytes.
	Size = 8192
)

// Control is what a backup and a restore need of it.
type Control struct {
	Version          uint32 // of the file's format, see [Version]
	SystemIdentifier uint64
	SegmentSize      segment.Size
	// Settings must not be lower where its WAL is replayed.
	Settings wal.ParameterChange
	// Redo is where the last checkpoint begins.
	Redo wal.LSN
	// NextXID had not been assigned when that checkpoint began; with its epoch.
	NextXID uint64
	// OldestActiveXID is one at or before the oldest transaction that had not
	// finished then; with its epoch.
	OldestActiveXID uint64
}

// Version is PG_CONTROL_VERSION of a major version.
func Version(major int) uint32 {
	if major < 17 {
		return 1300
	}
	return uint32(major) * 100
}

// Parse reads the contents of the file, which it checks by their CRC.
func Parse(b []byte) (Control, error) {
	if len(b) != Size {
		return Control{}, fmt.Errorf("%s has %d bytes, not %d", Path, len(b), Size)
	}
	le := binary.LittleEndian
	end := 288
	if le.Uint32(b[8:]) >= 1800 {
		end = 292
	}
	if crc32.Checksum(b[:end], crc32.MakeTable(crc32.Castagnoli)) != le.Uint32(b[end:]) {
		return Control{}, fmt.Errorf("%s is damaged: its CRC is wrong", Path)
	}
	at := func(off int) int32 { return int32(le.Uint32(b[off:])) }
	c := Control{
		Version:          le.Uint32(b[8:]),
		SystemIdentifier: le.Uint64(b),
		Settings: wal.ParameterChange{
			MaxConnections: at(180), MaxWorkerProcesses: at(184), MaxWALSenders: at(188),
			MaxPreparedTransactions: at(192), MaxLocksPerTransaction: at(196),
		},
		SegmentSize: segment.Size(le.Uint32(b[228:])),
		Redo:        wal.LSN(le.Uint64(b[40:])),
		NextXID:     le.Uint64(b[64:]),
	}
	// A checkpoint of a shutdown does not tell, and prepared transactions may
	// be left then. What is still to finish is not frozen.
	oldest := le.Uint32(b[120:])
	if oldest == 0 {
		oldest = le.Uint32(b[84:])
	}
	c.OldestActiveXID = c.NextXID - uint64(uint32(c.NextXID)-oldest)
	return c, nil
}
