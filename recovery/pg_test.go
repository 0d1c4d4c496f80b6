package recovery

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// TestRecoverToEveryTarget restores a real cluster, killed in the middle of a
// segment, to every kind of target, and compares what PostgreSQL did with what
// the plan said it would do.
func TestRecoverToEveryTarget(t *testing.T) {
	r := newRig(t)
	space := filepath.Join(r.dir, "space")
	if err := os.Mkdir(space, 0o700); err != nil {
		t.Fatal(err)
	}
	testkit.Own(t, space)
	r.Psql(t, "CREATE TABLESPACE space LOCATION '"+space+"'")
	r.Psql(t, "CREATE TABLE t (id int) TABLESPACE space")
	r.Psql(t, "ALTER SYSTEM SET archive_command = '/bin/false'")
	r.Psql(t, "ALTER SYSTEM SET recovery_target_name = 'leftover'")
	first := r.backup(t)
	var steps []step
	for i := range 9 {
		switch i {
		case 3:
			r.Psql(t, "SELECT pg_create_restore_point('it''s 100 %')")
		case 4:
			r.Psql(t, "SELECT pg_switch_wal()")
		case 6: // a record that spans whole segments
			r.Psql(t, "SELECT pg_logical_emit_message(false, '', repeat('x', 2500000))")
		}
		steps = append(steps, r.write(t, i))
	}
	spool := r.crash(t)

	t.Run("facts", func(t *testing.T) { r.checkFacts(t, spool) })
	t.Run("refused", func(t *testing.T) { r.checkRefusals(t, steps, spool) })
	t.Run("trouble never promotes", func(t *testing.T) { r.checkTrouble(t, spool) })

	for _, c := range []struct {
		name   string
		target Target
		rows   int
	}{
		{"time", Target{Kind: KindTime, Time: steps[4].time}, 5},
		{"time exclusive, promoted", Target{Kind: KindTime, Time: steps[1].time, Exclusive: true, Action: ActionPromote}, 2},
		{"lsn", Target{Kind: KindLSN, LSN: steps[4].lsn, Exclusive: true}, 5},
		{"xid", Target{Kind: KindXID, XID: steps[5].xid}, 6},
		{"xid exclusive", Target{Kind: KindXID, XID: steps[5].xid, Exclusive: true}, 5},
		{"name", Target{Kind: KindName, Name: "it's 100 %"}, 3},
		{"immediate", Target{Kind: KindImmediate}, 0},
		{"last xid, in the spool", Target{Kind: KindXID, XID: steps[8].xid}, 9},
		{"end", Target{}, 9},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, s := r.restore(t, c.target, spool)
			checkRestored(t, r, s, p)
			s.Start()
			if c.target.Kind == "" || c.target.Action == ActionPromote {
				waitPromoted(t, s)
				checkHarmless(t, s)
			} else {
				waitPaused(t, s)
				if got := mustLSN(s.Psql(t, "SELECT pg_last_wal_replay_lsn()")); got != p.End {
					t.Errorf("recovery ended at %s, planned %s", got, p.End)
				}
			}
			if got := s.Psql(t, "SELECT count(*) FROM t"); got != fmt.Sprint(c.rows) {
				t.Errorf("%s rows, want %d\n%s", got, c.rows, s.Log())
			}
			if p.Backup.ID != first.ID {
				t.Errorf("backup %s", p.Backup.ID)
			}
			s.Stop(syscall.SIGINT)
		})
	}
}

// checkRestored lets pg_verifybackup judge, and looks for what must be there.
func checkRestored(t *testing.T, r *rig, s *testkit.Cluster, p *Plan) {
	t.Helper()
	testkit.Run(t, filepath.Join(r.Bin, "pg_verifybackup"), "--no-parse-wal", "--ignore=tablespace_map", s.DataDir)
	plan, err := ReadPlan(SideDir(s.DataDir))
	if err != nil || plan.End != p.End || plan.Timeline != p.Timeline {
		t.Errorf("the plan beside the data directory: %+v, %v", plan, err)
	}
	if _, err := os.Stat(filepath.Join(SideDir(s.DataDir), unfinished)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the mark of an unfinished restore is still there: %v", err)
	}
	info, err := os.Stat(s.DataDir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("data directory: %v, %v", info, err)
	}
}

