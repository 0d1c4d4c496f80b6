package recovery

import (
	"fmt"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// Facts is all that the planner knows. The first six fields come from
// listings and are complete; the rest is filled in as the planner asks.
type Facts struct {
	Identity segment.Identity
	// Histories holds every timeline of which there is a history file;
	// timeline 1 need not be in it.
	Histories map[wal.Timeline]segment.History
	// Unknown are timelines of which there is something, but no history that
	// could be read, and why.
	Unknown  map[wal.Timeline]string
	Segments map[segment.ID]Segment
	Backups  []backup.Commit
	// Gaps explain holes; what is missing Segments tells.
	Gaps []archive.Gap
	// Heartbeats prove that nothing came behind the end of WAL until then.
	Heartbeats []archive.Heartbeat
	// Notes is what a plan should warn of whatever the target is.
	Notes []string

	// Summaries are of the pieces that [Segment.best] names.
	Summaries map[segment.ID]wal.Summary
	Points    map[segment.ID]wal.Points
	// RecordAt answers [WantRecordAt]. A zero span says that no record
	// starts there or later.
	RecordAt map[Want]Span
}

// Segment is what exists of one WAL segment, in the archive and in a spool.
type Segment struct {
	Archived bool    // whole in the archive
	Spooled  bool    // whole in the spool
	Tail     wal.LSN // end of what the archive's tail objects hold from the segment's start on; 0 is none
	Tailed   bool    // they hold all of it
	Partial  wal.LSN // end of the valid WAL in the spool's unfinished file; 0 is none
	Stored   int64   // bytes in the archive
	// Damaged says why what there is cannot be used. It counts as missing.
	Damaged string
	// Cut says why tail objects that reach behind Tail cannot be used.
	Cut string
}

// whole says that every byte of the segment can be had.
func (s Segment) whole() bool { return s.Damaged == "" && (s.Archived || s.Spooled || s.Tailed) }

// piece is where a segment's bytes are read from.
type piece int

const (
	pieceNone piece = iota
	pieceArchived
	pieceSpooled
	pieceTail    // the beginning, in the archive
	piecePartial // the beginning, in the spool
)

// best is the piece that serves the segment: whole before partial, the
// archive before the spool, the longer beginning.
func (s Segment) best() piece {
	switch {
	case s.Damaged != "":
		return pieceNone
	case s.Archived:
		return pieceArchived
	case s.Tailed:
		return pieceTail
	case s.Spooled:
		return pieceSpooled
	case s.Partial > s.Tail:
		return piecePartial
	case s.Tail > 0:
		return pieceTail
	}
	return pieceNone
}

// Span is one record: its first byte and the byte behind its last.
type Span struct{ Start, End wal.LSN }

// WantKind tells what the planner lacks.
type WantKind int

const (
	// WantSummary asks for Facts.Summaries of a segment.
	WantSummary WantKind = iota
	// WantPoints asks for Facts.Points of a segment.
	WantPoints
	// WantRecordAt asks for the first record that starts at LSN or later,
	// on the way to Timeline.
	WantRecordAt
)

// Want is one fact that the planner lacks.
type Want struct {
	Kind     WantKind
	Segment  segment.ID   // for WantSummary and WantPoints
	Timeline wal.Timeline // for WantRecordAt
	LSN      wal.LSN      // for WantRecordAt
}

func (f *Facts) history(tli wal.Timeline) (segment.History, bool) {
	h, ok := f.Histories[tli]
	if !ok && tli == 1 {
		return segment.History{Timeline: 1}, true
	}
	return h, ok
}

func (f *Facts) name(id segment.ID) string { return id.Name(f.Identity.SegmentSize) }

// latest emulates findNewestTimeLine of PostgreSQL's timeline.c: it probes for
// the next history file until one is missing.
func (f *Facts) latest(from wal.Timeline) wal.Timeline {
	for {
		if _, ok := f.Histories[from+1]; !ok {
			return from
		}
		from++
	}
}

// Check refuses facts that contradict each other.
func (f *Facts) Check() error {
	if !f.Identity.SegmentSize.Valid() {
		return fmt.Errorf("plan: %d is no wal_segment_size", f.Identity.SegmentSize)
	}
	for i := range f.Backups {
		b := &f.Backups[i]
		if err := b.Match("backup "+b.ID, f.Identity); err != nil {
			return fmt.Errorf("plan: %w", err)
		}
		if b.StartLSN == 0 || b.StopLSN < b.StartLSN {
			return fmt.Errorf("plan: backup %s runs from %s to %s", b.ID, b.StartLSN, b.StopLSN)
		}
	}
	return nil
}
