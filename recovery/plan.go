package recovery

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// Plan is one way to a target that was shown to exist, segment by segment. A
// dry run prints it, [Plan.Execute] carries it out, and it stays beside the
// restored cluster, where [WalGet] learns from it what must not be missing.
type Plan struct {
	Target Target `json:"target"`
	// Stop is what PostgreSQL is told in place of Target, nil when it is that:
	// for a time behind the last transaction.
	Stop     *Target          `json:"stop,omitempty"`
	Identity segment.Identity `json:"identity"`
	Backup   backup.Commit    `json:"backup"`
	// Timeline is the one to recover along, as a number.
	Timeline wal.Timeline `json:"timeline"`
	// End is where recovery ends: every record that ends at or before it is
	// replayed, no other.
	End wal.LSN `json:"end"`
	// Need is up to where WAL must be readable, so that PostgreSQL sees that
	// the target is reached. It is End, or the end of the record behind it.
	Need wal.LSN `json:"need"`
	WAL  []Range `json:"wal"` // in the order of replay
	// Before is the last commit or abort that is replayed, if there is one
	// since the backup began; After the first that is not, if any is known.
	Before *wal.Finish `json:"before,omitempty"`
	After  *wal.Finish `json:"after,omitempty"`
	// WALEnd is how far WAL reaches without a hole, if that is not far behind
	// End, otherwise where all WAL of the timeline ends. LastFinish is the
	// last commit or abort up to there, if the last segments hold one.
	WALEnd     wal.LSN     `json:"wal_end"`
	LastFinish *wal.Finish `json:"last_finish,omitempty"`
	// SpoolOnly is the WAL of this plan that the archive does not hold.
	SpoolOnly []SpoolPiece `json:"spool_only,omitempty"`
	// Changes is what replay needs beyond the backup: directories of tablespaces,
	// and settings.
	Changes wal.Changes `json:"changes,omitzero"`
	// HoleBehind says that one of the segments behind the last one, about as
	// many as an index covers, is missing while later ones exist. PostgreSQL
	// reads ahead and may ask for it.
	HoleBehind bool     `json:"hole_behind,omitempty"`
	Warnings   []string `json:"warnings,omitempty"`
}

// Range is a run of WAL segments of one timeline.
type Range struct {
	Timeline    wal.Timeline `json:"timeline"`
	First       string       `json:"first"`
	Last        string       `json:"last"`
	Segments    int          `json:"segments"`
	StoredBytes int64        `json:"stored_bytes"` // in the archive
	// Switch is where the next range's timeline forks off, zero in the last.
	Switch wal.LSN `json:"switch,omitempty"`
}

// SpoolPiece is WAL that only a spool holds.
type SpoolPiece struct {
	Segment  string  `json:"segment"`
	Complete bool    `json:"complete"`
	End      wal.LSN `json:"end"` // of the valid WAL in it
}

// MakePlan finds a backup and a way through WAL to the target. Of the three
// results one is set: a plan; or the facts that are still wanted, to be filled
// into f for the next call; or an error, which is a [*Refusal] when the target
// cannot be reached. It does no I/O and asks no clock: equal facts give equal
// answers.
//
// It takes the newest backup from which the target can be reached, by LSN and
// never by clock.
func MakePlan(f Facts, t Target) (*Plan, []Want, error) {
	t.Kind = cmp.Or(t.Kind, KindEnd)
	if err := t.Validate(); err != nil {
		return nil, nil, err
	}
	f.lasts = map[wal.Timeline]uint64{}
	p, err := f.plan(t)
	if wants := wanted(err); wants != nil {
		return nil, wants, nil
	}
	return p, nil, err
}