// checkHarmless checks that a restored server cannot touch production.
func checkHarmless(t *testing.T, s *testkit.Cluster) {
	t.Helper()
	for name, want := range map[string]string{
		"archive_mode": "off", "archive_command": "(disabled)", "archive_library": "", "synchronous_standby_names": "",
		"primary_conninfo": "", "primary_slot_name": "", "max_logical_replication_workers": "0", "recovery_target_name": "",
	} {
		if got := s.Psql(t, "SHOW "+name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
}

func (r *rig) checkRefusals(t *testing.T, steps []step, spool string) {
	last := steps[len(steps)-1]
	for _, target := range []Target{
		{Kind: KindTime, Time: last.time},
		{Kind: KindTime, Time: steps[0].time.AddDate(-1, 0, 0)},
		{Kind: KindLSN, LSN: last.lsn + 0x100000},
		{Kind: KindXID, XID: last.xid + 1000},
		{Kind: KindName, Name: "nowhere"},
		{Kind: KindEnd, Timeline: TargetTimeline{Number: 7}},
	} {
		_, err := Source{Archive: r.archive, Spool: spool}.Plan(t.Context(), target)
		var refusal *Refusal
		if !errors.As(err, &refusal) {
			t.Errorf("%s: %v, want a refusal", target, err)
		}
	}
}

// checkTrouble takes a segment away that the plan needs, after the restore.
// PostgreSQL must stop, not go live without the rest.
func (r *rig) checkTrouble(t *testing.T, spool string) {
	p, s := r.restore(t, Target{}, spool)
	gone, err := segment.ParseName(p.WAL[0].First, testSize)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		gone = gone.Next()
	}
	object := filepath.Join(r.dir, "archive", "wal", "00000001", gone.Name(testSize)+".zst")
	if err := os.Rename(object, object+"-away"); err != nil {
		t.Fatal(err)
	}
	s.Launch()
	<-s.Exited()
	if log := s.Log(); !strings.Contains(log, "exit code 200") && !strings.Contains(log, "could not restore file") || strings.Contains(log, "selected new timeline") {
		t.Errorf("the server did not stop for the missing segment:\n%s", log)
	}
	if err := os.Rename(object+"-away", object); err != nil {
		t.Fatal(err)
	}
	s.Start()
	waitPromoted(t, s)
	if got := s.Psql(t, "SELECT count(*) FROM t"); got != "9" {
		t.Errorf("%s rows once the segment is back, want 9", got)
	}
	s.Stop(syscall.SIGINT)
}

// checkFacts compares what the planner is told about real WAL with what one
// scan over all of it finds.
func (r *rig) checkFacts(t *testing.T, spool string) {
	g, err := Source{Archive: r.archive, Spool: spool}.gather(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var rt *route
	if _, err := settled(t.Context(), g, func() (_ any, err error) {
		if rt, err = newRoute(&g.facts, candidates(&g.facts, Target{})[0]); err == nil {
			err = rt.toEnd()
		}
		return nil, err
	}); err != nil {
		t.Fatal(err)
	}
	var all []Span
	var points wal.Points
	var carry *wal.Carry
	for i, id := range rt.ids {
		for _, kind := range []WantKind{WantSummary, WantPoints} {
			if err := g.answer(t.Context(), []Want{{Kind: kind, Segment: id}}); err != nil {
				t.Fatal(err)
			}
		}
		points.Finishes = append(points.Finishes, g.facts.Points[id].Finishes...)
		points.RestorePoints = append(points.RestorePoints, g.facts.Points[id].RestorePoints...)
		if rt.skipped(i) {
			t.Errorf("%s: the record that continues into it is not known", id.Name(testSize))
		}
		cfg := g.facts.Identity.ScanConfig(id)
		cfg.Carry = carry
		cfg.OnRecord = func(rec *wal.Record) error {
			all = append(all, Span{rec.LSN, rec.End})
			return nil
		}
		scan := wal.NewScanner(cfg)
		body, err := os.ReadFile(filepath.Join(r.DataDir, "pg_wal", id.Name(testSize)))
		if err != nil {
			t.Fatal(err)
		}
		if err := scan.Feed(body); err != nil && i < len(rt.ids)-1 {
			t.Fatal(err)
		}
		carry = scan.Carry()
	}
	if len(points.RestorePoints) != 1 || points.RestorePoints[0].Name != "it's 100 %" || len(points.Finishes) < 9 {
		t.Errorf("points %+v", points)
	}
	for i := 1; i < len(all); i += 1 + len(all)/50 {
		want := Want{Kind: WantRecordAt, Timeline: 1, LSN: all[i].Start - 3}
		if err := g.answer(context.Background(), []Want{want}); err != nil {
			t.Fatal(err)
		}
		if got := g.facts.RecordAt[want]; got != all[i] {
			t.Errorf("first record from %s on: %v, want %v", want.LSN, got, all[i])
		}
	}
	if end, last := rt.end(); end != all[len(all)-1].End || last != all[len(all)-1].Start {
		t.Errorf("WAL ends with the record at %s to %s, want %v", last, end, all[len(all)-1])
	}
}
