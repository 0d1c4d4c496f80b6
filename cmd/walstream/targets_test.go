package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/recovery"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

var (
	targets     = flag.Int("targets", 30, "targets that TestTargets restores to")
	damages     = flag.Int("damages", 20, "damaged archives that TestTargets restores from")
	targetsSeed = flag.Uint64("targets-seed", 0, "seed of TestTargets, random if 0")
)

// census is a count of what happened.
type census struct {
	sync.Mutex
	n map[string]int
}

func (c *census) add(what string) {
	c.Lock()
	defer c.Unlock()
	c.n[what]++
}

// Random targets in a busy cluster: what can be reached is accepted, and
// PostgreSQL recovers to it, row for row; what cannot is refused. The judge is
// what pg_waldump shows of the servers' own files. With an archive that is
// damaged anywhere, nothing else ever comes up.
func TestTargets(t *testing.T) {
	t.Parallel()
	seed := *targetsSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	again := fmt.Sprintf("once more: go test ./cmd/walstream -run '^%s$' -targets-seed %d -targets %d -damages %d", "%s", seed, *targets, *damages)
	counts := &census{n: map[string]int{}}
	t.Cleanup(func() { t.Logf("seed %d: %v", seed, counts.n) })
	b := newBusy(t, seed)
	rng := func(stream int) *rand.Rand { return rand.New(rand.NewPCG(seed, uint64(stream))) }
	run := func(name string, one func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			defer func() {
				if t.Failed() {
					t.Logf(again, t.Name())
				}
			}()
			one(t)
		})
	}
	for i := range *targets {
		run(fmt.Sprintf("target-%d", i), func(t *testing.T) { b.aim(t, rng(i+1), counts) })
	}
	for i := range *damages {
		run(fmt.Sprintf("damage-%d", i), func(t *testing.T) { b.damage(t, rng(-i-1), counts) })
	}
}

// aim restores to a random target.
func (b *busy) aim(t *testing.T, rng *rand.Rand, counts *census) {
	reachable := rng.IntN(2) == 0
	target, args := b.target(rng)
	want := b.answer(target)
	for reachable != (len(want.moments) > 0) {
		target, args = b.target(rng)
		want = b.answer(target)
	}
	dir := filepath.Join(testkit.Dir(t), "data")
	out, errs, code := b.in(t).run(append([]string{"restore", dir, "--json"}, args...)...)
	told := fmt.Sprintf("walstream restore %s: exit code %d\n%s%s\n%s", strings.Join(args, " "), code, out, errs, want)
	switch code {
	case 0:
		b.reaches(t, dir, decode(t, out, &printed{}), target, want, told)
		counts.add(string(target.Kind) + " reached")
	case 4:
		if want.must {
			t.Errorf("refused what can be reached: %s", told)
		}
		if exists(dir) {
			t.Errorf("it wrote something: %s", told)
		}
		counts.add(string(target.Kind) + " refused")
		if rng.IntN(2) == 0 {
			b.force(t, rng, target, counts)
		}
	default:
		t.Error(told)
	}
}

// reaches starts what was restored and compares it with the past.
func (b *busy) reaches(t *testing.T, dir string, plan *printed, target recovery.Target, want answer, told string) {
	t.Helper()
	if len(want.moments) == 0 {
		t.Fatalf("accepted what cannot be reached: %s", told)
	}
	c := b.in(t).startRestored(dir)
	defer c.Stop(syscall.SIGQUIT)
	tli, end := ended(t, c)
	if got, planned := b.at(tli, end), b.at(plan.Timeline, plan.End); got != planned {
		t.Errorf("recovery ended on timeline %s at %s, after %+v, planned was %+v: %s", tli, end, got, planned, told)
	}
	pauses := target.Action != recovery.ActionPromote && target.Kind != recovery.KindEnd
	if got := c.Psql(t, "SELECT pg_is_in_recovery()"); got != fmt.Sprint(pauses)[:1] {
		t.Errorf("in recovery: %s: %s", got, told)
	}
	b.holdsMoment(t, c, tli, end, want, told)
}

// holdsMoment checks that a server is at a right moment, row for row.
func (b *busy) holdsMoment(t *testing.T, c *testkit.Cluster, tli wal.Timeline, end wal.LSN, want answer, told string) {
	t.Helper()
	m := b.at(tli, end)
	if !want.moments[m] {
		t.Errorf("recovery ended after %d records of timeline %s, at %s: %s", m.records, tli, end, told)
	}
	if got, want := c.Psql(t, tableRows), b.past.rows(m); got != want {
		t.Errorf("rows\n%s\nwant\n%s\n%s", got, want, told)
	}
	got := c.Psql(t, "SELECT CASE WHEN pg_is_in_recovery() THEN 'not known' ELSE (SELECT string_agg(gid, E'\\n' ORDER BY gid) FROM pg_prepared_xacts) END")
	if open := b.past.open(m); got != "not known" && got != open {
		t.Errorf("prepared are\n%s\nwant\n%s\n%s", got, open, told)
	}
}

