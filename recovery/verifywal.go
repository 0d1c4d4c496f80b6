package recovery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// stored is a segment of which the archive has a listed object.
type stored struct {
	id    segment.ID
	whole bool
	tail  int64 // how far tail objects reach from its start on
	bytes int64 // of its objects
	read  bool  // the contents are to be read
}

// badRun is segments that are missing, or one that is damaged.
type badRun struct {
	first, last segment.ID
	damage      error
}

func (r badRun) within(w archive.Range) bool {
	return w.Timeline == r.first.Timeline && w.First <= r.last.No && w.Last >= r.first.No
}

// listWAL lists the WAL that the backups in scope lead through, and finds what
// is missing in it.
func (v *verifier) listWAL(ctx context.Context) error {
	for _, tli := range slices.Sorted(maps.Keys(v.histories)) {
		first, last, ok := v.expected(tli)
		if !ok {
			continue
		}
		var list []stored
		for p, err := range v.Archive.Pieces(ctx, tli, first) {
			if err != nil {
				return err
			}
			if v.Backup != "" && p.ID.No > last {
				break
			}
			n := len(list)
			if n == 0 || list[n-1].id != p.ID {
				list, n = append(list, stored{id: p.ID}), n+1
			}
			list[n-1].add(p)
		}
		v.findHoles(tli, first, last, list)
		v.segments = append(v.segments, list...)
		for _, s := range list {
			v.StoredBytes += s.bytes
		}
	}
	v.Segments = len(v.segments)
	return nil
}

// add counts an object. Tails come by their start, before the whole segment.
func (s *stored) add(p archive.Piece) {
	s.bytes += p.StoredSize
	switch {
	case !p.Tail:
		s.whole = true
	case p.From <= s.tail:
		s.tail = max(s.tail, p.To)
	}
}

// expected is from which segment on a timeline has to be in the archive, and to
// which at least. It is false for a timeline that nothing in scope leads to.
func (v *verifier) expected(tli wal.Timeline) (first, last uint64, ok bool) {
	h := v.histories[tli]
	if v.Backup != "" {
		for _, r := range v.scope[0].WAL(v.histories[v.scope[0].Timeline]) {
			if r.Timeline == tli {
				return r.First, r.Last, true
			}
		}
		return 0, 0, false
	}
	first = archive.Nothing
	for _, c := range v.scope {
		if h.Contains(c.StartTimeline, c.StartLSN) && h.Contains(c.Timeline, c.StopLSN) {
			first = min(first, uint64(c.StartLSN)/uint64(v.size))
			last = max(last, uint64(c.StopLSN-1)/uint64(v.size))
		}
	}
	start, _ := h.StartOf(tli)
	fork := uint64(start) / uint64(v.size)
	for _, child := range v.histories {
		if n := len(child.Ancestors); n > 0 && child.Ancestors[n-1].Timeline == tli {
			// The segment of the fork is read on the child's timeline.
			last = max(last, uint64(child.Ancestors[n-1].End)/uint64(v.size)-1)
		}
	}
	if ok = first != archive.Nothing; ok {
		first = max(first, fork)
		last = max(last, fork)
	}
	return first, last, ok
}

// findHoles compares what there is of a timeline with what there has to be. Only
// of the last segment a beginning is enough.
func (v *verifier) findHoles(tli wal.Timeline, first, last uint64, list []stored) {
	next := first
	hole := func(to uint64) { // exclusive
		if to > next {
			v.bad = append(v.bad, badRun{first: segment.ID{Timeline: tli, No: next}, last: segment.ID{Timeline: tli, No: to - 1}})
		}
	}
	for i, s := range list {
		beginning := s.tail > 0 && i == len(list)-1 && s.id.No >= last
		if s.whole || s.tail == int64(v.size) || beginning {
			hole(s.id.No)
			next = s.id.No + 1
		}
	}
	end := last + 1
	if n := len(list); n > 0 {
		end = max(end, list[n-1].id.No+1)
	}
	hole(end)
}

// readWAL reads the objects of all segments.
func (v *verifier) readWAL(ctx context.Context) error {
	finishes, failures := make([]*wal.Finish, len(v.segments)), make([]error, len(v.segments))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, s := range v.segments {
		g.Go(func() (err error) {
			finishes[i], err = v.readSegment(gctx, s)
			if s.read {
				v.advance(s.bytes)
			}
			if isDamage(err) || errors.Is(err, archive.ErrNotExist) || errors.As(err, new(*segment.ForeignError)) {
				failures[i], err = err, nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, s := range v.segments {
		if finishes[i] != nil {
			v.last[s.id] = finishes[i]
		}
		if failures[i] != nil {
			v.bad = append(v.bad, badRun{first: s.id, last: s.id, damage: failures[i]})
		}
	}
	return nil
}

// readSegment returns the last commit of a segment. Tails are read if anything
// can be, there are few.
func (v *verifier) readSegment(ctx context.Context, s stored) (*wal.Finish, error) {
	if !s.whole {
		if !v.readable {
			return nil, nil
		}
		_, err := v.Archive.FetchTail(ctx, s.id, discard{})
		return nil, err
	}
	var h *archive.Header
	var err error
	if s.read {
		h, err = v.Archive.Fetch(ctx, s.id, io.Discard)
	} else {
		h, err = v.Archive.Header(ctx, archive.Piece{ID: s.id, To: int64(v.size)})
	}
	if err != nil {
		return nil, err
	}
	return h.Last, nil
}

type discard struct{}

func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

// finding says between which moments nothing can be reached because of a run.
func (v *verifier) finding(run badRun) Finding {
	tli := run.first.Timeline
	f := Finding{Object: "segment " + run.first.Name(v.size), Problem: "is missing", Timeline: tli}
	if n := run.last.No - run.first.No + 1; n > 1 {
		f.Object = fmt.Sprintf("segments %s .. %s", run.first.Name(v.size), run.last.Name(v.size))
		f.Problem = fmt.Sprintf("%d are missing", n)
	}
	if run.damage != nil {
		f.Problem = run.damage.Error()
	}
	h := v.histories[tli]
	for no := run.first.No; no > 0 && f.From.IsZero(); no-- {
		id := h.SegmentAt(segment.ID{No: no - 1}.Start(v.size), v.size)
		if last := v.last[id]; last != nil {
			f.From = last.Time
		} else if len(v.segments) == 0 || no < v.segments[0].id.No {
			break
		}
	}
	var behind *backup.Commit
	for _, c := range v.backups {
		ch := v.histories[c.Timeline]
		if c.StartLSN >= run.last.End(v.size) && ch.SegmentAt(run.first.Start(v.size), v.size) == run.first && (behind == nil || c.StopLSN < behind.StopLSN) {
			behind = c
		}
	}
	if behind != nil {
		f.To, f.Behind = behind.Finished, behind.ID
	}
	return f
}
