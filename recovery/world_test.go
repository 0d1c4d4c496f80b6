package recovery

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// world is a made-up cluster with its WAL record by record, from which a test
// answers what the planner wants to know.
type world struct {
	facts   Facts
	records map[wal.Timeline][]record // each timeline's own, from its fork on
	end     map[wal.Timeline]wal.LSN  // of its WAL
	blurred map[segment.ID]bool       // whose summary began with an unknown carry
	backups map[string]backup.Commit
}

type record struct {
	start, end wal.LSN
	kind       byte // 'c'ommit, 'a'bort, restore 'p'oint, 0 anything else
	xid        uint32
	time       time.Time
	name       string
}

const testSize = segment.MinSize

func newWorld() *world {
	id := segment.Identity{SystemIdentifier: 7, MajorVersion: 15, SegmentSize: testSize}
	return &world{
		facts: Facts{
			Identity: id, Span: archive.IndexSpan, Histories: map[wal.Timeline]segment.History{}, Segments: map[segment.ID]Segment{},
		},
		records: map[wal.Timeline][]record{}, end: map[wal.Timeline]wal.LSN{}, blurred: map[segment.ID]bool{},
	}
}

// along is every record on the way to h.Timeline. Of an ancestor only whole
// records before the fork count.
func (w *world) along(h segment.History) []record {
	var all []record
	for _, sw := range h.Ancestors {
		start, _ := h.StartOf(sw.Timeline)
		all = append(all, w.tiled(sw.Timeline, start, sw.End)...)
	}
	start, _ := h.StartOf(h.Timeline)
	return append(all, w.tiled(h.Timeline, start, w.end[h.Timeline])...)
}

// tiled fills what lies between the interesting records of a timeline with
// others, each within 64 KiB.
func (w *world) tiled(tli wal.Timeline, start, end wal.LSN) []record {
	var all []record
	pos := max(start, wal.LSN(testSize))
	fill := func(to wal.LSN) {
		for pos < to {
			next := min(to, pos&^0xffff+0x10000)
			all = append(all, record{start: pos, end: next})
			pos = next
		}
	}
	for _, r := range w.records[tli] {
		if r.start < start || r.end > end {
			continue
		}
		fill(r.start)
		all = append(all, r)
		pos = r.end
	}
	fill(end)
	return all
}

func (w *world) history(tli wal.Timeline) segment.History {
	h, ok := w.facts.history(tli)
	if !ok {
		panic(fmt.Sprintf("timeline %s has no history", tli))
	}
	return h
}

// in is the records that end in what exists of a segment.
func (w *world) in(id segment.ID) []record {
	s := w.facts.Segments[id]
	limit := id.End(testSize)
	if !s.Archived && !s.Spooled {
		limit = max(s.Tail, s.Partial)
	}
	var list []record
	for _, r := range w.along(w.history(id.Timeline)) {
		if r.end > id.Start(testSize) && r.end <= limit {
			list = append(list, r)
		}
	}
	return list
}

func (r record) finish() wal.Finish {
	return wal.Finish{LSN: r.start, End: r.end, Time: r.time, XID: r.xid, Abort: r.kind == 'a'}
}

func (w *world) points(id segment.ID) wal.Points {
	var pts wal.Points
	for _, r := range w.in(id) {
		switch r.kind {
		case 'c', 'a':
			pts.Finishes = append(pts.Finishes, r.finish())
		case 'p':
			pts.RestorePoints = append(pts.RestorePoints, wal.RestorePoint{LSN: r.start, End: r.end, Time: r.time, Name: r.name})
		}
	}
	return pts
}

func (w *world) summary(id segment.ID) wal.Summary {
	var s wal.Summary
	pts := w.points(id)
	for _, r := range w.in(id) {
		s.Records++
		s.ValidEnd, s.LastRecord = r.end, r.start
	}
	unseen := func(lsn wal.LSN) bool { return w.blurred[id] && lsn < id.Start(testSize) }
	pts.Finishes = slices.DeleteFunc(pts.Finishes, func(f wal.Finish) bool { return unseen(f.LSN) })
	s.RestorePoints = slices.DeleteFunc(pts.RestorePoints, func(p wal.RestorePoint) bool { return unseen(p.LSN) })
	s.UnknownCarry = w.blurred[id]
	for i, f := range pts.Finishes {
		if f.Abort {
			s.Aborts++
		} else {
			s.Commits++
		}
		if i == 0 || f.Time.Before(s.MinTime) {
			s.MinTime = f.Time
		}
		if f.Time.After(s.MaxTime) {
			s.MaxTime = f.Time
		}
		s.First, s.Last = &pts.Finishes[0], &pts.Finishes[i]
	}
	return s
}