// target draws one, and the arguments that say it.
func (b *busy) target(rng *rand.Rand) (recovery.Target, []string) {
	t := recovery.Target{Kind: recovery.KindEnd}
	var args []string
	tli := wal.Timeline(1 + rng.IntN(len(b.eras)))
	path := b.paths[tli]
	near := oneOf(rng, path)
	switch what := rng.IntN(20); {
	case what < 8:
		t.Kind = recovery.KindTime
		t.Time = b.someTime(rng, path)
		args = []string{"--target-time", t.Time.Format(time.RFC3339Nano)}
	case what < 12:
		t.Kind = recovery.KindLSN
		t.LSN = near.lsn + wal.LSN(rng.Uint64N(uint64(near.end-near.lsn+9)))
		switch rng.IntN(8) {
		case 0, 1, 2:
			t.LSN = near.lsn
		case 3:
			t.LSN = path[len(path)-1].lsn + wal.LSN(rng.Uint64N(100))
		}
		args = []string{"--target-lsn", t.LSN.String()}
	case what < 16:
		t.Kind = recovery.KindXID
		if t.XID = b.finish(rng, path).xid; rng.IntN(4) == 0 { // or one beside it: running, never used, or a subtransaction
			t.XID += uint32(rng.IntN(9))
		} else if rng.IntN(5) == 0 {
			t.XID = oneOf(rng, b.undone)
		}
		args = []string{"--target-xid", fmt.Sprint(t.XID)}
	case what < 18:
		names := append(slices.Clone(b.names), "nowhere")
		t.Kind, t.Name = recovery.KindName, oneOf(rng, names)
		args = []string{"--target-name", t.Name}
	case what == 18:
		t.Kind = recovery.KindImmediate
		args = []string{"--target-immediate"}
	}
	if (t.Kind == recovery.KindTime || t.Kind == recovery.KindLSN || t.Kind == recovery.KindXID) && rng.IntN(2) == 0 {
		t.Exclusive = true
		args = append(args, "--target-exclusive")
	}
	if t.Kind != recovery.KindEnd && rng.IntN(3) == 0 {
		t.Action = recovery.ActionPromote
		args = append(args, "--target-action", "promote")
	}
	switch rng.IntN(5) {
	case 0:
		t.Timeline.Current = true
	case 1:
		t.Timeline.Number = wal.Timeline(1 + rng.IntN(len(b.eras)+1))
	case 2, 3:
		t.Timeline.Number = tli
	}
	if rng.IntN(8) == 0 {
		t.Backup = oneOf(rng, b.backups).id
		args = append(args, "--backup", t.Backup)
	}
	return t, append(args, "--target-timeline", t.Timeline.String())
}

func (b *busy) finish(rng *rand.Rand, path []logged) logged {
	for {
		if r := oneOf(rng, path); r.finish {
			return r
		}
	}
}

// someTime is at, between, before or behind the times of transactions.
func (b *busy) someTime(rng *rand.Rand, path []logged) time.Time {
	at := b.finish(rng, path).time
	switch rng.IntN(8) {
	case 0:
		return at.Add(time.Microsecond)
	case 1:
		return at.Add(-time.Microsecond)
	case 2, 3, 4:
		return at.Add(time.Duration(rng.IntN(400_000)-200_000) * time.Microsecond)
	case 5:
		return at.Add(time.Duration(rng.IntN(3)-1) * time.Hour)
	}
	return at
}

// force lets PostgreSQL try a target that was refused, from a random backup and
// with the servers' own WAL: it fails, or it ends where the target does not mean.
func (b *busy) force(t *testing.T, rng *rand.Rand, target recovery.Target, counts *census) {
	from, tli := based{}, wal.Timeline(0)
	for _, i := range rng.Perm(len(b.backups)) {
		k := b.backups[i]
		complete := recovery.Target{Kind: recovery.KindImmediate}
		if on := b.timeline(k, target.Timeline); on == 0 || b.lostFork(k, on) {
			continue
		} else if how, _ := b.recover(k, on, complete); how == reached {
			from, tli = k, on
		}
	}
	if tli == 0 {
		return
	}
	how, n := b.recover(from, tli, target)
	dir := filepath.Join(testkit.Dir(t), "data")
	b.in(t).must("restore", dir, "--backup", from.id, "--target-immediate", "--target-timeline", tli.String())
	plan := recovery.Plan{Timeline: tli, Target: target}
	plan.Identity.MajorVersion = b.primary.Major
	var conf strings.Builder
	for _, s := range plan.Settings([]string{"x"}, nil) {
		if s.Name == "restore_command" {
			s.Value = "cp " + b.truth + "/%f %p"
		}
		fmt.Fprintln(&conf, s)
	}
	if err := os.WriteFile(filepath.Join(dir, "postgresql.auto.conf"), []byte(conf.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, e := range b.eras[1:] { // see keepForks
		child := wal.Timeline(i + 2)
		in := func(tli wal.Timeline) string { return segment.At(tli, e.fork, mib).Name(mib) }
		if from := filepath.Join(b.truth, in(child)); b.owner(tli, e.fork) == child && exists(from) {
			testkit.Run(t, "cp", from, filepath.Join(dir, "pg_wal", in(e.parent)))
		}
	}
	counts.add("forced")
	c := testkit.Adopt(t, dir)
	defer c.Stop(syscall.SIGQUIT)
	state := recovers(t, c)
	told := fmt.Sprintf("forced to %s from backup %s on timeline %s: outcome %d after %d records\n%s", target, from.id, tli, how, n, c.Log())
	if (state != "stopped") != (how == reached) {
		t.Fatalf("PostgreSQL %s: %s", state, told)
	}
	if state != "stopped" {
		got, end := ended(t, c)
		b.holdsMoment(t, c, got, end, answer{moments: map[moment]bool{{tli, n}: true}}, told)
	}
}

// lostFork says whether a segment is lost in which a timeline on the way
// begins: PostgreSQL would read the one of the timeline before.
func (b *busy) lostFork(from based, tli wal.Timeline) bool {
	for id := range b.lost {
		if b.owner(tli, id.End(mib)-1) == id.Timeline && b.eras[id.Timeline-1].fork > id.Start(mib) {
			return true
		}
	}
	return false
}
