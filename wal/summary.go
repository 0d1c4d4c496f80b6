package wal

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Finish is one commit or abort, prepared transactions included: the records
// at which PostgreSQL compares recovery_target_time and recovery_target_xid.
type Finish struct {
	LSN   LSN       `json:"lsn"`  // start of the record
	End   LSN       `json:"end"`  // first byte after it
	Time  time.Time `json:"time"` // xact_time, microseconds, UTC
	XID   uint32    `json:"xid"`  // of the transaction that ended
	Abort bool      `json:"abort,omitempty"`
}

// RestorePoint is a record of pg_create_restore_point.
type RestorePoint struct {
	LSN  LSN       `json:"lsn"`
	End  LSN       `json:"end"`
	Time time.Time `json:"time"`
	Name string    `json:"name"`
}

// Tablespace is a record of CREATE TABLESPACE. Whoever replays it makes a
// directory at the same path, which may be that of a living server.
type Tablespace struct {
	LSN  LSN    `json:"lsn"`
	OID  uint32 `json:"oid"`
	Path string `json:"path"` // empty for one inside the data directory
}

// Changes are what a recovery needs before it replays them, in LSN order.
type Changes struct {
	Tablespaces []Tablespace      `json:"tablespaces,omitempty"` // that were created
	Settings    []ParameterChange `json:"settings,omitempty"`
}

// Newest is c and what follows it, at most n of each kind.
func (c Changes) Newest(next Changes, n int) Changes {
	spaces, settings := slices.Concat(c.Tablespaces, next.Tablespaces), slices.Concat(c.Settings, next.Settings)
	return Changes{spaces[max(0, len(spaces)-n):], settings[max(0, len(settings)-n):]}
}

// Summary is what a stretch of WAL says of itself. A record belongs to the
// stretch in which it ends.
type Summary struct {
	// FirstRecord is the start of the first record that begins in the
	// stretch, zero when none does.
	FirstRecord LSN `json:"first_record,omitempty"`
	// ValidEnd is the end of the last complete, valid record; for a full
	// segment that ends in a record continued elsewhere it lies before the
	// segment's end. Zeros behind an XLOG_SWITCH count as part of it. Zero when
	// no record ended here.
	ValidEnd LSN `json:"valid_end,omitempty"`
	// LastRecord is the start of the record that ends at ValidEnd.
	LastRecord LSN `json:"last_record,omitempty"`

	Records int64 `json:"records"`
	Commits int64 `json:"commits"`
	Aborts  int64 `json:"aborts"`

	// First and Last are in LSN order. MinTime and MaxTime are over all
	// commits and aborts: their times are not monotonic in LSN order.
	First   *Finish   `json:"first,omitempty"`
	Last    *Finish   `json:"last,omitempty"`
	MinTime time.Time `json:"min_time,omitzero"`
	MaxTime time.Time `json:"max_time,omitzero"`
	// MinXID and MaxXID are the bounds of their transaction IDs, in the cyclic
	// order in which those are given out. Zero when there is none.
	MinXID uint32 `json:"min_xid,omitempty"`
	MaxXID uint32 `json:"max_xid,omitempty"`

	RestorePoints []RestorePoint `json:"restore_points,omitempty"`
	Changes

	// Switch says that the stretch ends in an XLOG_SWITCH record: what
	// follows it up to the segment's end is zeros.
	Switch bool `json:"switch,omitempty"`
	// UnknownCarry says that the stretch began inside a record whose
	// beginning was not at hand, so that this one record was skipped
	// unchecked: a commit in it is not counted.
	UnknownCarry bool `json:"unknown_carry,omitempty"`
}

// Excludes says that no transaction with this ID ended in the stretch.
func (s *Summary) Excludes(xid uint32) bool {
	return s.MinXID != 0 && (before(xid, s.MinXID) || before(s.MaxXID, xid))
}

// before is TransactionIdPrecedes of PostgreSQL's transam.c.
func before(a, b uint32) bool { return int32(a-b) < 0 }

// Add makes s the summary of its stretch and of next, which follows it.
func (s *Summary) Add(next *Summary) {
	s.FirstRecord = cmp.Or(s.FirstRecord, next.FirstRecord)
	if next.Records > 0 {
		s.ValidEnd, s.LastRecord = next.ValidEnd, next.LastRecord
		s.Switch = next.Switch
	}
	s.Records += next.Records
	s.Commits += next.Commits
	s.Aborts += next.Aborts
	if next.Last != nil {
		s.First, s.Last = cmp.Or(s.First, next.First), next.Last
		s.extend(next.MinTime, next.MinXID)
		s.extend(next.MaxTime, next.MaxXID)
	}
	s.RestorePoints = append(s.RestorePoints, next.RestorePoints...)
	s.Changes = s.Newest(next.Changes, math.MaxInt)
	s.UnknownCarry = s.UnknownCarry || next.UnknownCarry
}

// extend moves the bounds so that they hold a commit or abort.
func (s *Summary) extend(at time.Time, xid uint32) {
	if s.MinTime.IsZero() || at.Before(s.MinTime) {
		s.MinTime = at
	}
	if s.MaxTime.IsZero() || at.After(s.MaxTime) {
		s.MaxTime = at
	}
	if xid == 0 { // a commit without one
		return
	}
	if s.MinXID == 0 || before(xid, s.MinXID) {
		s.MinXID = xid
	}
	if s.MaxXID == 0 || before(s.MaxXID, xid) {
		s.MaxXID = xid
	}
}
