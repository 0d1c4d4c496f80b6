package wal

import (
	"bytes"
	"encoding/binary"
	"time"
)

const recordHeader = 24 // SizeOfXLogRecord

// maxRecord bounds xl_tot_len: PostgreSQL cannot allocate more (MaxAllocSize).
const maxRecord = 1<<30 - 1

// Resource managers (access/rmgrlist.h) that the scanner looks into.
const (
	rmgrXLOG       = 0
	rmgrXact       = 1
	rmgrTablespace = 5
	rmgrLastKnown  = 21
	rmgrFirstOwned = 128 // of extensions, from PostgreSQL 15 on
)

// Operations of rmgrXLOG (catalog/pg_control.h): the high half of the info byte.
const (
	opCheckpointShutdown  = 0x00
	opCheckpointOnline    = 0x10
	opSwitch              = 0x40
	opBackupEnd           = 0x50
	opParameterChange     = 0x60
	opRestorePoint        = 0x70
	opEndOfRecovery       = 0x90
	opOverwriteContrecord = 0xD0
)

// opCreateTablespace is an operation of rmgrTablespace (commands/tablespace.h).
const opCreateTablespace = 0x00

// Record is one WAL record. It and all it refers to are valid during the
// callback only. Of its body only the kinds that the methods below decode are
// at hand.
type Record struct {
	LSN      LSN // of its first byte
	End      LSN // behind its last byte, aligned to 8; of an XLOG_SWITCH without the zeros
	Prev     LSN // start of the record before, zero directly after pg_resetwal
	XID      uint32
	TotalLen uint32 // xl_tot_len, bytes of header and body without page headers
	RmgrID   uint8
	Info     uint8
	Major    int // PostgreSQL's major version, by the magic of its last page

	kept []byte // of the body what body.go says
	xact xact   // what it says, if that is a commit or abort
}

func (r *Record) parseHeader(b []byte) {
	le := binary.LittleEndian
	r.TotalLen = le.Uint32(b)
	r.XID = le.Uint32(b[4:])
	r.Prev = LSN(le.Uint64(b[8:]))
	r.Info = b[16]
	r.RmgrID = b[17]
}

func (r *Record) isXLOG(op uint8) bool { return r.RmgrID == rmgrXLOG && r.Info&0xF0 == op }

// Switch says whether r is an XLOG_SWITCH: the rest of its segment is zeros.
func (r *Record) Switch() bool { return r.isXLOG(opSwitch) }

// RestorePoint is what pg_create_restore_point wrote; ok is false for any
// other record.
func (r *Record) RestorePoint() (p RestorePoint, ok bool) {
	if !r.isXLOG(opRestorePoint) {
		return RestorePoint{}, false
	}
	main := r.main()
	name, _, _ := bytes.Cut(main[8:72], []byte{0})
	return RestorePoint{LSN: r.LSN, End: r.End, Time: timestamp(main), Name: string(name)}, true
}

// Tablespace is what CREATE TABLESPACE wrote; ok is false for any other record.
func (r *Record) Tablespace() (t Tablespace, ok bool) {
	if !r.isCreateTablespace() {
		return Tablespace{}, false
	}
	main := r.main()
	path, _, _ := bytes.Cut(main[4:], []byte{0})
	return Tablespace{LSN: r.LSN, OID: binary.LittleEndian.Uint32(main), Path: string(path)}, true
}

func (r *Record) isCreateTablespace() bool {
	return r.RmgrID == rmgrTablespace && r.Info&0xF0 == opCreateTablespace
}

// ParameterChange lists the settings that a server in recovery must not
// undercut from there on.
type ParameterChange struct {
	LSN                     LSN   `json:"lsn"`
	MaxConnections          int32 `json:"max_connections"`
	MaxWorkerProcesses      int32 `json:"max_worker_processes"`
	MaxWALSenders           int32 `json:"max_wal_senders"`
	MaxPreparedTransactions int32 `json:"max_prepared_transactions"`
	MaxLocksPerTransaction  int32 `json:"max_locks_per_transaction"`
	WALLevel                int32 `json:"wal_level"` // 0 minimal, 1 replica, 2 logical
}

// ParameterChange decodes a change of settings; ok is false for any other
// record.
func (r *Record) ParameterChange() (c ParameterChange, ok bool) {
	if !r.isXLOG(opParameterChange) {
		return ParameterChange{}, false
	}
	main := r.main()
	at := func(i int) int32 { return int32(binary.LittleEndian.Uint32(main[4*i:])) }
	return ParameterChange{r.LSN, at(0), at(1), at(2), at(3), at(4), at(5)}, true
}

// overwritten is the start of the half record that an OVERWRITE_CONTRECORD
// declares void; ok is false for any other record.
func (r *Record) overwritten() (start LSN, ok bool) {
	if !r.isXLOG(opOverwriteContrecord) {
		return 0, false
	}
	return LSN(binary.LittleEndian.Uint64(r.main())), true
}

// timestamp reads a TimestampTz: microseconds since 2000-01-01 00:00 UTC.
func timestamp(b []byte) time.Time {
	const epoch = 946684800 * 1e6
	return time.UnixMicro(int64(binary.LittleEndian.Uint64(b)) + epoch).UTC()
}
