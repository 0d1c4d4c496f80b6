package recovery

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/wal"
)

// TestPlanGolden runs the plans in testdata/plan: "world" describes a cluster
// as [world.parse] reads it, "plan" plans a recovery in it, "windows" lists
// what can be recovered.
func TestPlanGolden(t *testing.T) {
	datadriven.Walk(t, filepath.Join("..", "testdata", "plan"), func(t *testing.T, path string) {
		var w *world
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "world", "more":
				if d.Cmd == "world" {
					w = newWorld()
				}
				for line := range strings.Lines(d.Input) {
					if err := w.parse(strings.TrimSpace(line)); err != nil {
						d.Fatalf(t, "%s: %v", line, err)
					}
				}
				return ""
			case "plan":
				return showPlan(w.plan(t, parseTarget(t, d)))
			case "windows":
				return w.showWindows()
			}
			d.Fatalf(t, "unknown command %q", d.Cmd)
			return ""
		})
	})
}

func parseTarget(t *testing.T, d *datadriven.TestData) Target {
	target := Target{}
	for _, arg := range d.CmdArgs {
		value := strings.Join(arg.Vals, ",")
		var err error
		switch arg.Key {
		case "time":
			target.Kind, target.Time = KindTime, clock(value)
		case "lsn":
			target.Kind = KindLSN
			target.LSN, err = wal.ParseLSN(value)
		case "xid":
			target.Kind = KindXID
			target.XID, err = ParseXID(value)
		case "name":
			target.Kind, target.Name = KindName, value
		case "immediate":
			target.Kind = KindImmediate
		case "end":
		case "exclusive":
			target.Exclusive = true
		case "timeline":
			target.Timeline, err = ParseTargetTimeline(value)
		case "action":
			target.Action, err = ParseAction(value)
		case "backup":
			target.Backup = value
		default:
			d.Fatalf(t, "unknown argument %q", arg.Key)
		}
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
	}
	return target
}

func showPlan(p *Plan, asked []Want, err error) string {
	var b strings.Builder
	if err != nil {
		var refusal *Refusal
		if !errors.As(err, &refusal) {
			b.WriteString("no refusal: ")
		}
		fmt.Fprintln(&b, err)
		for _, h := range hint.Of(err) {
			fmt.Fprintln(&b, "hint:", h)
		}
	} else {
		fmt.Fprintf(&b, "backup %s, timeline %s, ends at %s, needs %s of %s\n", p.Backup.ID, p.Timeline, p.End, p.Need, p.WALEnd)
		for _, r := range p.WAL {
			fmt.Fprintf(&b, "wal    %s .. %s (%d)", r.First, r.Last, r.Segments)
			if r.Switch > 0 {
				fmt.Fprintf(&b, ", next timeline at %s", r.Switch)
			}
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "before %s; after %s; last %s\n", showFinish(p.Before), showFinish(p.After), showFinish(p.LastFinish))
		for _, s := range p.SpoolOnly {
			fmt.Fprintf(&b, "spool  %s up to %s, complete %v\n", s.Segment, s.End, s.Complete)
		}
		if p.Stop != nil {
			fmt.Fprintf(&b, "stop   %s\n", p.Stop)
		}
		if p.HoleBehind {
			b.WriteString("hole behind\n")
		}
		for _, text := range p.Warnings {
			fmt.Fprintln(&b, "warning:", text)
		}
	}
	var n [WantChanges + 1]int
	for _, want := range asked {
		n[want.Kind]++
	}
	fmt.Fprintf(&b, "asked  %d summaries, %d lists, %d records", n[WantSummary], n[WantPoints], n[WantRecordAt])
	return b.String()
}

func showFinish(f *wal.Finish) string {
	if f == nil {
		return "none"
	}
	return fmt.Sprintf("%d (%s at %s)", f.XID, f.Time.Format("15:04:05"), f.LSN)
}
