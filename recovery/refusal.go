package recovery

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// Refusal says that a target cannot be reached. Nothing was written. The error
// that carries it has hints with the nearest points that can be reached.
type Refusal struct {
	Target string
	Reason string
}

func (e *Refusal) Error() string { return e.Target + " cannot be reached: " + e.Reason }

func refuse(target, reason string, hints ...string) error {
	var err error = &Refusal{Target: target, Reason: reason}
	for _, h := range slices.Backward(hints) {
		err = hint.With(err, "%s", h)
	}
	return err
}

// miss is why a target is not on one route. The hints of the miss that is
// reported in the end are worked out only then, so it is no error for anybody
// else.
type miss struct {
	kind  missKind
	route *route
	found []wal.RestorePoint // for missAmbiguous
}

func (m *miss) Error() string { return "backup " + m.route.backup.ID + " does not lead to the target" }

type missKind int

const (
	missEarly      missKind = iota // before the backup is consistent
	missIncomplete                 // the backup's own WAL is not there
	missHole                       // a hole comes first
	missEnd                        // WAL ends first
	missAmbiguous                  // it is there more than once
)

// notFound is a target that lies behind all WAL that can be read.
func (r *route) notFound() error {
	if err := r.toEnd(); err != nil {
		return err
	}
	if r.hole != nil {
		return &miss{kind: missHole, route: r}
	}
	return &miss{kind: missEnd, route: r}
}

// final says that an older backup cannot do better.
func (m *miss) final(t Target) bool {
	switch m.kind {
	case missAmbiguous:
		return true
	case missHole, missEnd:
		return t.Kind == KindLSN || t.Kind == KindTime || t.Kind == KindEnd
	}
	return false
}

// refusal words a miss. It may lack facts for the hints.
func (m *miss) refusal(t Target, others []candidate) error {
	r := m.route
	if r.hole != nil {
		if err := r.measure(); err != nil {
			return err
		}
	}
	switch m.kind {
	case missEarly:
		return refuse(t.String(), fmt.Sprintf("it lies before backup %s is consistent (%s, finished %s)",
			r.backup.ID, r.backup.StopLSN, t.show(r.backup.Finished)),
			r.command("earliest point of this backup", "--target-immediate"))
	case missIncomplete:
		reason := fmt.Sprintf("backup %s needs WAL from %s to %s, which is not there as a whole", r.backup.ID, r.backup.StartLSN, r.backup.StopLSN)
		if r.hole != nil {
			reason += ": " + r.hole.describe(r.facts)
		}
		return refuse(t.String(), reason, "take a new backup: walstream backup")
	case missHole:
		return m.atHole(t, others)
	case missAmbiguous:
		return m.severalNames(t)
	default:
		return m.atEnd(t)
	}
}

// atHole names the last point before the hole and the first one behind it.
func (m *miss) atHole(t Target, others []candidate) error {
	r := m.route
	finish, err := r.before(^wal.LSN(0))
	if err != nil {
		return err
	}
	_, last := r.end()
	hints := []string{r.command("last point before it"+lastCommit(t, finish), "--target-lsn "+last.String())}
	if last < r.backup.StopLSN {
		hints = []string{r.command("last point before it", "--target-immediate")}
	}
	if r.hole.fork {
		start, _ := r.history.StartOf(r.hole.first.Timeline)
		parent := r.history.TimelineAt(start - 1)
		hints = append(hints, fmt.Sprintf("to stay on the timeline before: walstream restore --target-timeline %s DIR", parent))
	}
	size := r.facts.Identity.SegmentSize
	for _, c := range slices.Backward(others) {
		if c.backup.StopLSN < r.hole.last.End(size) {
			continue
		}
		if !isRead(c.backup) {
			return lack(Want{Kind: WantBackup, Backup: c.backup.ID})
		}
		if c.backup.StartLSN >= r.hole.last.End(size) {
			hints = append(hints, fmt.Sprintf("first point after it: walstream restore --backup %s --target-immediate DIR", c.backup.ID))
			break
		}
	}
	return refuse(t.String(), r.hole.describe(r.facts), hints...)
}

func (m *miss) severalNames(t Target) error {
	var where, hints []string
	for _, p := range m.found {
		where = append(where, fmt.Sprintf("%s (%s)", p.LSN, t.show(p.Time)))
		hints = append(hints, m.route.command("the one at "+p.LSN.String(), "--target-lsn "+p.LSN.String()))
	}
	return refuse(t.String(), fmt.Sprintf("there are %d of that name after backup %s: at %s",
		len(m.found), m.route.backup.ID, strings.Join(where, ", ")), hints...)
}