// answer fills in what was wanted.
func (w *world) answer(wants []Want) {
	for _, want := range wants {
		switch want.Kind {
		case WantSummary:
			w.facts.Listed[w.facts.block(want.Segment)] = true
			if w.facts.Segments[want.Segment].best() != pieceNone {
				w.facts.Summaries[want.Segment] = w.summary(want.Segment)
			}
		case WantBackup:
			i := slices.IndexFunc(w.facts.Backups, func(b backup.Commit) bool { return b.ID == want.Backup })
			w.facts.Backups[i] = w.backups[want.Backup]
		case WantBlock:
			w.facts.Listed[want.Segment] = true
		case WantEnd:
			w.facts.End[want.Timeline] = want.From
		case WantFirst:
			w.facts.First[want] = w.first(want)
		case WantChanges:
			w.facts.Changes[want] = wal.Changes{}
		case WantPoints:
			w.facts.Points[want.Segment] = w.points(want.Segment)
		case WantRecordAt:
			w.facts.RecordAt[want] = Span{}
			for _, r := range w.along(w.history(want.Timeline)) {
				if r.start >= want.LSN {
					w.facts.RecordAt[want] = Span{r.start, r.end}
					break
				}
			}
		}
	}
}

func (w *world) first(want Want) uint64 {
	h := w.history(want.Timeline)
	for no := want.From; no <= want.To; no++ {
		id := h.SegmentAt(wal.LSN(no*uint64(testSize)), testSize)
		if s := w.summary(id); w.facts.Segments[id].best() != pieceNone && want.Target.mayBeIn(&s) {
			return no
		}
	}
	return NoSegment
}

// remember is the opposite for the backups.
func (w *world) remember() {
	for i, b := range w.facts.Backups {
		w.facts.Backups[i] = w.backups[b.ID]
	}
}

// forget takes back all answers, and what is known of backups but their names.
func (w *world) forget() {
	w.facts.Summaries, w.facts.Points = map[segment.ID]wal.Summary{}, map[segment.ID]wal.Points{}
	w.facts.RecordAt, w.facts.First, w.facts.Changes = map[Want]Span{}, map[Want]uint64{}, map[Want]wal.Changes{}
	w.facts.Listed, w.facts.End = map[segment.ID]bool{}, map[wal.Timeline]uint64{}
	if w.backups == nil {
		w.backups = map[string]backup.Commit{}
	}
	for i, b := range w.facts.Backups {
		if isRead(&b) {
			w.backups[b.ID] = b
		}
		w.facts.Backups[i] = backup.Commit{ID: b.ID, Timeline: b.Timeline, StartTimeline: b.Timeline, StopLSN: b.StopLSN, Started: b.Started}
	}
}

// plan runs the planner to its end. It asks nothing twice.
func (w *world) plan(t rapid.TB, target Target) (*Plan, []Want, error) {
	t.Helper()
	w.forget()
	defer w.remember()
	asked := map[Want]bool{}
	var order []Want
	for {
		p, wants, err := MakePlan(w.facts, target)
		if n := boolCount(p != nil, wants != nil, err != nil); n != 1 {
			t.Fatalf("%s: %d results at once: %v, %v, %v", target, n, p, wants, err)
		}
		if wants == nil {
			return p, order, err
		}
		for _, want := range wants {
			if asked[want] {
				t.Fatalf("%s: %+v is asked for again", target, want)
			}
			asked[want] = true
		}
		order = append(order, wants...)
		w.answer(wants)
	}
}

func boolCount(list ...bool) (n int) {
	for _, b := range list {
		if b {
			n++
		}
	}
	return n
}

