package recovery

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// control is what a restore needs of global/pg_control. The offsets are those
// of ControlFileData in PostgreSQL's catalog/pg_control.h, the same from 13 to
// 18 up to where they are read; only the CRC moved in 18.
type control struct {
	version          uint32 // of the file's format, see controlVersion
	systemIdentifier uint64
	settings         wal.ParameterChange // see limits
	segmentSize      segment.Size
}

// controlVersion is PG_CONTROL_VERSION of a major version.
func controlVersion(major int) uint32 {
	if major < 17 {
		return 1300
	}
	return uint32(major) * 100
}

func parseControl(b []byte) (control, error) {
	if len(b) != 8192 {
		return control{}, fmt.Errorf("global/pg_control has %d bytes, not 8192", len(b))
	}
	le := binary.LittleEndian
	end := 288
	if le.Uint32(b[8:]) >= 1800 {
		end = 292
	}
	if crc32.Checksum(b[:end], crc32.MakeTable(crc32.Castagnoli)) != le.Uint32(b[end:]) {
		return control{}, fmt.Errorf("global/pg_control is damaged: its CRC is wrong")
	}
	at := func(off int) int32 { return int32(le.Uint32(b[off:])) }
	return control{
		version:          le.Uint32(b[8:]),
		systemIdentifier: le.Uint64(b),
		settings: wal.ParameterChange{
			MaxConnections: at(180), MaxWorkerProcesses: at(184), MaxWALSenders: at(188),
			MaxPreparedTransactions: at(192), MaxLocksPerTransaction: at(196),
		},
		segmentSize: segment.Size(le.Uint32(b[228:])),
	}, nil
}
