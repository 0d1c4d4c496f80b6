package recovery

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// TestPlanAgainstModel compares the planner with a recovery that is simply
// carried out, record by record, in generated clusters with several timelines,
// holes, beginnings, unordered commit times and several backups.
func TestPlanAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		target := drawTarget(t, w)
		p, _, err := w.plan(t, target)
		want, reason := w.recover(target)
		if err != nil {
			var refusal *Refusal
			if !errors.As(err, &refusal) {
				t.Fatalf("%s: %v", target, err)
			}
			if want != nil {
				t.Fatalf("%s: refused (%v), but backup %s reaches %s on timeline %s", target, err, want.backup, want.end, want.timeline)
			}
			return
		}
		if want == nil {
			t.Fatalf("%s: planned from %s to %s, but recovery %s", target, p.Backup.ID, p.End, reason)
		}
		if got := (outcome{p.Backup.ID, p.Timeline, p.End}); got != *want {
			t.Fatalf("%s: planned %+v, recovery does %+v", target, got, *want)
		}
		w.checkPieces(t, p)
		w.checkNeighbours(t, p)
	})
}

type outcome struct {
	backup   string
	timeline wal.Timeline
	end      wal.LSN
}

// recover does what PostgreSQL does, from the newest backup to the oldest.
func (w *world) recover(target Target) (*outcome, string) {
	reason := "has no backup"
	for _, c := range candidates(&w.facts, target) {
		readable := w.readable(c)
		b := c.backup
		if target.Kind == KindTime && w.holdsPast(c, target) {
			reason = "would begin past the target"
			continue
		}
		if !slices.ContainsFunc(readable, func(r record) bool { return r.end == b.StopLSN }) {
			reason = "never becomes consistent"
			continue
		}
		end, stopped := replay(readable, b, target)
		switch {
		case stopped && end < b.StopLSN, target.Kind == KindLSN && target.LSN < b.StopLSN:
			reason = "stops before it is consistent"
			continue
		case stopped && target.Kind == KindName && w.count(readable, target.Name) > 1:
			return nil, "finds the name twice"
		case stopped:
			return &outcome{b.ID, c.history.Timeline, end}, ""
		case target.Kind != KindEnd:
			reason = "never sees the target"
			if target.Kind == KindTime || target.Kind == KindLSN {
				return nil, reason
			}
			continue
		case w.more(c, readable):
			return nil, "ends at a hole"
		}
		return &outcome{b.ID, c.history.Timeline, end}, ""
	}
	return nil, reason
}

func replay(records []record, b *backup.Commit, target Target) (end wal.LSN, stopped bool) {
	for _, r := range records {
		finish := r.kind == 'c' || r.kind == 'a'
		hit := false
		switch target.Kind {
		case KindTime:
			if finish && (r.time.After(target.Time) || target.Exclusive && r.time.Equal(target.Time)) {
				return r.start, true
			}
		case KindLSN:
			hit = r.start >= target.LSN
		case KindXID:
			hit = finish && r.xid == target.XID
		case KindName:
			hit = r.kind == 'p' && r.name == target.Name
		case KindImmediate:
			hit = r.end >= b.StopLSN
		}
		if hit && target.Exclusive {
			return r.start, true
		}
		end = r.end
		if hit {
			return end, true
		}
	}
	return end, false
}

// readable is the records that PostgreSQL can read from the redo on.
func (w *world) readable(c candidate) []record {
	var list []record
	for _, r := range w.along(c.history) {
		if r.start < c.backup.StartLSN {
			continue
		}
		for no := uint64(r.start) / uint64(testSize); no <= uint64(r.end-1)/uint64(testSize); no++ {
			if !w.served(c.history, no, r.end) {
				return list
			}
		}
		list = append(list, r)
	}
	return list
}

// served says whether wal-get would give segment no up to lsn: whole, or its
// beginning where it is the last.
func (w *world) served(h segment.History, no uint64, lsn wal.LSN) bool {
	id := h.SegmentAt(wal.LSN(no*uint64(testSize)), testSize)
	s := w.facts.Segments[id]
	if s.Damaged != "" {
		return false
	}
	if s.Archived || s.Spooled {
		return true
	}
	return max(s.Tail, s.Partial) >= min(lsn, id.End(testSize)) && !w.later(h, no)
}

// later says whether WAL on the way to h is known to exist behind segment no.
func (w *world) later(h segment.History, no uint64) bool {
	start, _ := h.StartOf(h.Timeline)
	if uint64(start)/uint64(testSize) > no {
		return true
	}
	for id := range w.facts.Segments {
		if id.No > no && h.SegmentAt(id.Start(testSize), testSize) == id {
			return true
		}
	}
	return false
}