// atEnd says where WAL ends, and which restore points there are.
func (m *miss) atEnd(t Target) error {
	r := m.route
	finish, err := r.before(^wal.LSN(0))
	if err != nil {
		return err
	}
	end, last := r.end()
	hints := []string{r.command("all there is"+lastCommit(t, finish), "")}
	var reason string
	switch t.Kind {
	case KindTime:
		reason = "no transaction in the archive finished later, so PostgreSQL could not tell that it is reached"
		if finish != nil {
			hints = append(hints, r.command("up to the last commit or abort", "--target-lsn "+finish.LSN.String()))
		}
	case KindXID:
		reason = "it neither committed nor aborted"
	case KindName:
		reason = "there is no restore point of that name"
		points, err := r.restorePoints("")
		if err != nil {
			return err
		}
		hints = append(hints[:0], nearest(r, t, points)...)
	default:
		reason = "the last record starts at " + last.String()
	}
	reason += fmt.Sprintf(" (timeline %s, backup %s, WAL from %s to %s)", r.history.Timeline, r.backup.ID, r.backup.StartLSN, end)
	return refuse(t.String(), reason, hints...)
}

// nearest lists the last few restore points that there are.
func nearest(r *route, t Target, points []wal.RestorePoint) []string {
	var hints []string
	for _, p := range points[max(0, len(points)-5):] {
		hints = append(hints, fmt.Sprintf("known, of %s: walstream restore --target-name %s --target-timeline %s DIR", t.show(p.Time), hint.Quote(p.Name), r.history.Timeline))
	}
	if len(hints) == 0 {
		hints = []string{r.command("there are no restore points; all WAL there is", "")}
	}
	return hints
}

// command words a hint that can be pasted.
func (r *route) command(what, flags string) string {
	if flags != "" {
		flags += " "
	}
	return fmt.Sprintf("%s: walstream restore %s--backup %s --target-timeline %s DIR", what, flags, r.backup.ID, r.history.Timeline)
}

func lastCommit(t Target, f *wal.Finish) string {
	if f == nil {
		return ""
	}
	return fmt.Sprintf(" (last commit or abort %s, xid %d)", t.show(f.Time), f.XID)
}

func (h *hole) describe(f *Facts) string {
	text := fmt.Sprintf("%d segments are missing: %s .. %s", h.count, f.name(h.first), f.name(h.last))
	switch {
	case h.damaged != "":
		return fmt.Sprintf("segment %s is damaged: %s", f.name(h.first), h.damaged)
	case h.fork:
		text = fmt.Sprintf("segment %s, in which timeline %s begins, is missing", f.name(h.first), h.first.Timeline)
	case h.count == 1:
		text = fmt.Sprintf("segment %s is missing", f.name(h.first))
	}
	size := f.Identity.SegmentSize
	for _, g := range f.Gaps {
		if g.Overlaps(h.first.Timeline, h.first.Start(size), h.first.End(size)) {
			return fmt.Sprintf("%s; it is a recorded gap: the server had removed the WAL from %s to %s before it was received", text, g.From, g.To)
		}
	}
	return text
}

// strayed refuses a timeline that is not known, or "latest" while one is not
// known: PostgreSQL would follow an older one and leave commits out.
func strayed(f *Facts, t Target) error {
	for _, tli := range slices.Sorted(maps.Keys(f.Unknown)) {
		if t.Timeline.Number != tli && t.Timeline != (TargetTimeline{}) {
			continue
		}
		known := wal.Timeline(1)
		for have := range f.Histories {
			known = max(known, have)
		}
		return refuse(t.String(), fmt.Sprintf("the history of timeline %s %s", tli, f.Unknown[tli]),
			fmt.Sprintf("%s is in pg_wal of every server of that timeline; without it: walstream restore --target-timeline %s DIR", segment.HistoryName(tli), known))
	}
	return nil
}

// noCandidate words that no backup leads to the target's timeline.
func noCandidate(f *Facts, t Target) error {
	var ids, tlis []string
	for _, b := range f.Backups {
		ids = append(ids, fmt.Sprintf("%s (timeline %s)", b.ID, b.Timeline))
	}
	slices.Sort(ids)
	known := map[wal.Timeline]bool{1: true}
	for tli := range f.Histories {
		known[tli] = true
	}
	for _, tli := range slices.Sorted(maps.Keys(known)) {
		tlis = append(tlis, tli.String())
	}
	named := slices.ContainsFunc(f.Backups, func(b backup.Commit) bool { return b.ID == t.Backup })
	damaged := slices.IndexFunc(f.Notes, func(note string) bool { return strings.Contains(note, t.Backup) })
	switch {
	case len(f.Backups) == 0:
		return refuse(t.String(), "there is no base backup", "walstream backup")
	case t.Backup != "" && !named && damaged >= 0:
		return refuse(t.String(), f.Notes[damaged], "there are "+strings.Join(ids, ", ")+"; more about them: walstream list backups")
	case t.Backup != "" && !named:
		return refuse(t.String(), "there is no backup "+t.Backup, "there are "+strings.Join(ids, ", ")+"; more about them: walstream list backups")
	case t.Timeline.Number != 0 && !known[t.Timeline.Number]:
		return refuse(t.String(), fmt.Sprintf("there is no timeline %s", t.Timeline), "there are "+strings.Join(tlis, ", ")+"; where they begin: walstream list timelines")
	}
	return refuse(t.String(), fmt.Sprintf("no backup lies on the way to timeline %s", t.Timeline), "there are "+strings.Join(ids, ", ")+"; to the end of the newest one's timeline: walstream restore --target-timeline current DIR")
}