func (f *Facts) plan(t Target) (*Plan, error) {
	if err := strayed(f, t); err != nil {
		return nil, err
	}
	all := candidates(f, t)
	if len(all) == 0 {
		return nil, noCandidate(f, t)
	}
	late, err := tooLate(f, t, all)
	if err != nil {
		return nil, err
	}
	// For a transaction first only where its ID is in order, near the end of WAL,
	// where there is no index yet. It is not when the transaction took very long.
	for _, likely := range []bool{true, false} {
		if likely && t.Kind != KindXID {
			continue
		}
		for i := range all {
			all[i].likely = likely
		}
		for i := late; i < len(all); i++ {
			if skip, err := notBehind(f, t, all[i:], i-late+1); err != nil {
				return nil, err
			} else if skip {
				continue
			}
			p, err := all[i].plan(f, t)
			var m *miss
			switch {
			case !errors.As(err, &m):
				return p, err
			case m.final(t):
				return nil, m.refusal(t, all)
			}
		}
	}
	return explain(f, t, all)
}

func (r *route) plan(t Target, s *stop) (*Plan, error) {
	need := uint64(s.need-1) / uint64(r.facts.Identity.SegmentSize)
	used := int(need - r.first + 1)
	if err := r.extend(need + archive.IndexSpan); err != nil {
		return nil, err
	}
	if used > len(r.ids) {
		return nil, fmt.Errorf("plan: %s is needed and not on the way", s.need)
	}
	if err := r.lookAt(r.ids[:used]); err != nil {
		return nil, err
	}
	p := &Plan{Target: t, Identity: r.facts.Identity, Backup: *r.backup, Timeline: r.history.Timeline, End: s.end, Need: s.need}
	var errs [5]error
	p.Before, errs[0] = r.before(s.end)
	p.After, errs[1] = r.after(s.end)
	p.WALEnd, p.LastFinish, errs[2] = r.walEnd()
	p.Changes, errs[3] = r.changes(s.end)
	p.Warnings, errs[4] = r.warnings(t, s, used)
	if err := cmp.Or(errs[:]...); err != nil {
		return nil, err
	}
	p.Stop = r.instead(s)
	p.HoleBehind = r.hole != nil
	if t.Action == "" && t.Kind != KindEnd {
		p.Target.Action = ActionPause
	}
	p.WAL = r.ranges(r.ids[:used])
	p.SpoolOnly = r.spoolOnly(r.ids[:used], s.need)
	return p, nil
}

// lookAt reads the headers of a short way, all at once: a damaged one is better
// found now than when it is replayed.
func (r *route) lookAt(ids []segment.ID) error {
	const short = 16
	var wants []Want
	for _, id := range ids {
		if _, known := r.facts.Summaries[id]; !known && len(ids) <= short {
			wants = append(wants, Want{Kind: WantSummary, Segment: id})
		}
	}
	return lack(wants...)
}

// inSight says whether to read the summary of the i-th segment, which lies so
// far behind what is looked for: of a few, or where it costs little.
func (r *route) inSight(i, behind int) bool {
	const few = 4
	return behind < few || r.facts.Indexed[r.facts.block(r.ids[i])]
}

// walEnd is what [Plan.WALEnd] and [Plan.LastFinish] say.
func (r *route) walEnd() (end wal.LSN, finish *wal.Finish, err error) {
	if r.done {
		if end, _, err = r.endOf(len(r.ids)); err == nil {
			finish, err = r.before(end)
		}
		return end, finish, err
	}
	var wants []Want
	for no := r.last; no >= r.next() && no+2 > r.last; no-- {
		id := r.at(no)
		if r.facts.Segments[id].best() == pieceNone {
			continue
		}
		s, ok := r.facts.Summaries[id]
		if !ok {
			wants = append(wants, Want{Kind: WantSummary, Segment: id})
		}
		end, finish = max(end, r.reachOf(id)), cmp.Or(finish, s.Last)
	}
	return end, finish, lack(wants...)
}

func (r *route) ranges(ids []segment.ID) []Range {
	var list []Range
	for _, id := range ids {
		if n := len(list); n == 0 || list[n-1].Timeline != id.Timeline {
			if n > 0 {
				list[n-1].Switch, _ = r.history.StartOf(id.Timeline)
			}
			list = append(list, Range{Timeline: id.Timeline, First: r.facts.name(id)})
		}
		last := &list[len(list)-1]
		last.Last = r.facts.name(id)
		last.Segments++
		last.StoredBytes += r.facts.Segments[id].Stored
	}
	return list
}

