//go:build chaos

package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/wal"
)

// fault is something that goes wrong. It is over, or mends itself, when do
// returns; the promise is that nobody has to help.
type fault struct {
	name   string
	weight int // how often, in relation to the others
	do     func(*chaosRound)
}

// faults are what can happen between two times of good health.
func faults(ack string) []fault {
	list := []fault{
		{"kill -9 of walstream", 2, func(r *chaosRound) { r.service.signal(syscall.SIGKILL) }},
		{"SIGSTOP of walstream", 2, (*chaosRound).pauseReceiver},
		{"crash point", 4, (*chaosRound).crashPoint},
		{"power loss of the receiver", 4, (*chaosRound).powerLoss},
		{"spool deleted", 2, (*chaosRound).deleteSpool},
		{"spool deleted behind the archive", 4, (*chaosRound).deleteSpoolBehind},
		{"fsync of the spool fails", 2, (*chaosRound).failSync},
		{"spool's disk full", 2, (*chaosRound).fillDisk},
		{"spool at its limit", 1, (*chaosRound).fillSpool},
		{"clock jump", 1, (*chaosRound).jump},
		{"kill -9 of the postmaster", 2, func(r *chaosRound) { r.restart(syscall.SIGKILL) }},
		{"fast restart", 1, func(r *chaosRound) { r.restart(syscall.SIGINT) }},
		{"immediate restart", 1, func(r *chaosRound) { r.restart(syscall.SIGQUIT) }},
		{"network cut", 2, (*chaosRound).cut},
		{"network delay", 1, (*chaosRound).delay},
		{"half-open connection", 2, (*chaosRound).halfOpen},
		{"promotion", 4, (*chaosRound).promote},
	}
	if ack == "spool" {
		return list
	}
	// What needs commits while the archive is away cannot happen then.
	list = slices.DeleteFunc(list, func(f fault) bool {
		return f.name == "spool deleted behind the archive" || f.name == "spool at its limit"
	})
	for _, w := range weathers("spool") {
		if strings.HasPrefix(w.name, "archive") {
			list = append(list, fault{w.name, w.weight, func(r *chaosRound) {
				w.do(r)
				time.Sleep(r.between(200*time.Millisecond, 4*time.Second))
			}})
		}
	}
	return list
}

// weathers are what can be wrong meanwhile, and during the end of a round.
func weathers(ack string) []fault {
	list := []fault{
		{"", 4, func(*chaosRound) {}},
		{"archive unwritable", 2, (*chaosRound).archiveReadOnly},
		{"archive unreadable", 2, (*chaosRound).archiveDenied},
		{"archive full", 1, func(r *chaosRound) {
			r.inject(fsx.Fault{Path: r.archive, Kinds: []fsx.OpKind{fsx.OpCreate, fsx.OpWrite, fsx.OpMkdir}, Errno: syscall.ENOSPC})
		}},
		{"archive slow", 2, func(r *chaosRound) {
			r.inject(fsx.Fault{Path: r.archive, Delay: r.between(50*time.Millisecond, 500*time.Millisecond)})
		}},
		{"spool slow", 3, (*chaosRound).spoolSlow},
	}
	if ack == "archive" { // with which no commit gets on
		list = slices.DeleteFunc(list, func(f fault) bool { return strings.HasPrefix(f.name, "archive") })
	}
	return list
}

// pick chooses by weight.
func pick(rnd *rand.Rand, from []fault) fault {
	sum := 0
	for _, f := range from {
		sum += f.weight
	}
	n := rnd.IntN(sum)
	for _, f := range from {
		if n -= f.weight; n < 0 {
			return f
		}
	}
	return from[0]
}

func (r *chaosRound) between(from, to time.Duration) time.Duration {
	return from + time.Duration(r.rnd.Int64N(int64(to-from)))
}