// more says whether there must be WAL behind what is readable.
func (w *world) more(c candidate, readable []record) bool {
	no := uint64(c.backup.StartLSN) / uint64(testSize)
	for ; ; no++ {
		id := c.history.SegmentAt(wal.LSN(no*uint64(testSize)), testSize)
		s := w.facts.Segments[id]
		if s.Damaged != "" {
			return true
		}
		if !s.Archived && !s.Spooled {
			start, _ := c.history.StartOf(c.history.Timeline)
			missing := max(s.Tail, s.Partial) == 0
			return w.later(c.history, no) || missing && uint64(start)/uint64(testSize) == no
		}
	}
}

// holdsPast says whether the backup's own state is past the target time: the
// nearest segment before the redo in which something finished tells.
func (w *world) holdsPast(c candidate, target Target) bool {
	redo := c.backup.StartLSN
	past := func(at time.Time) bool { return at.After(target.Time) || target.Exclusive && at.Equal(target.Time) }
	first := uint64(redo) / uint64(testSize)
	all := w.along(c.history)
	for no := first; no > 0; no-- {
		id := c.history.SegmentAt(wal.LSN(no*uint64(testSize)), testSize)
		if s := w.facts.Segments[id]; no != first && (s.Damaged != "" || !s.Archived && !s.Spooled) {
			break
		}
		seen, late := false, false
		for _, r := range all {
			if (r.kind == 'c' || r.kind == 'a') && r.start < redo && uint64(r.end-1)/uint64(testSize) == no && !(w.blurred[id] && r.start < id.Start(testSize)) {
				seen = true
				late = late || past(r.time)
			}
		}
		if seen {
			return late
		}
	}
	return past(c.backup.Started)
}

func (w *world) count(records []record, name string) (n int) {
	for _, r := range records {
		if r.kind == 'p' && r.name == name {
			n++
		}
	}
	return n
}

// checkPieces fails when the plan needs WAL that is not there.
func (w *world) checkPieces(t *rapid.T, p *Plan) {
	h := w.history(p.Timeline)
	for no := uint64(p.Backup.StartLSN) / uint64(testSize); no <= uint64(p.Need-1)/uint64(testSize); no++ {
		id := h.SegmentAt(wal.LSN(no*uint64(testSize)), testSize)
		if !w.served(h, no, p.Need) {
			t.Fatalf("%s: %s is not there", p.Target, id.Name(testSize))
		}
		required, whole := p.Required(id)
		if !required || whole != (no < uint64(p.Need-1)/uint64(testSize)) {
			t.Fatalf("%s: %s is required %v, whole %v", p.Target, id.Name(testSize), required, whole)
		}
		s := w.facts.Segments[id]
		only := s.Spooled && !s.Archived || !s.Archived && s.Tail < min(p.Need, id.End(testSize))
		listed := slices.ContainsFunc(p.SpoolOnly, func(sp SpoolPiece) bool { return sp.Segment == id.Name(testSize) })
		if only != listed {
			t.Fatalf("%s: %s is only in the spool: %v, plan says %v", p.Target, id.Name(testSize), only, listed)
		}
	}
}

// checkNeighbours compares the last commit before and the first after.
func (w *world) checkNeighbours(t *rapid.T, p *Plan) {
	var before, after *wal.Finish
	h := w.history(p.Timeline)
	for _, r := range w.readable(candidate{backup: &p.Backup, history: h}) {
		if r.kind != 'c' && r.kind != 'a' {
			continue
		}
		f := r.finish()
		if r.end <= p.End {
			before = &f
		} else if after == nil {
			after = &f
		}
	}
	if got, want := showFinish(p.Before)+" "+showFinish(p.After), showFinish(before)+" "+showFinish(after); got != want {
		t.Fatalf("%s: around the end lie %s, not %s", p.Target, got, want)
	}
}

func drawWorld(t *rapid.T) *world {
	w := newWorld()
	w.facts.Span = rapid.SampledFrom([]uint64{1, 2, 3, archive.IndexSpan}).Draw(t, "span")
	xid := uint32(100)
	timelines := wal.Timeline(rapid.IntRange(1, 3).Draw(t, "timelines"))
	for tli := wal.Timeline(1); tli <= timelines; tli++ {
		start := wal.LSN(testSize)
		if tli > 1 {
			parent := wal.Timeline(rapid.IntRange(1, int(tli)-1).Draw(t, "parent"))
			low, _ := w.history(parent).StartOf(parent)
			fork := wal.LSN(rapid.Uint64Range(uint64(max(low, wal.LSN(testSize)))>>16+1, uint64(w.end[parent])>>16).Draw(t, "fork") << 16)
			start = fork
			h := segment.History{Timeline: tli, Ancestors: append(slices.Clone(w.history(parent).Ancestors), segment.Switch{Timeline: parent, End: fork})}
			w.facts.Histories[tli] = h
		}
		w.drawRecords(t, tli, start, &xid)
		w.drawPieces(t, tli, start)
	}
	for i := range rapid.IntRange(1, 3).Draw(t, "backups") {
		w.drawBackup(t, i)
	}
	return w
}

