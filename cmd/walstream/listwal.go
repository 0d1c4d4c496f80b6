package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/term"
	"github.com/walstream/walstream/recovery"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// walRun is a run of WAL of one timeline: complete segments without a hole,
// the same of missing ones, or the tail of an incomplete segment. Missing ones
// are a gap when it was recorded that the server had removed them.
type walRun struct {
	Timeline    wal.Timeline `json:"timeline"`
	State       string       `json:"state"` // complete, missing, gap or tail
	First       string       `json:"first"`
	Last        string       `json:"last"`
	Segments    uint64       `json:"segments"`
	From        wal.LSN      `json:"from_lsn"`
	To          wal.LSN      `json:"to_lsn"`
	StoredBytes int64        `json:"stored_bytes"`

	last uint64 // number of the last segment
}

func (a *app) listWAL(ctx context.Context, source recovery.Source) error {
	arch := source.Archive
	timelines, err := arch.Timelines(ctx)
	if err != nil {
		return err
	}
	gaps, err := arch.Gaps(ctx)
	if err != nil {
		return err
	}
	runs := []walRun{}
	for _, tli := range timelines {
		if runs, err = appendRuns(ctx, runs, arch, tli); err != nil {
			return err
		}
	}
	runs = explainRuns(runs, gaps, arch.Identity().SegmentSize)
	if a.json {
		return term.JSON(a.stdout, map[string]any{"wal": runs})
	}
	if len(runs) == 0 {
		return a.say("no WAL yet; archive it: walstream receive\n")
	}
	table := term.NewTable(a.stdout, "TL", "FIRST", "LAST", "SEGMENTS", "STORED", "FROM", "TO", "STATE")
	for _, r := range runs {
		table.Row(r.Timeline.String(), r.First, r.Last, fmt.Sprint(r.Segments), term.Size(r.StoredBytes), r.From.String(), r.To.String(), r.State)
	}
	return table.Flush()
}

// appendRuns reads one timeline. The tails of a segment come before the
// segment itself; those that a complete segment made needless are left out.
func appendRuns(ctx context.Context, runs []walRun, arch *archive.Archive, tli wal.Timeline) ([]walRun, error) {
	size := arch.Identity().SegmentSize
	runs = append(runs, walRun{}) // stands before the first
	first := len(runs)
	var next uint64 // number of the segment that comes next, if there is no hole
	for p, err := range arch.Pieces(ctx, tli, 0) {
		if err != nil {
			return nil, err
		}
		run, last := runOf(p, size), &runs[len(runs)-1]
		switch {
		case last.State == "tail" && last.last == run.last && p.Tail:
			last.To = max(last.To, run.To)
			last.StoredBytes += run.StoredBytes
			continue
		case last.State == "tail" && last.last == run.last:
			runs = runs[:len(runs)-1]
			last = &runs[len(runs)-1]
		case last.State == "tail" && last.last == next && size.Offset(last.To) == 0: // all of it, in pieces
			next++
		}
		if p.Tail {
			runs = append(runs, run)
			continue
		}
		switch {
		case last.State == "complete" && last.last+1 == run.last:
			last.Last, last.last, last.To = run.Last, run.last, run.To
			last.Segments++
			last.StoredBytes += run.StoredBytes
		case next != 0 && next < run.last:
			runs = append(runs, missingRun(tli, next, run.last-1, size), run)
		default:
			runs = append(runs, run)
		}
		next = run.last + 1
	}
	return slices.Delete(runs, first-1, first), nil
}

// explainRuns names the recorded gaps among the missing runs, and adds those
// that lie at a timeline's beginning or end.
func explainRuns(runs []walRun, gaps []archive.Gap, size segment.Size) []walRun {
	for _, g := range gaps {
		last := segment.At(g.Timeline, g.To-1, size)
		known := false
		for i := range runs {
			r := &runs[i]
			if r.Timeline == g.Timeline && r.State != "tail" && r.From < g.To && last.End(size) <= r.To {
				known = true
				if r.State == "missing" {
					r.State = "gap"
				}
			}
		}
		if !known {
			r := missingRun(g.Timeline, segment.At(g.Timeline, g.From, size).No, last.No, size)
			r.State = "gap"
			runs = append(runs, r)
		}
	}
	slices.SortStableFunc(runs, func(a, b walRun) int {
		return cmp.Or(cmp.Compare(a.Timeline, b.Timeline), cmp.Compare(a.From, b.From))
	})
	return runs
}

func runOf(p archive.Piece, size segment.Size) walRun {
	r := walRun{Timeline: p.ID.Timeline, State: "complete", First: p.ID.Name(size), Last: p.ID.Name(size), Segments: 1,
		From: p.ID.Start(size), To: p.ID.Start(size) + wal.LSN(p.To), StoredBytes: p.StoredSize, last: p.ID.No}
	if p.Tail {
		r.State = "tail"
		r.From += wal.LSN(p.From)
	}
	return r
}

func missingRun(tli wal.Timeline, first, last uint64, size segment.Size) walRun {
	f, l := segment.ID{Timeline: tli, No: first}, segment.ID{Timeline: tli, No: last}
	return walRun{Timeline: tli, State: "missing", First: f.Name(size), Last: l.Name(size), Segments: last - first + 1,
		From: f.Start(size), To: l.End(size), last: last}
}

type timelineView struct {
	Timeline wal.Timeline `json:"timeline"`
	Parent   wal.Timeline `json:"parent,omitempty"`
	Fork     wal.LSN      `json:"fork_lsn,omitempty"`
	Reason   string       `json:"reason,omitempty"`
	Problem  string       `json:"problem,omitempty"`
}

func (a *app) listTimelines(ctx context.Context, source recovery.Source) error {
	arch := source.Archive
	timelines, err := arch.Timelines(ctx)
	if err != nil {
		return err
	}
	views := []timelineView{}
	problems := 0
	for _, tli := range timelines {
		v, err := viewTimeline(ctx, arch, tli)
		if err != nil {
			return err
		}
		if v.Problem != "" {
			problems++
		}
		views = append(views, v)
	}
	if a.json {
		err = term.JSON(a.stdout, map[string]any{"timelines": views})
	} else {
		err = a.printTimelines(views)
	}
	if err == nil && problems > 0 {
		err = &problemsError{term.Count(problems, "timeline") + " without a usable history file"}
	}
	return err
}

func viewTimeline(ctx context.Context, arch *archive.Archive, tli wal.Timeline) (timelineView, error) {
	v := timelineView{Timeline: tli}
	h, _, err := arch.History(ctx, tli)
	switch {
	case errors.Is(err, archive.ErrNotExist), errors.As(err, new(*archive.CorruptError)):
		v.Problem = err.Error()
	case err != nil:
		return v, err
	case len(h.Ancestors) > 0:
		parent := h.Ancestors[len(h.Ancestors)-1]
		v.Parent, v.Fork, v.Reason = parent.Timeline, parent.End, parent.Reason
	}
	return v, nil
}

func (a *app) printTimelines(views []timelineView) error {
	table := term.NewTable(a.stdout, "TL", "PARENT", "FORK", "REASON")
	for _, v := range views {
		switch {
		case v.Problem != "":
			table.Row(v.Timeline.String(), "?", "?", v.Problem)
		case v.Parent == 0:
			table.Row(v.Timeline.String(), "-", "-")
		default:
			table.Row(v.Timeline.String(), v.Parent.String(), v.Fork.String(), v.Reason)
		}
	}
	return table.Flush()
}
