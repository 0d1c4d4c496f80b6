package recovery

import (
	"errors"
	"fmt"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// Facts is all that the planner knows. What Unknown, Notes and the fields
// between them hold is complete; of the rest there is what was asked for.
type Facts struct {
	Identity segment.Identity
	// Span is how many segments are listed at a time, and have an index in
	// common: a block begins at a number that it divides.
	Span uint64
	// Histories holds every timeline of which there is a history file;
	// timeline 1 need not be in it.
	Histories map[wal.Timeline]segment.History
	// Unknown are timelines of which there is something, but no history that
	// could be read, and why.
	Unknown map[wal.Timeline]string
	// Indexed are the blocks with an index, by their first segment. It tells
	// what is in segments, not whether they are there.
	Indexed map[segment.ID]bool
	// Gaps explain holes; what is missing Segments tells.
	Gaps []archive.Gap
	// Heartbeats prove that nothing came behind the end of WAL until then.
	Heartbeats []archive.Heartbeat
	// Notes is what a plan should warn of whatever the target is.
	Notes []string

	// Backups are all there are, but of one whose StartLSN is zero only the
	// name was read: Timeline, StopLSN, ID, and the time in it as Started.
	Backups []backup.Commit
	// Segments is complete in the blocks that are Listed and from End on.
	Segments map[segment.ID]Segment
	Listed   map[segment.ID]bool
	End      map[wal.Timeline]uint64
	// Summaries are of the pieces that [Segment.best] names.
	Summaries map[segment.ID]wal.Summary
	Points    map[segment.ID]wal.Points
	// RecordAt answers [WantRecordAt]. A zero span says that no record
	// starts there or later.
	RecordAt map[Want]Span
	// First answers [WantFirst] with a segment's number, [NoSegment] for none.
	First map[Want]uint64
	// Changes answers [WantChanges].
	Changes map[Want]wal.Changes

	lasts map[wal.Timeline]uint64 // what last found, while nothing is added
}

// NoSegment is behind the number of every segment.
const NoSegment = ^uint64(0)

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
	// WantSummary asks for Facts.Summaries of a segment. If it is not in a
	// block that is listed, that may be the answer instead.
	WantSummary WantKind = iota
	// WantPoints asks for Facts.Points of a segment.
	WantPoints
	// WantRecordAt asks for the first record that starts at LSN or later,
	// on the way to Timeline.
	WantRecordAt
	// WantBackup asks for the rest of Backup.
	WantBackup
	// WantBlock asks to list the block that begins with Segment.
	WantBlock
	// WantEnd asks to list Timeline from segment number From on.
	WantEnd
	// WantFirst asks for the first segment numbered From to To, on the way to
	// Timeline, that may hold what Target looks for.
	WantFirst
	// WantChanges asks for all changes, or the newest ones, from segment number
	// From to LSN on the way to Timeline. Earlier ones may be among them.
	WantChanges
)

// lacking is the error of what cannot be decided without more facts.
type lacking []Want

func (l lacking) Error() string { return fmt.Sprintf("%d facts are wanted", len(l)) }

// lack is the error of wanting these, nil for none.
func lack(wants ...Want) error {
	if len(wants) == 0 {
		return nil
	}
	return lacking(wants)
}

// wanted are the facts that err asks for.
func wanted(err error) (wants lacking) {
	errors.As(err, &wants)
	return wants
}

// Want is one fact that the planner lacks.
type Want struct {
	Kind     WantKind
	Segment  segment.ID   // for WantSummary, WantPoints and WantBlock
	Timeline wal.Timeline // for WantRecordAt, WantEnd, WantFirst and WantChanges
	LSN      wal.LSN      // for WantRecordAt and WantChanges
	From, To uint64       // for WantEnd, WantFirst and WantChanges
	Target   Target       // for WantFirst: no more of it than tells records apart
	Backup   string       // for WantBackup
	// Likely leaves out, for WantFirst, segments that are not likely to hold a
	// transaction by the order of IDs, but need not be read for that.
	Likely bool
}

func (f *Facts) history(tli wal.Timeline) (segment.History, bool) {
	h, ok := f.Histories[tli]
	if !ok && tli == 1 {
		return segment.History{Timeline: 1}, true
	}
	return h, ok
}

func (f *Facts) name(id segment.ID) string { return id.Name(f.Identity.SegmentSize) }

// block is the first segment of those that are listed with id.
func (f *Facts) block(id segment.ID) segment.ID {
	return segment.ID{Timeline: id.Timeline, No: id.No - id.No%f.Span}
}

// listed says that Segments tells whether there is a segment.
func (f *Facts) listed(id segment.ID) bool {
	end, ok := f.End[id.Timeline]
	return ok && id.No >= end || f.Listed[f.block(id)]
}

// last is the number of the last segment that there must be on the way to
// h.Timeline: the last one of which there is something, or the one in which the
// timeline begins.
func (f *Facts) last(h segment.History) (uint64, error) {
	if last, ok := f.lasts[h.Timeline]; ok {
		return last, nil
	}
	last, err := f.findLast(h)
	if err == nil && f.lasts != nil {
		f.lasts[h.Timeline] = last
	}
	return last, err
}

func (f *Facts) findLast(h segment.History) (uint64, error) {
	size := f.Identity.SegmentSize
	start, _ := h.StartOf(h.Timeline)
	begin := uint64(start) / uint64(size)
	last, from := begin, NoSegment
	for id, s := range f.Segments {
		if id.Timeline == h.Timeline && id.No > last && (s.best() != pieceNone || s.Damaged != "") {
			last = id.No
		}
	}
	if end, ok := f.End[h.Timeline]; ok {
		if from = end; from <= begin || last >= from && last > begin {
			return last, nil
		}
	}
	// It lies behind the last block with an index, and the last backup: the
	// next place from which on there should be something.
	next := begin
	for id := range f.Indexed {
		if id.Timeline == h.Timeline && id.No < from {
			next = max(next, id.No)
		}
	}
	for _, b := range f.Backups {
		if no := uint64(b.StopLSN) / uint64(size); b.Timeline == h.Timeline && no-no%f.Span < from {
			next = max(next, no)
		}
	}
	if next -= next % f.Span; next >= from {
		return last, nil
	}
	return 0, lack(Want{Kind: WantEnd, Timeline: h.Timeline, From: next})
}

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

// isRead says that more than the name of a backup is known.
func isRead(b *backup.Commit) bool { return b.StartLSN != 0 }
