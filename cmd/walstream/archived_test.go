package main

import (
	"context"
	"iter"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/testkit/memstore"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

const mib = segment.MinSize

// forked is timeline 3, which left 2 at 5.5 MiB, which left 1 at 3 MiB.
var forked = segment.History{Timeline: 3, Ancestors: []segment.Switch{{Timeline: 1, End: 3 << 20}, {Timeline: 2, End: 11 << 19}}}

func TestArchivedEndMovesOnlyWithoutHole(t *testing.T) {
	type step struct {
		tli  wal.Timeline
		end  wal.LSN // in MiB
		want wal.LSN // 0: the slot stays
	}
	for name, steps := range map[string][]step{
		"in order":                          {{1, 1, 1}, {1, 2, 2}, {1, 3, 3}, {2, 4, 4}, {2, 5, 5}, {3, 6, 6}, {3, 7, 7}},
		"the first is the oldest":           {{3, 9, 9}, {3, 10, 10}},
		"a hole":                            {{1, 1, 1}, {1, 3, 0}, {2, 4, 0}},
		"again":                             {{1, 2, 2}, {1, 1, 0}, {1, 2, 0}, {1, 3, 3}},
		"behind the fork":                   {{1, 3, 3}, {1, 4, 0}, {1, 5, 0}, {2, 4, 4}},
		"the fork's segment is the new one": {{2, 5, 5}, {2, 6, 0}, {3, 6, 6}},
		"not on the way":                    {{4, 7, 0}, {3, 7, 7}},
	} {
		t.Run(name, func(t *testing.T) {
			e := archivedEnd{size: mib}
			for _, s := range steps {
				_, got, ok := e.confirm(forked, s.tli, s.end<<20)
				if got != s.want<<20 || ok != (s.want != 0) {
					t.Fatalf("timeline %s, %d MiB: %s %v, want %d MiB", s.tli, s.end, got, ok, s.want)
				}
			}
		})
	}
}

// A primary that was restored to a point below what is archived has other WAL
// from there on. Nothing of that is archived before its own segments are.
func TestArchivedEndGoesBackToAFork(t *testing.T) {
	e := archivedEnd{size: mib}
	e.begin(segment.Position{Timeline: 1, LSN: 7 << 20})
	e.confirm(segment.History{Timeline: 1}, 1, 8<<20)
	after := segment.History{Timeline: 2, Ancestors: []segment.Switch{{Timeline: 1, End: 11 << 19}}}
	if _, got, ok := e.confirm(after, 2, 6<<20); got != 6<<20 || !ok {
		t.Errorf("the segment of the fork: %s %v", got, ok)
	}
	if got, _ := e.lsn(); got != 6<<20 {
		t.Errorf("archived up to %s", got)
	}
}

// What is shown counts the last tail and goes on behind a recorded gap, but not
// behind a hole.
func TestArchivedEndShowsTailsAndGaps(t *testing.T) {
	gap := archive.Gap{Timeline: 1, From: 3<<20 + 100, To: 5 << 20, Noticed: time.Now(), Reason: "removed"}
	for name, c := range map[string]struct {
		objects []string
		start   wal.LSN
		stored  bool
		want    wal.LSN
	}{
		"a tail":              {[]string{object(1, 2), tail(1, 3, 0, 50)}, 3 << 20, true, 3<<20 + 50},
		"a tail and a gap":    {[]string{object(1, 2), tail(1, 3, 0, 100), tail(1, 5, 0, 70)}, 3 << 20, true, 5<<20 + 70},
		"a gap":               {[]string{object(1, 2), tail(1, 3, 0, 100)}, 3 << 20, true, 5 << 20},
		"a hole":              {[]string{object(1, 1), tail(1, 3, 0, 100)}, 2 << 20, true, 2 << 20},
		"a hole before a gap": {[]string{object(1, 2), tail(1, 5, 0, 70)}, 3 << 20, true, 3 << 20},
		"the first":           {[]string{tail(1, 6, 0, 100)}, 0, true, 6<<20 + 100},
		"nothing yet":         {nil, 0, true, 6 << 20},
		"not everything":      {[]string{tail(1, 6, 0, 100)}, 0, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			d := &daemon{arch: pinned(t, c.objects...), identity: segment.Identity{SegmentSize: mib}}
			if err := d.arch.PutGap(t.Context(), gap); err != nil {
				t.Fatal(err)
			}
			d.archived.begin(segment.Position{Timeline: 1, LSN: c.start})
			err := d.lookAround(t.Context(), segment.History{Timeline: 1}, 6<<20+100, c.stored)
			if got, _ := d.archived.lsn(); err != nil || got != c.want {
				t.Errorf("%s %v, want %s", got, err, c.want)
			}
		})
	}
}

func TestArchivedEndShowsTails(t *testing.T) {
	e := archivedEnd{size: mib}
	want := func(end, segments wal.LSN) {
		t.Helper()
		if gotEnd, gotSegments := e.lsn(); gotEnd != end || gotSegments != segments {
			t.Errorf("archived up to %s, complete up to %s, want %s and %s", gotEnd, gotSegments, end, segments)
		}
	}
	e.begin(segment.Position{Timeline: 1, LSN: 3 << 20})
	want(3<<20, 3<<20)
	e.reach(segment.Position{Timeline: 1, LSN: 3<<20 + 100})
	want(3<<20+100, 3<<20)
	e.confirm(segment.History{Timeline: 1}, 1, 4<<20)
	want(4<<20, 4<<20)
	e.reach(segment.Position{Timeline: 1, LSN: 4<<20 + 10})
	fork := segment.History{Timeline: 2, Ancestors: []segment.Switch{{Timeline: 1, End: 4<<20 + 8}}}
	e.confirm(fork, 2, 5<<20)
	want(5<<20, 5<<20)
	e.reach(segment.Position{Timeline: 2, LSN: 5<<20 + 1})
	want(5<<20+1, 5<<20)
}

