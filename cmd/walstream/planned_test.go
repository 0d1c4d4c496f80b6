package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/recovery"
	"github.com/walstream/walstream/wal"
)

// printed is what restore --json prints.
type printed struct {
	recovery.Plan
	Backup struct {
		ID string `json:"id"`
	} `json:"backup"`
	Settings []recovery.Setting `json:"settings"`
	Expected *recovery.Expected `json:"expected,omitempty"`
}

// restore restores into dir, starts the cluster, and returns it once recovery
// has ended or paused. The dry run before it prints the plan that is then
// carried out, and PostgreSQL ends where the plan says.
func (w *world) restore(dir string, args ...string) *testkit.Cluster {
	w.t.Helper()
	moving := w.primary.Running() // so the end of WAL is another one each time
	toEnd := !strings.Contains(strings.Join(args, " "), "--target-")
	args = append([]string{"restore", dir, "--json"}, args...)
	dry := *decode(w.t, w.must(append(args, "--dry-run")...), &printed{})
	done := *decode(w.t, w.must(args...), &printed{})
	w.beside(dir, done)
	if e := dry.Expected; e == nil || e.BackupSeconds <= 0 || e.WALSeconds < 0 || done.Expected != nil {
		w.t.Errorf("restore %s: expected before %+v, and afterwards %+v", dir, e, done.Expected)
	}
	dry.Expected = nil

	before, after := dry, done
	for _, p := range []*printed{&before, &after} {
		p.SpoolOnly = nil // the receiver may have archived it since
		p.WAL = append([]recovery.Range(nil), p.WAL...)
		for i := range p.WAL {
			p.WAL[i].StoredBytes = 0
		}
		if moving {
			p.WALEnd, p.LastFinish = 0, nil
		}
		if moving && toEnd {
			p.End, p.Need, p.WAL, p.Before, p.After = 0, 0, nil, nil, nil
		}
	}
	if diff := cmp.Diff(asJSON(w.t, before), asJSON(w.t, after)); diff != "" {
		w.t.Errorf("restore %s did another thing than its dry run said (-dry +done):\n%s", dir, diff)
	}
	c := w.startRestored(dir)
	if tli, end := ended(w.t, c); tli != done.Timeline || end != done.End {
		w.t.Errorf("restore %s: recovery ended on timeline %s at %s, the plan was %s at %s", dir, tli, end, done.Timeline, done.End)
	}
	return c
}

// in is w for a subtest.
func (w *world) in(t *testing.T) *world {
	sub := *w
	sub.t = t
	return &sub
}

// beside checks that the files in and beside dir hold the plan that restore
// printed.
func (w *world) beside(dir string, p printed) {
	w.t.Helper()
	kept, err := recovery.ReadPlan(recovery.SideDir(dir))
	if err != nil {
		w.t.Fatal(err)
	}
	if id := kept.Backup.ID; id != p.Backup.ID {
		w.t.Errorf("backup %s in the plan beside %s, %s was printed", id, dir, p.Backup.ID)
	}
	kept.Backup = p.Plan.Backup // printed is a view of it
	if diff := cmp.Diff(asJSON(w.t, p.Plan), asJSON(w.t, kept)); diff != "" {
		w.t.Errorf("the plan beside %s (-printed +kept):\n%s", dir, diff)
	}
	conf, err := os.ReadFile(filepath.Join(dir, "postgresql.auto.conf"))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, s := range p.Settings {
		if !strings.Contains("\n"+string(conf), "\n"+s.String()+"\n") {
			w.t.Errorf("%s was printed, but is not in postgresql.auto.conf:\n%s", s, conf)
		}
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// ended is where the recovery of a cluster has ended or paused, and on which
// timeline.
func ended(t *testing.T, c *testkit.Cluster) (tli wal.Timeline, end wal.LSN) {
	t.Helper()
	state := c.Psql(t, "SELECT CASE WHEN pg_is_in_recovery() THEN current_setting('recovery_target_timeline') || ' ' || pg_last_wal_replay_lsn() "+
		"ELSE 'promoted ' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END")
	first, second, _ := strings.Cut(state, " ")
	if first == "promoted" { // the last line of the new timeline's history tells
		body, err := os.ReadFile(filepath.Join(c.DataDir, "pg_wal", second+".history"))
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(body)), "\n")
		fields := strings.Fields(lines[len(lines)-1])
		first, second = fields[0], fields[1]
	}
	var n uint32
	if _, err := fmt.Sscan(first, &n); err != nil {
		t.Fatal(err)
	}
	end, err := wal.ParseLSN(second)
	if err != nil {
		t.Fatal(err)
	}
	return wal.Timeline(n), end
}