// spoolOnly lists what must be copied out of the spool. Of the last segment
// the archive's tail is enough when it reaches as far as is needed.
func (r *route) spoolOnly(ids []segment.ID, need wal.LSN) []SpoolPiece {
	var list []SpoolPiece
	for _, id := range ids {
		s := r.facts.Segments[id]
		switch best := s.best(); {
		case best == pieceSpooled:
			list = append(list, SpoolPiece{Segment: r.facts.name(id), Complete: true, End: id.End(r.facts.Identity.SegmentSize)})
		case best == piecePartial && need > s.Tail:
			list = append(list, SpoolPiece{Segment: r.facts.name(id), End: s.Partial})
		}
	}
	return list
}

// warnings tells what is surprising, though right.
func (r *route) warnings(t Target, s *stop, used int) ([]string, error) {
	list := slices.Clone(r.facts.Notes)
	if r.backup.ChecksumFailures {
		list = append(list, fmt.Sprintf("backup %s holds pages whose checksums were wrong when it was taken", r.backup.ID))
	}
	if s.finish != nil && s.finish.Abort && t.Kind == KindXID {
		list = append(list, fmt.Sprintf("transaction %d aborted", t.XID))
	}
	if t.Kind == KindTime && s.finish != nil {
		id, err := r.earlierBehind(t, s, used)
		if err != nil {
			return nil, err
		}
		if id != nil {
			list = append(list, fmt.Sprintf("commit times went back: from segment %s on there are transactions that finished up to the target time; "+
				"they come after one that finished later (%s, xid %d), where PostgreSQL stops", r.facts.name(*id), t.show(s.finish.Time), s.finish.XID))
		}
	}
	list = append(list, r.fromHeartbeats(t, s)...)
	if t.Timeline == (TargetTimeline{}) {
		list = append(list, r.branches()...)
	}
	return list, nil
}

// branches names the timelines that "latest" leaves aside: each may be an
// abandoned one, or the very one that is wanted.
func (r *route) branches() []string {
	var list []string
	for _, tli := range slices.Sorted(maps.Keys(r.facts.Histories)) {
		h := r.facts.Histories[tli]
		if _, onTheWay := r.history.StartOf(tli); onTheWay || len(h.Ancestors) == 0 {
			continue
		}
		fork := h.Ancestors[len(h.Ancestors)-1]
		list = append(list, fmt.Sprintf("timeline %s, which forked off timeline %s at %s, is not on the way to timeline %s", tli, fork.Timeline, fork.End, r.history.Timeline))
	}
	return list
}

// earlierBehind finds the first segment in which a transaction that the target
// time covers lies behind the stop, of the next few and of all in sight that
// are known; nil for none.
func (r *route) earlierBehind(t Target, s *stop, used int) (*segment.ID, error) {
	for i := used - 1; i < len(r.ids); i++ {
		summary, err := r.summary(i, 1, 1)
		if err != nil && r.inSight(i, i-used+1) {
			return nil, err
		}
		earliest := summary.MinTime
		if points, err := r.points(i); err == nil {
			earliest = time.Time{}
			for _, f := range points.Finishes {
				if f.LSN >= s.need && (earliest.IsZero() || f.Time.Before(earliest)) {
					earliest = f.Time
				}
			}
		}
		if !earliest.IsZero() && !t.past(earliest) {
			return &r.ids[i], nil
		}
	}
	return nil, nil
}

// Required says whether the plan needs a segment, and whether it needs the
// whole of it: of the last one a verified beginning up to Need is enough.
func (p *Plan) Required(id segment.ID) (required, whole bool) {
	for i, r := range p.WAL {
		first, err1 := segment.ParseName(r.First, p.Identity.SegmentSize)
		last, err2 := segment.ParseName(r.Last, p.Identity.SegmentSize)
		if err1 != nil || err2 != nil || id.Timeline != r.Timeline || id.No < first.No || id.No > last.No {
			continue
		}
		return true, i < len(p.WAL)-1 || id.No < last.No
	}
	return false, false
}
