package receiver

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

func TestNextStep(t *testing.T) {
	alone := segment.History{Timeline: 1}
	// 1 ended within segment 5, 2 at the border of segment 8, 4 is current.
	h := segment.History{Timeline: 4, Ancestors: []segment.Switch{
		{Timeline: 1, End: 5*mib + 100}, {Timeline: 2, End: 8 * mib}}}
	const flush = 9*mib + 7
	at := func(tli wal.Timeline, lsn wal.LSN) segment.Position {
		return segment.Position{Timeline: tli, LSN: lsn}
	}
	for name, c := range map[string]struct {
		h    segment.History
		have segment.Position
		want step
	}{
		"within a segment":      {alone, at(1, 3*mib+5), step{Timeline: 1, Start: 3 * mib}},
		"at the server's end":   {alone, at(1, flush), step{Timeline: 1, Start: 9 * mib}},
		"before the fork":       {h, at(1, 4*mib+1), step{Timeline: 1, Start: 4 * mib, End: 5*mib + 100}},
		"in the fork's segment": {h, at(1, 5*mib+99), step{Timeline: 1, Start: 5 * mib, End: 5*mib + 100}},
		"at the fork":           {h, at(1, 5*mib+100), step{Timeline: 1, Start: 5 * mib, End: 5*mib + 100, Done: true, Next: at(2, 5*mib)}},
		"ahead of the fork":     {h, at(1, 7*mib+1), step{Timeline: 1, Start: 7 * mib, End: 5*mib + 100, Done: true, Next: at(2, 5*mib)}},
		"fork on a border":      {h, at(2, 8*mib), step{Timeline: 2, Start: 8 * mib, End: 8 * mib, Done: true, Next: at(4, 8*mib)}},
		"current timeline":      {h, at(4, 8*mib+3), step{Timeline: 4, Start: 8 * mib}},
	} {
		got, err := nextStep(c.h, flush, c.have, mib)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	var behind *BehindError
	if _, err := nextStep(alone, flush, at(1, flush+1), mib); !errors.As(err, &behind) || !alarming(err) {
		t.Errorf("a server behind us: %v", err)
	}
	for _, tli := range []wal.Timeline{3, 5} { // no ancestor; newer than the server
		var branch *BranchError
		if _, err := nextStep(h, flush, at(tli, 6*mib), mib); !errors.As(err, &branch) || !alarming(err) || len(hint.Of(err)) == 0 {
			t.Errorf("timeline %s: %v", tli, err)
		}
	}
}

func TestStatusInterval(t *testing.T) {
	for timeout, want := range map[string]time.Duration{
		"1min": 10 * time.Second, "0": 10 * time.Second, "2s": 500 * time.Millisecond,
		"800ms": 200 * time.Millisecond, "1h": 10 * time.Second, "1d": 10 * time.Second, "nonsense": 10 * time.Second,
	} {
		if got := statusInterval(timeout, 10*time.Second); got != want {
			t.Errorf("wal_sender_timeout %s: %s, want %s", timeout, got, want)
		}
	}
}
