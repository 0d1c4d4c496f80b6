//go:build chaos

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// endings are how the receiver is when the primary's disk is destroyed.
func endings(ack string) []fault {
	if ack == "archive" {
		return []fault{
			{"end: primary and spool at one moment", 1, (*chaosRound).allButTheArchive},
			{"end: primary and spool, receiver hangs", 1, func(r *chaosRound) { r.service.signal(syscall.SIGSTOP); r.allButTheArchive() }},
		}
	}
	return []fault{
		{"end: receiver runs", 2, func(r *chaosRound) { r.destroyPrimary() }},
		{"end: receiver killed", 2, func(r *chaosRound) { r.service.stop(syscall.SIGKILL); r.destroyPrimary() }},
		{"end: receiver hangs", 1, func(r *chaosRound) { r.service.signal(syscall.SIGSTOP); r.destroyPrimary() }},
		{"end: power loss of the receiver", 5, (*chaosRound).powerLossAtOnce},
		{"end: only the archive is left", 2, (*chaosRound).archiveAlone},
	}
}

// finish destroys the primary, restores, and looks up every row that was
// acknowledged; then the archive has to be without a hole.
func (r *chaosRound) finish() {
	r.t.Helper()
	weather, end := pick(r.rnd, weathers(r.ack)), pick(r.rnd, endings(r.ack))
	r.count(weather.name, end.name)
	r.event("%s; weather: %s", end.name, weather.name)
	weather.do(r)
	r.rows(int64(20 + r.rnd.IntN(200)))
	end.do(r)
	r.clients.stop()
	r.wire.Set(map[string]any{"enabled": false})
	if r.standby != nil {
		r.standby.Stop(syscall.SIGQUIT) // nobody promotes it any more
	}
	r.clear()
	acked := r.clients.logged(r.t)
	r.tally.acked = len(acked)
	if len(acked) < minRows {
		r.t.Errorf("only %d commits were acknowledged", len(acked))
	}

	if out, errs, code := r.world.run("restore", filepath.Join(r.dir, "restored")); code != 0 {
		r.tally.lost = len(acked)
		r.t.Fatalf("restore: exit code %d\n%s%s", code, out, errs)
	}
	r.lookUp("restored", acked, r.rnd.IntN(2) == 0)
	alone := !exists(r.spool)
	if !alone {
		r.drain()
	}
	r.tally.holes = len(r.holes())
	for _, hole := range r.holes() {
		r.t.Errorf("the archive has a hole: %s", hole)
	}
	if !alone && r.rnd.IntN(2) == 0 {
		// What the receiver took over from a crash is all in the archive.
		r.spool = filepath.Join(r.dir, "none")
		r.must("restore", filepath.Join(r.dir, "again"))
		r.lookUp("again", acked, false)
	}
}

// powerLossAtOnce takes the receiver's power and the primary's disk. So that
// it comes while fsyncs are going on, the spool is slow now and then.
func (r *chaosRound) powerLossAtOnce() {
	r.t.Helper()
	if r.rnd.IntN(2) == 0 {
		r.spoolSlow()
		r.rows(20)
	}
	r.service.stop(syscall.SIGKILL)
	r.losePower(r.survivors())
	r.destroyPrimary()
}

// archiveAlone stops the receiver once it has archived what it could, and
// loses the spool.
func (r *chaosRound) archiveAlone() {
	r.t.Helper()
	r.destroyPrimary()
	r.clear()
	r.drain()
	if err := os.RemoveAll(r.spool); err != nil {
		r.t.Fatal(err)
	}
}

// allButTheArchive destroys primary and receiver, without any warning.
func (r *chaosRound) allButTheArchive() {
	r.t.Helper()
	r.service.stop(syscall.SIGKILL)
	r.destroyPrimary()
	if err := os.RemoveAll(r.spool); err != nil {
		r.t.Fatal(err)
	}
}

// lookUp starts a restored cluster and looks for the rows. The archive may go
// away for a moment while it replays.
func (r *chaosRound) lookUp(name string, acked []string, outage bool) {
	r.t.Helper()
	c := testkit.Adopt(r.t, filepath.Join(r.dir, name))
	c.Launch()
	if outage {
		r.count("archive away during replay")
		time.Sleep(r.between(100*time.Millisecond, time.Second))
		r.archiveDenied()
		time.Sleep(r.between(500*time.Millisecond, 2*time.Second))
		r.clear()
	}
	testkit.Wait(r.t, "recovery to end", func() (bool, string) {
		if !c.Running() {
			r.t.Fatalf("the restored server has ended\n%s", c.Log())
		}
		state, err := c.Query("SELECT pg_is_in_recovery()")
		return state == "f", fmt.Sprintf("%s %v\n%s", state, err, c.Log())
	})
	out, err := c.Query("SELECT n FROM acked WHERE filling = repeat(md5(n::text), length(filling) / 32)")
	if err != nil { // the table itself may be lost
		r.t.Error(err)
	}
	have := map[string]bool{}
	for _, n := range strings.Fields(out) {
		have[n] = true
	}
	var lost []string
	for _, n := range acked {
		if !have[n] {
			lost = append(lost, n)
		}
	}
	r.tally.lost = max(r.tally.lost, len(lost))
	if len(lost) > 0 {
		os.WriteFile(filepath.Join(r.dir, name+".log"), []byte(c.Log()), 0o644)
		r.t.Errorf("%s: %d of %d acknowledged rows are lost: %s", name, len(lost), len(acked), strings.Join(lost[:min(len(lost), 20)], " "))
	}
	c.Stop(syscall.SIGQUIT)
	os.RemoveAll(c.DataDir)
	r.event("%s: %d acknowledged, %d lost", name, len(acked), len(lost))
}

// drain lets the receiver archive what it has, without a server, and ends it.
func (r *chaosRound) drain() {
	r.t.Helper()
	if !r.service.running() {
		r.service.up()
	}
	r.service.signal(syscall.SIGCONT)
	testkit.Wait(r.t, "the spool to be archived", func() (bool, string) {
		out, errs, _ := r.world.run("status", "--json") // exit code 3: there is no server
		var v statusView
		if out == "" {
			return false, errs
		}
		decode(r.t, out, &v)
		return v.Running && v.Spool.Waiting == 0, out + r.service.output()
	})
	r.service.stop(syscall.SIGTERM)
}

// holes lists what is missing between the first and the last WAL of each
// timeline in the archive.
func (r *chaosRound) holes() []string {
	r.t.Helper()
	var list struct{ WAL []walRun }
	decode(r.t, r.must("list", "wal", "--json"), &list)
	const size segment.Size = 1 << 20
	var found []string
	ends := map[wal.Timeline]wal.LSN{}
	for _, run := range list.WAL {
		end, begun := ends[run.Timeline]
		if run.State == "missing" || run.State == "gap" || begun && size.Floor(run.From) > end {
			found = append(found, fmt.Sprintf("timeline %s, before %s: %s %s .. %s", run.Timeline, run.To, run.State, run.First, run.Last))
		}
		ends[run.Timeline] = max(end, run.To)
	}
	return found
}
