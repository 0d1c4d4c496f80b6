package recovery

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/hint"
)

// small is an archive of 5,200 segments, of which those below indexed have one.
func small(t *testing.T, indexed uint64) *vast {
	v := newVast(t, 5200, indexed)
	v.every = 400
	return v
}

func (v *vast) gather(t *testing.T) *gatherer {
	g, err := Source{Archive: v.open(t)}.gather(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func (v *vast) randomTarget(rnd *rand.Rand) Target {
	no, i := 1+rnd.Uint64N(v.last+20), rnd.IntN(4)
	switch rnd.IntN(4) {
	case 0:
		return Target{Kind: KindXID, XID: v.xid(no, i)}
	case 1:
		return Target{Kind: KindName, Name: fmt.Sprintf("p%d", 5000*rnd.IntN(3))}
	case 2:
		return Target{Kind: KindLSN, LSN: v.header(no).First.LSN + 8}
	}
	return Target{Kind: KindTime, Time: v.time(no, i).Add(time.Duration(rnd.IntN(3)-1) * time.Second), Exclusive: rnd.IntN(2) == 0}
}

// The first segment that may hold a target is the same whether it was searched
// for by indexes, running maxima or notes, or all headers were looked at.
func TestFirst(t *testing.T) {
	for _, indexed := range []uint64{1000, 3000, 5000} {
		for _, noted := range []bool{false, true} {
			v := small(t, indexed)
			v.points, v.bounds = noted, noted
			g := v.gather(t)
			rnd := rand.New(rand.NewPCG(1, indexed))
			for range 60 {
				w := Want{Kind: WantFirst, Timeline: 1, Target: v.randomTarget(rnd), From: 1 + rnd.Uint64N(v.last)}
				w.To = w.From + rnd.Uint64N(v.last-w.From+1)
				if w.Target.Kind == KindLSN {
					continue
				}
				want := NoSegment
				for no := w.From; no <= w.To && want == NoSegment; no++ {
					if h := v.header(no); w.Target.mayBeIn(&h.Summary) {
						want = no
					}
				}
				if err := g.answer(t.Context(), []Want{w}); err != nil {
					t.Fatal(err)
				}
				if got := g.facts.First[w]; got != want {
					t.Errorf("indexed to %d, noted %v: %s from %d to %d is in %d, not %d", indexed, noted, w.Target, w.From, w.To, want, got)
				}
			}
		}
	}
}

// What is known beside what the planner asked for does not change a plan.
func TestPlanOfAllFacts(t *testing.T) {
	v := small(t, 4000)
	rnd := rand.New(rand.NewPCG(2, 2))
	for range 25 {
		target := v.randomTarget(rnd)
		asked, _, askedErr := v.plan(t, target)
		g := v.gather(t)
		wants := []Want{{Kind: WantEnd, Timeline: 1}}
		for _, b := range g.facts.Backups {
			wants = append(wants, Want{Kind: WantBackup, Backup: b.ID})
		}
		if err := g.answer(t.Context(), wants); err != nil {
			t.Fatal(err)
		}
		all, err := g.plan(t.Context(), target)
		if diff := cmp.Diff(all, asked, cmpopts.EquateEmpty()); diff != "" || fmt.Sprint(err) != fmt.Sprint(askedErr) {
			t.Errorf("%s: %v, %v (-all +asked):\n%s", target, err, askedErr, diff)
		}
	}
}

// What backups tell of transactions saves requests, and changes no plan.
func TestPlanOfTransactions(t *testing.T) {
	told, silent := small(t, 4000), small(t, 4000)
	silent.bounds = false
	for _, no := range []uint64{1, 2, 399, 400, 401, 402, 2000, 3999, 4000, 5001, 5200, 5201, 9000} {
		target := Target{Kind: KindXID, XID: told.xid(no, int(no%4))}
		p, n, err := told.plan(t, target)
		want, most, wantErr := silent.plan(t, target)
		if (want == nil) != (no > 5200) || fmt.Sprint(err) != fmt.Sprint(wantErr) || n > most+8 {
			t.Errorf("%d: %v with %d requests, want %v with %d", no, err, n, wantErr, most)
		}
		if p != nil && want != nil { // that is the only difference
			p.Backup.NextXID, p.Backup.OldestActiveXID = 0, 0
		}
		if diff := cmp.Diff(want, p, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%d (-silent +told):\n%s", no, diff)
		}
	}
}

// A target in a segment that is damaged behind its header is refused, like one in
// a hole: all kinds name the nearest points.
func TestDamageAtTarget(t *testing.T) {
	for _, no := range []uint64{2501, 5101} {
		v := small(t, 5000)
		name := archive.SegmentName(v.id(no), testSize)
		body, err := v.object(t.Context(), name, -1)
		if err != nil {
			t.Fatal(err)
		}
		body[len(body)-20] ^= 1
		v.made[name] = body
		h := v.header(no)
		for _, target := range []Target{
			{Kind: KindLSN, LSN: h.Last.LSN}, {Kind: KindXID, XID: h.Last.XID}, {Kind: KindTime, Time: h.Last.Time.Add(-time.Second)},
		} {
			_, _, err := v.plan(t, target)
			if err == nil || !strings.Contains(err.Error(), "is damaged") || len(hint.Of(err)) == 0 {
				t.Errorf("%s in %d: %v, hints %q", target, no, err, hint.Of(err))
			}
		}
	}
}
