package recovery

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// showWindows lists the windows of a made-up world and how many headers had to
// be read.
func (w *world) showWindows() string {
	windows, asked := w.windows()
	var b strings.Builder
	for _, win := range windows {
		to := "no commit"
		if !win.To.IsZero() {
			to = win.To.Format(time.TimeOnly)
		}
		fmt.Fprintf(&b, "timeline %s: %s (%s) .. %s (%s), open %v, %d backups\n",
			win.Timeline, win.From.Format(time.TimeOnly), win.FromLSN, to, win.ToLSN, win.Open, win.Backups)
	}
	fmt.Fprintf(&b, "asked  %d summaries", asked)
	return b.String()
}

func (w *world) windows() (windows []Window, asked int) {
	w.forget()
	defer w.remember()
	for {
		windows, err := findWindows(&w.facts)
		if err == nil {
			return windows, asked
		}
		for _, want := range wanted(err) {
			if want.Kind == WantSummary {
				asked++
			}
		}
		w.answer(wanted(err))
	}
}

// Where recovery reaches the end of all WAL, there is an open window on that
// timeline, and it ends with the last transaction that is replayed.
func TestWindowsAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		end := Target{Kind: KindEnd}
		want, _ := w.recover(end)
		if want == nil {
			return
		}
		windows, _ := w.windows()
		i := slices.IndexFunc(windows, func(win Window) bool { return win.Open && win.Timeline == want.timeline })
		if i < 0 {
			t.Fatalf("recovery reaches %+v, but the windows are %+v", *want, windows)
		}
		p, _, err := w.plan(t, end)
		if err != nil {
			t.Fatal(err)
		}
		got := windows[i]
		blurred := len(w.blurred) > 0 && slices.Contains(slices.Collect(maps.Values(w.blurred)), true)
		if p.LastFinish != nil && !blurred && !got.To.Equal(p.LastFinish.Time) {
			t.Fatalf("the window ends %s, the plan %s", got.To, p.LastFinish.Time)
		}
		if got.FromLSN > p.Backup.StopLSN || got.ToLSN < want.end {
			t.Fatalf("the window is %+v, recovery goes from %s to %s", got, p.Backup.StopLSN, want.end)
		}
	})
}

// Backups whose commit objects cannot be used are passed over, whatever is asked
// beside them.
func TestWindowsBesideDamagedBackups(t *testing.T) {
	v := small(t, 5000)
	n, _ := v.names("backups/")
	for _, k := range []uint64{0, 5, 6} {
		v.made[v.commit(k).CommitName()] = []byte("{")
	}
	windows, err := Source{Archive: v.open(t)}.Windows(t.Context())
	if err != nil || len(windows) != 1 || windows[0].Backups != n-3 || windows[0].FromLSN != v.commit(1).StopLSN {
		t.Errorf("%+v, %v; want one window of %d backups", windows, err, n-3)
	}
}