// parse reads one line of the compact syntax that testdata/plan uses:
//
//	history 2 1@0/350000 …
//	backup ID tli start stop [time]
//	wal tli first[-last] [spool] [tail=LSN] [tailed] [cut] [partial=LSN] [damaged] [blurred]
//	heartbeat tli LSN time flushed
//	commit|abort tli LSN [length] xid time
//	point tli LSN name time
func (w *world) parse(line string) error {
	f := strings.Fields(line)
	tli, err := wal.ParseTimeline(f[min(1, len(f)-1)])
	switch {
	case f[0] == "backup":
		return w.parseBackup(f[1:])
	case err != nil:
		return err
	case f[0] == "history":
		body := strings.ReplaceAll(strings.Join(f[2:], "\n"), "@", "\t")
		h, err := segment.ParseHistory(tli, []byte(body))
		w.facts.Histories[tli] = h
		return err
	case f[0] == "wal":
		return w.parseWAL(tli, f[2], f[3:])
	case f[0] == "heartbeat":
		w.facts.Heartbeats = append(w.facts.Heartbeats, archive.Heartbeat{Receiver: "left", Timeline: tli, InsertLSN: mustLSN(f[2]), Time: clock(f[3]), FlushedLSN: mustLSN(f[4])})
	case f[0] == "gap":
		w.facts.Gaps = append(w.facts.Gaps, archive.Gap{Timeline: tli, From: mustLSN(f[2]), To: mustLSN(f[3])})
	case f[0] == "point":
		lsn, at := mustLSN(f[2]), clock(f[4])
		w.records[tli] = append(w.records[tli], record{start: lsn, end: lsn + 0x68, kind: 'p', name: f[3], time: at})
	case f[0] == "commit" || f[0] == "abort":
		length := uint64(0x28)
		if len(f) > 5 {
			length, _ = strconv.ParseUint(f[3], 0, 32)
			f = slices.Delete(f, 3, 4)
		}
		xid, err := ParseXID(f[3])
		lsn := mustLSN(f[2])
		w.records[tli] = append(w.records[tli], record{start: lsn, end: lsn + wal.LSN(length), kind: f[0][0], xid: xid, time: clock(f[4])})
		return err
	default:
		return fmt.Errorf("unknown line %q", line)
	}
	return nil
}

func (w *world) parseBackup(f []string) error {
	tli, err := wal.ParseTimeline(f[1])
	b := backup.Commit{ID: f[0], Identity: w.facts.Identity, Timeline: tli, StartTimeline: tli, StartLSN: mustLSN(f[2]), StopLSN: mustLSN(f[3])}
	b.Started, b.Finished = clock("09:00"), clock("09:01")
	if len(f) > 4 {
		b.Started, b.Finished = clock(f[4]), clock(f[4]).Add(time.Minute)
	}
	w.facts.Backups = append(w.facts.Backups, b)
	return err
}

func (w *world) parseWAL(tli wal.Timeline, span string, flags []string) error {
	from, to, ok := strings.Cut(span, "-")
	if !ok {
		to = from
	}
	first, err1 := strconv.ParseUint(from, 10, 64)
	last, err2 := strconv.ParseUint(to, 10, 64)
	if err1 != nil || err2 != nil {
		return fmt.Errorf("%q are no segment numbers", span)
	}
	for no := first; no <= last; no++ {
		id := segment.ID{Timeline: tli, No: no}
		s := Segment{Archived: true, Stored: 1000}
		for _, flag := range flags {
			key, value, _ := strings.Cut(flag, "=")
			switch key {
			case "spool":
				s.Archived, s.Spooled, s.Stored = false, true, 0
			case "tail":
				s.Archived, s.Tail = false, mustLSN(value)
			case "partial":
				s.Archived, s.Partial = false, mustLSN(value)
			case "tailed":
				s.Archived, s.Tailed, s.Tail = false, true, id.End(testSize)
			case "cut":
				s.Cut = "sha256 differs"
			case "damaged":
				s.Damaged = "sha256 differs"
			case "blurred":
				w.blurred[id] = true
			default:
				return fmt.Errorf("unknown flag %q", flag)
			}
		}
		w.put(id, s)
	}
	return nil
}

func (w *world) put(id segment.ID, s Segment) {
	w.facts.Segments[id] = s
	end := max(s.Tail, s.Partial)
	if s.Archived || s.Spooled || s.Tailed {
		end = id.End(testSize)
	}
	w.end[id.Timeline] = max(w.end[id.Timeline], end)
}

func mustLSN(s string) wal.LSN {
	lsn, err := wal.ParseLSN(s)
	if err != nil {
		panic(err)
	}
	return lsn
}

func clock(s string) time.Time {
	at, err := ParseTime("2026-11-22 "+s, time.UTC, time.Time{})
	if err != nil {
		panic(err)
	}
	return at
}