func (w *world) drawRecords(t *rapid.T, tli wal.Timeline, start wal.LSN, xid *uint32) {
	pos := (start + 0x28 + 7) &^ 7
	for range rapid.IntRange(0, 12).Draw(t, "records") {
		pos += wal.LSN(rapid.SampledFrom([]uint64{0, 0x48, 0x8000, 0x30000, 0xFFF00}).Draw(t, "gap"))
		*xid++
		r := record{start: pos, end: pos + wal.LSN(rapid.SampledFrom([]uint64{0x28, 0x200}).Draw(t, "length")), xid: *xid}
		r.time = clock("10:00").Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "minute")) * time.Minute)
		if r.kind = rapid.SampledFrom([]byte("cccap")).Draw(t, "kind"); r.kind == 'p' {
			r.name = rapid.SampledFrom([]string{"x", "y"}).Draw(t, "name")
		}
		w.records[tli] = append(w.records[tli], r)
		pos = r.end
	}
	w.end[tli] = (pos + 0x20000) &^ 0xffff
}

func (w *world) drawPieces(t *rapid.T, tli wal.Timeline, start wal.LSN) {
	end := w.end[tli]
	for no := uint64(start) / uint64(testSize); wal.LSN(no*uint64(testSize)) < end; no++ {
		id := segment.ID{Timeline: tli, No: no}
		s := Segment{Stored: 1000, Archived: true}
		prefix := max(min(end, id.End(testSize))&^0xffff, id.Start(testSize)+8)
		last := end < id.End(testSize)
		switch what := rapid.IntRange(0, 19).Draw(t, "piece"); {
		case what == 0:
			continue
		case what == 1:
			s.Damaged = "damaged"
		case what < 4 && !last:
			s = Segment{Spooled: true}
		case last && what < 12:
			s = Segment{Partial: prefix, Tail: (id.Start(testSize) + prefix) / 2 &^ 0xffff}
		case last:
			s = Segment{Tail: prefix}
		}
		if s.Tail > 0 && s.Tail <= id.Start(testSize) {
			s.Tail = 0
		}
		w.facts.Segments[id] = s
		w.blurred[id] = rapid.IntRange(0, 5).Draw(t, "blurred") == 0
	}
}

func (w *world) drawBackup(t *rapid.T, i int) {
	tli := wal.Timeline(rapid.IntRange(1, len(w.facts.Histories)+1).Draw(t, "backup timeline"))
	h := w.history(tli)
	own, _ := h.StartOf(tli)
	var starts, ends []wal.LSN // no commit is the record that ends a backup
	for _, r := range w.along(h) {
		if r.start >= own {
			starts = append(starts, r.start)
		}
	}
	if len(starts) == 0 {
		return
	}
	redo := rapid.SampledFrom(starts).Draw(t, "redo")
	for _, r := range w.along(h) {
		if r.start > redo && r.kind == 0 && len(ends) < 4 {
			ends = append(ends, r.end)
		}
	}
	if len(ends) == 0 {
		return
	}
	stop := rapid.SampledFrom(ends).Draw(t, "stop")
	b := backup.Commit{ID: fmt.Sprintf("B%d", i), Identity: w.facts.Identity, Timeline: tli, StartTimeline: tli, StartLSN: redo, StopLSN: stop}
	b.Started = clock("10:00").Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "started")) * time.Minute)
	w.facts.Backups = append(w.facts.Backups, b)
}

func drawTarget(t *rapid.T, w *world) Target {
	target := Target{Kind: rapid.SampledFrom([]Kind{KindEnd, KindTime, KindTime, KindLSN, KindXID, KindName, KindImmediate}).Draw(t, "kind")}
	switch target.Kind {
	case KindTime:
		target.Time = clock("10:00").Add(time.Duration(rapid.IntRange(-1, 42).Draw(t, "half minutes")) * 30 * time.Second)
	case KindLSN:
		target.LSN = wal.LSN(rapid.Uint64Range(uint64(testSize), uint64(w.end[1])+0x100000).Draw(t, "lsn"))
	case KindXID:
		target.XID = uint32(rapid.IntRange(99, 140).Draw(t, "xid"))
	case KindName:
		target.Name = rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "name")
	}
	if target.Kind == KindTime || target.Kind == KindLSN || target.Kind == KindXID {
		target.Exclusive = rapid.Bool().Draw(t, "exclusive")
	}
	switch n := rapid.IntRange(-2, len(w.facts.Histories)+1).Draw(t, "timeline"); {
	case n > 0:
		target.Timeline.Number = wal.Timeline(n)
	case n == 0:
		target.Timeline.Current = true
	}
	return target
}
