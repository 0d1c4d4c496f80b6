package main

import (
	"bytes"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/walstream/walstream/internal/crashpoint"
	"github.com/walstream/walstream/internal/testkit"
)

var (
	crashRounds = flag.Int("rounds", 1, "times that TestCrashPoints kills at each point")
	crashKills  = flag.Int("kills", 8, "kills from outside in each of these rounds")
)

// The life of a cluster, in which walstream is killed at each of its crash
// points and at random moments besides, under load, and always goes on. Twice
// in it the primary is destroyed, and each time every acknowledged commit is
// in what is restored.
func TestCrashPoints(t *testing.T) {
	t.Parallel()
	count := newKillCount()
	for range *crashRounds {
		newCrashes(t, count).life()
	}
	t.Logf("kills:\n%s", count.table())
	for _, name := range crashpoint.Names() {
		if count.at[name] < *crashRounds {
			t.Errorf("%s was hit %d times, want %d", name, count.at[name], *crashRounds)
		}
	}
}

func (c *crashes) life() {
	for _, name := range []crashpoint.Name{crashpoint.ArchivePinned, crashpoint.SpoolPinned, crashpoint.SlotReserved} {
		c.killAt(name, 1, "receive", "--create-slot") // each once in an archive's life
	}
	r := c.receive()
	ws := write(c.t, c.primary, 4)
	dry := c.flood()
	c.backups()
	r.kill()
	c.streaming()
	for within := false; !within; within = c.withinSegment() {
		r = c.launch()
		ws.atLeast(c.t, 100)
		r.kill()
	}
	dry()
	c.crash()
	ws.stop()

	c.walGets()
	c.primary = c.restores(ws)
	for _, name := range []crashpoint.Name{
		crashpoint.TimelineHistorySaved, crashpoint.TimelineRemainderMade, crashpoint.UploadHistoryPut,
	} {
		c.killAt(name, 1, "receive", "--create-slot")
	}
	r = c.receive("--create-slot")
	next := write(c.t, c.primary, 4)
	next.inherit(ws)
	next.atLeast(c.t, 200)
	c.archived()
	next.atLeast(c.t, 20)
	r.stop()
	c.crash()
	next.stop()
	c.cleanArchive()
	c.cleanSpool()
	c.spool = filepath.Join(c.dir, "none") // the archive alone has it all
	c.rescue("rescued", next).Stop(syscall.SIGQUIT)
}

// backups is killed backups, of which none counts but the one that was killed
// when it was complete.
func (c *crashes) backups() {
	c.t.Helper()
	backups := func() int {
		var list struct{ Backups []backupView }
		return len(decode(c.t, c.must("list", "backups", "--json"), &list).Backups)
	}
	for _, name := range points("backup-") {
		c.killAt(name, 1, "backup", "--checkpoint", "fast")
		if got := backups(); (got == 1) != (name == crashpoint.BackupCommitted) || got > 1 {
			c.t.Errorf("killed at %s: there are %d backups", name, got)
		}
	}
	c.must("backup", "--checkpoint", "fast")
	if got := backups(); got != 2 {
		c.t.Errorf("there are %d backups, want 2", got)
	}
}

// streaming is kills of a receiver under load: at all points that it passes
// again and again, and from outside, in any order.
func (c *crashes) streaming() {
	c.t.Helper()
	kills := []func(){}
	for _, name := range points("spool-", "ack-", "seal-", "upload-", "tail-", "store-", "state-", "slot-") {
		n := 1 + rand.IntN(3)
		switch name {
		case crashpoint.SpoolPinned, crashpoint.SlotReserved, crashpoint.UploadHistoryPut:
			continue // not now
		case crashpoint.StateSwapped:
			n = 1 // it is passed once a minute
		case crashpoint.SpoolWritten, crashpoint.SpoolSynced, crashpoint.AckSent:
			n = 1 + rand.IntN(50)
		case crashpoint.StoreConfirmed:
			kills = append(kills, func() { // a segment is there, and the spool does not know
				c.killAt(crashpoint.UploadPut, 1, "receive")
				c.killAt(name, 1, "receive")
			})
			continue
		}
		kills = append(kills, func() { c.killAt(name, n, "receive") })
	}
	for range *crashKills {
		kills = append(kills, c.killOutside)
	}
	rand.Shuffle(len(kills), func(i, j int) { kills[i], kills[j] = kills[j], kills[i] })
	for _, kill := range kills {
		kill()
	}
}

// walGets is killed restore_commands, which never leave a part of a segment
// where PostgreSQL looks for a whole one.
func (c *crashes) walGets() {
	c.t.Helper()
	var list struct{ WAL []walRun }
	segment := decode(c.t, c.must("list", "wal", "--json"), &list).WAL[0].First
	path := filepath.Join(c.dir, "RECOVERYXLOG")
	c.must("wal-get", segment, path)
	want, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, name := range points("walget-") {
		os.Remove(path)
		c.killAt(name, 1, "wal-get", segment, path)
		for range 2 { // what is there, and what the next one makes of it
			got, err := os.ReadFile(path)
			if !(os.IsNotExist(err) && name == crashpoint.WALGetWritten) && !bytes.Equal(got, want) {
				c.t.Errorf("killed at %s: %d bytes of %s, %v", name, len(got), segment, err)
			}
			c.must("wal-get", segment, path)
			name = crashpoint.WALGetNamed
		}
	}
}

// restores is killed restores into one directory. Until pg_control has its
// name no server starts there; from then on it starts and has everything. The
// same restore goes on where the one before was killed, even if that happens
// at the next point again. What the last one made is left to go on with.
//
// A power cut leaves no more than a kill: restore fsyncs the files of each part
// when that is laid down and then every directory, before it gives pg_control its
// name, which is one rename. So a directory with that name has all else, whatever a cut
// took, and PostgreSQL does not start without it. The marker is durable before
// the first directory is made, and removed only when the name is durable. What
// an unfinished restore has laid down is read again before it is kept.
func (c *crashes) restores(ws *writers) *testkit.Cluster {
	c.t.Helper()
	dir := filepath.Join(c.dir, "restored")
	for _, name := range points("restore-") {
		c.killAt(name, 1, "restore", dir)
		if _, err := os.Stat(filepath.Join(dir, "global", "pg_control")); err != nil {
			c.dead(dir)
			continue
		}
		server := dir
		if name == crashpoint.RestoreControlNamed { // the next one has that left to make durable
			server = dir + "-copy"
			testkit.Run(c.t, "cp", "-a", dir, server)
		} else if name != crashpoint.RestoreFinished {
			continue
		}
		started := c.startRestored(server)
		if lost := ws.lost(c.t, started); len(lost) > 0 {
			c.t.Fatalf("killed at %s: %d of %d acknowledged commits lost: %v", name, len(lost), ws.count(), lost)
		}
		if _, stderr, code := c.run("restore", server); code != 1 || strings.Contains(stderr, "rm -rf") {
			c.t.Fatalf("restore where a server runs: exit code %d\n%s", code, stderr)
		}
		if name == crashpoint.RestoreFinished {
			return started
		}
		started.Stop(syscall.SIGQUIT)
	}
	c.t.Fatal("no restore was killed at its end")
	return nil
}

// points lists the crash points whose names begin with one of the prefixes.
func points(prefixes ...string) (found []crashpoint.Name) {
	for _, name := range crashpoint.Names() {
		for _, prefix := range prefixes {
			if strings.HasPrefix(string(name), prefix) {
				found = append(found, name)
			}
		}
	}
	return found
}