// A timeline may have a million segments: few of them are looked at.
func TestLastSegment(t *testing.T) {
	fork := segment.History{Timeline: 2, Ancestors: []segment.Switch{{Timeline: 1, End: 700 << 20}}}
	for seed := range uint64(40) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		var names []string
		var want segment.ID
		for no := rnd.Uint64N(900); no < 1000; no += 1 + rnd.Uint64N(1+seed) {
			names = append(names, tail(1, no, 0, 50))
			if rnd.IntN(5) == 0 {
				continue
			}
			names = append(names, object(1, no))
			if no < 700 {
				want = segment.ID{Timeline: 1, No: no}
			}
		}
		a := pinned(t, names...)
		looked := 0
		a, err := archive.Open(t.Context(), counted{a.Store(), &looked})
		if err != nil {
			t.Fatal(err)
		}
		got, err := lastSegment(t.Context(), a, fork, 1)
		if err != nil || got != want || looked > 120 {
			t.Errorf("seed %d: %v, %v, want %v; %d of %d objects listed", seed, got, err, want, looked, len(names))
		}
	}
}

// counted counts the objects that are listed.
type counted struct {
	archive.Store
	n *int
}

func (c counted) List(ctx context.Context, prefix, after string) iter.Seq2[archive.Info, error] {
	return func(yield func(archive.Info, error) bool) {
		for info, err := range c.Store.List(ctx, prefix, after) {
			*c.n++
			if !yield(info, err) {
				return
			}
		}
	}
}

// pinned is an archive of a cluster with 1 MiB segments. Only its listing is
// used, so the objects need no contents.
func pinned(t *testing.T, names ...string) *archive.Archive {
	t.Helper()
	store := memstore.New()
	a, err := archive.Pin(t.Context(), store, segment.Identity{SystemIdentifier: 1, MajorVersion: 15, SegmentSize: mib})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := store.Put(t.Context(), name, strings.NewReader("x")); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

func object(tli wal.Timeline, no uint64) string {
	return archive.SegmentName(segment.ID{Timeline: tli, No: no}, mib)
}

func tail(tli wal.Timeline, no uint64, from, to int64) string {
	return archive.TailName(segment.ID{Timeline: tli, No: no}, mib, from, to)
}

func TestArchiveEnd(t *testing.T) {
	for name, c := range map[string]struct {
		objects []string
		from    wal.LSN // in MiB
		want    segment.Position
	}{
		"empty":                  {nil, 0, segment.Position{}},
		"tails only":             {[]string{tail(1, 0, 0, 8)}, 0, segment.Position{}},
		"ancestor":               {[]string{object(1, 0), object(1, 1), tail(1, 2, 0, 8)}, 0, segment.Position{Timeline: 1, LSN: 2 << 20}},
		"behind the fork":        {[]string{object(1, 2), object(1, 3), object(1, 4)}, 0, segment.Position{Timeline: 1, LSN: 3 << 20}},
		"newest":                 {[]string{object(1, 2), object(2, 3), object(3, 5), object(3, 6)}, 0, segment.Position{Timeline: 3, LSN: 7 << 20}},
		"the fork's old half":    {[]string{object(2, 4), object(2, 5)}, 0, segment.Position{Timeline: 2, LSN: 5 << 20}},
		"a hole behind the slot": {[]string{object(1, 0), object(1, 1), object(2, 3)}, 1, segment.Position{Timeline: 1, LSN: 2 << 20}},
		"the slot in the hole":   {[]string{object(1, 0), object(2, 3)}, 1, segment.Position{}},
		"a hole before the slot": {[]string{object(1, 0), object(1, 2), object(2, 3)}, 2, segment.Position{Timeline: 2, LSN: 4 << 20}},
		"no hole along the way":  {[]string{object(1, 2), tail(1, 3, 0, 8), object(1, 3), object(2, 3), object(2, 4), object(3, 5), tail(3, 6, 0, 8)}, 2, segment.Position{Timeline: 3, LSN: 6 << 20}},
		"the slot ahead":         {[]string{object(1, 0), object(1, 1)}, 4, segment.Position{Timeline: 1, LSN: 2 << 20}},
		"another branch":         {[]string{object(4, 9), object(1, 0)}, 0, segment.Position{Timeline: 1, LSN: 1 << 20}},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok, err := archiveEnd(t.Context(), pinned(t, c.objects...), forked, c.from<<20)
			if err != nil || got != c.want || ok != (c.want != segment.Position{}) {
				t.Errorf("%v %v %v, want %v", got, ok, err, c.want)
			}
		})
	}
}

func TestArchivedUpToCountsTheTail(t *testing.T) {
	a := pinned(t, object(3, 6), tail(3, 7, 0, 100), tail(3, 7, 0, 300), tail(3, 8, 0, 900))
	if got, err := archivedUpTo(t.Context(), a, forked); err != nil || got != 7<<20+300 {
		t.Errorf("%s %v", got, err)
	}
}
