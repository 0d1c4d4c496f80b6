package wal

import (
	"encoding/binary"
	"time"
)

// What follows decodes records that are kept, but that nothing but the
// comparison with pg_waldump looks into.

// Checkpoint is what a recovery that starts at a checkpoint record needs.
type Checkpoint struct {
	Redo         LSN
	Timeline     Timeline
	PrevTimeline Timeline // differs in the first checkpoint after a promotion
	Shutdown     bool
}

// Checkpoint decodes a checkpoint record; ok is false for any other record.
func (r *Record) Checkpoint() (c Checkpoint, ok bool) {
	if !r.isXLOG(opCheckpointShutdown) && !r.isXLOG(opCheckpointOnline) {
		return Checkpoint{}, false
	}
	main := r.main()
	return Checkpoint{
		Redo:         LSN(binary.LittleEndian.Uint64(main)),
		Timeline:     Timeline(binary.LittleEndian.Uint32(main[8:])),
		PrevTimeline: Timeline(binary.LittleEndian.Uint32(main[12:])),
		Shutdown:     r.isXLOG(opCheckpointShutdown),
	}, true
}

// EndOfRecovery is the record that a promoted server writes instead of a
// checkpoint.
type EndOfRecovery struct {
	Time         time.Time
	Timeline     Timeline
	PrevTimeline Timeline
}

// EndOfRecovery decodes an end-of-recovery record; ok is false for any other.
func (r *Record) EndOfRecovery() (e EndOfRecovery, ok bool) {
	if !r.isXLOG(opEndOfRecovery) {
		return EndOfRecovery{}, false
	}
	main := r.main()
	return EndOfRecovery{
		Time:         timestamp(main),
		Timeline:     Timeline(binary.LittleEndian.Uint32(main[8:])),
		PrevTimeline: Timeline(binary.LittleEndian.Uint32(main[12:])),
	}, true
}

// BackupEnd is the start of the base backup whose end the record marks; ok is
// false for any other record.
func (r *Record) BackupEnd() (start LSN, ok bool) {
	if !r.isXLOG(opBackupEnd) {
		return 0, false
	}
	return LSN(binary.LittleEndian.Uint64(r.main())), true
}