// inject makes the receiver's operations on files fail or wait from now on.
func (r *chaosRound) inject(faults ...fsx.Fault) {
	r.t.Helper()
	body, err := json.Marshal(faults)
	name := filepath.Join(r.journals, "faults")
	if err == nil {
		err = os.WriteFile(name+".new", body, 0o644)
	}
	if err == nil {
		err = os.Rename(name+".new", name)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// clear ends the weather.
func (r *chaosRound) clear() {
	r.t.Helper()
	r.inject()
	r.chmodArchive(0o750, true)
}

func (r *chaosRound) spoolSlow() {
	r.t.Helper()
	r.inject(fsx.Fault{Path: r.spool, Kinds: []fsx.OpKind{fsx.OpSync, fsx.OpDatasync}, Delay: r.between(5*time.Millisecond, 60*time.Millisecond)})
}

func (r *chaosRound) archiveDenied()   { r.chmodArchive(0, false) }
func (r *chaosRound) archiveReadOnly() { r.chmodArchive(0o550, true) }

// chmodArchive changes the mode of the archive's directory, or of all below.
func (r *chaosRound) chmodArchive(mode os.FileMode, all bool) {
	r.t.Helper()
	r.archiveMu.Lock()
	defer r.archiveMu.Unlock()
	r.archiveMode = mode
	err := os.Chmod(r.archive, mode)
	if all {
		// The archive may be read-only, but it is not at rest.
		err = filepath.WalkDir(r.archive, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				err = os.Chmod(path, mode)
			}
			if os.IsNotExist(err) {
				return nil
			}
			return err
		})
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *chaosRound) pauseReceiver() {
	r.service.signal(syscall.SIGSTOP)
	time.Sleep(r.between(200*time.Millisecond, 6*time.Second))
	r.service.signal(syscall.SIGCONT)
}

// powerLoss takes the power from the receiver: of its disk only what was
// fsynced is left, and by chance some of what was not.
func (r *chaosRound) powerLoss() {
	r.t.Helper()
	r.service.stop(syscall.SIGKILL)
	r.losePower(r.survivors())
	r.service.up()
}

// survivors decides what of the unsynced bytes and names a power loss leaves,
// nil is nothing.
func (r *chaosRound) survivors() *rand.Rand {
	if r.rnd.IntN(2) == 0 {
		return nil
	}
	return rand.New(rand.NewPCG(r.seed, r.rnd.Uint64()))
}

func (r *chaosRound) losePower(rnd *rand.Rand) {
	r.t.Helper()
	if r.disks[0] == r.disks[1] { // no archive that can be read, no file to lose
		r.chmodArchive(0o750, true)
	}
	if err := r.disks[0].PowerLoss(rnd); err != nil {
		r.t.Fatal(err)
	}
	for _, dir := range []string{r.spool, r.archive} {
		if exists(dir) {
			testkit.Own(r.t, dir)
		}
	}
	r.event("the receiver's disk after the power loss, %s: %v", map[bool]string{true: "nothing unsynced survived", false: "some of what was not synced survived"}[rnd == nil], r.listSpool())
}

// deleteSpool loses the receiver's disk: while it runs, or while it does not.
func (r *chaosRound) deleteSpool() {
	r.t.Helper()
	running := r.rnd.IntN(2) == 0
	if !running {
		r.service.stop(syscall.SIGKILL)
	}
	before := r.service.started()
	if err := os.RemoveAll(r.spool); err != nil {
		r.t.Logf("%v: once more", err) // the receiver made a file there at that moment
		if err := os.RemoveAll(r.spool); err != nil {
			r.t.Fatal(err)
		}
	}
	r.event("the spool is deleted, running: %v", running)
	if !running {
		r.settle()
		r.service.up()
		return
	}
	// What is acknowledged from now on goes into a file without a name, until
	// the receiver needs a new one. The slot has it all.
	testkit.Wait(r.t, "the receiver to see that its spool is gone", func() (bool, string) { return r.service.started() > before, r.service.output() })
	r.clear() // a receiver without a spool has to see the archive
	testkit.Wait(r.t, "a new spool", func() (bool, string) {
		return exists(filepath.Join(r.spool, "walstream.json")), r.service.output()
	})
}

// deleteSpoolBehind loses the receiver's disk when nothing of the newest WAL
// is archived, and the primary throws away what it needs no more.
func (r *chaosRound) deleteSpoolBehind() {
	r.t.Helper()
	r.clear()
	r.archiveReadOnly()
	for range 3 {
		r.rows(150)
		r.primary.Psql(r.t, "SELECT pg_switch_wal()")
	}
	r.primary.Psql(r.t, "CHECKPOINT")
	r.primary.Psql(r.t, "CHECKPOINT")
	r.deleteSpool()
}

// failSync lets one fsync of the spool fail: the process ends, and the next
// one streams the segment anew.
func (r *chaosRound) failSync() {
	r.t.Helper()
	before := r.service.started()
	r.clear()
	r.inject(fsx.Fault{Path: r.spool, Kinds: []fsx.OpKind{fsx.OpDatasync, fsx.OpSync}, Errno: syscall.EIO})
	testkit.Wait(r.t, "the receiver to end", func() (bool, string) { return r.service.started() > before, r.service.output() })
}

// fillSpool writes more WAL than the spool may hold while nothing is archived.
func (r *chaosRound) fillSpool() {
	r.t.Helper()
	r.clear()
	r.archiveReadOnly()
	for range 16 {
		_, _ = r.primary.Query("SELECT pg_switch_wal()")
		time.Sleep(150 * time.Millisecond)
	}
	r.event("spool: %v", r.listSpool())
}

// fillDisk lets no byte more into the spool for a while, and so lets no
// commit through.
func (r *chaosRound) fillDisk() {
	r.t.Helper()
	r.inject(fsx.Fault{Path: r.spool, Kinds: []fsx.OpKind{fsx.OpCreate, fsx.OpWrite, fsx.OpMkdir}, Errno: syscall.ENOSPC})
	time.Sleep(r.between(500*time.Millisecond, 4*time.Second))
}

// jump makes walstream's clock wrong, by up to two days, until the next jump.
func (r *chaosRound) jump() {
	r.t.Helper()
	seconds := r.rnd.Int64N(4*86400) - 2*86400
	r.event("clock: %d s", seconds)
	if err := os.WriteFile(filepath.Join(r.journals, "clock"), []byte(fmt.Sprint(seconds)), 0o644); err != nil {
		r.t.Fatal(err)
	}
	time.Sleep(r.between(0, 2*time.Second))
}

func (r *chaosRound) restart(sig syscall.Signal) {
	r.t.Helper()
	r.primary.Stop(sig)
	time.Sleep(r.between(0, time.Second))
	r.primary.Start()
}

func (r *chaosRound) cut() {
	r.wire.Set(map[string]any{"enabled": false})
	time.Sleep(r.between(50*time.Millisecond, 3*time.Second))
	r.wire.Set(map[string]any{"enabled": true})
}

func (r *chaosRound) delay() {
	ms := 20 + r.rnd.IntN(200)
	var mend []func()
	for _, stream := range []string{"upstream", "downstream"} {
		mend = append(mend, r.wire.Toxic("latency", stream, map[string]any{"latency": ms, "jitter": ms / 2}))
	}
	time.Sleep(r.between(time.Second, 3*time.Second))
	for _, f := range mend {
		f()
	}
}

// halfOpen lets a connection stand that carries nothing any more, in one
// direction or both; when it is over, it is closed.
func (r *chaosRound) halfOpen() {
	streams := [][]string{{"upstream"}, {"downstream"}, {"upstream", "downstream"}}[r.rnd.IntN(3)]
	var mend []func()
	for _, stream := range streams {
		mend = append(mend, r.wire.Toxic("timeout", stream, map[string]any{"timeout": 0}))
	}
	r.event("half-open: %v", streams)
	time.Sleep(r.between(time.Second, 6*time.Second))
	for _, f := range mend {
		f()
	}
}

// promote lets the standby take over, which lacks WAL that was acknowledged.
// The old primary is gone with its disk, so spool and archive are where the
// standby has it from. Without a standby any more it is a fast restart.
func (r *chaosRound) promote() {
	r.t.Helper()
	s := r.standby
	if s == nil {
		r.restart(syscall.SIGINT)
		return
	}
	how := []string{"streaming", "cut off", "down"}[r.rnd.IntN(3)]
	lsn, err := wal.ParseLSN(r.primary.Psql(r.t, "SELECT pg_current_wal_flush_lsn()"))
	if err != nil {
		r.t.Fatal(err)
	}
	switch how {
	case "cut off":
		s.Psql(r.t, "ALTER SYSTEM SET primary_conninfo = ''")
		s.Reload()
		s.Psql(r.t, "SELECT pg_wal_replay_pause()")
		r.rows(200)
	case "down":
		s.Stop(syscall.SIGINT)
		r.rows(200)
	}
	killed := r.rnd.IntN(3) == 0
	if killed {
		r.service.signal(syscall.SIGKILL)
	}
	r.destroyPrimary()
	if how == "down" {
		r.clear() // it answers only when it has read the archive
		s.Start()
	}
	r.event("promote a standby that was %s since about %s; receiver killed: %v", how, lsn, killed)
	s.Psql(r.t, "SELECT pg_wal_replay_resume()")
	s.Psql(r.t, "SELECT pg_promote(false)")
	time.Sleep(r.between(0, 2*time.Second))
	r.clear()
	testkit.Wait(r.t, "the promotion", func() (bool, string) {
		state, err := s.Query("SELECT pg_is_in_recovery()")
		return state == "f", fmt.Sprintf("%s %v\n%s", state, err, s.Log())
	})
	r.primary, r.standby = s, nil
	if r.second != nil { // the receiver knows of both
		r.wire = r.second
	} else {
		r.wire.point(s)
	}
	r.clients.point(s)
}

func (r *chaosRound) destroyPrimary() {
	r.t.Helper()
	r.primary.Stop(syscall.SIGKILL)
	if err := os.RemoveAll(r.primary.DataDir); err != nil {
		r.t.Fatal(err)
	}
}
