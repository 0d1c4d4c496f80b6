package main

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
)

// twin is w with a receiver of another name, and a spool of its own.
func (w *world) twin(name string, env ...string) *world {
	twin := *w
	twin.spool = filepath.Join(w.dir, "spool-"+name)
	twin.env = append([]string{"WALSTREAM_APPLICATION_NAME=" + name}, env...)
	return &twin
}

// Two receivers of one cluster share an archive, and the slot or not. Commits
// wait for either. They are killed in turn while clients commit, and once both
// follow a failover: commits go on, and the archive stays whole.
func TestTwoReceivers(t *testing.T) {
	t.Parallel()
	for _, slots := range []string{"one slot", "a slot each"} {
		t.Run(slots, func(t *testing.T) {
			f := newFailover(t)
			f.dbname = hosts(f.a, f.b)
			twins := []*world{f.twin("left"), f.twin("right")}
			if slots == "a slot each" {
				twins[1].env = append(twins[1].env, "WALSTREAM_SLOT=right")
			}
			twoReceivers(t, f, twins)
		})
	}
}

func twoReceivers(t *testing.T, f *failover, twins []*world) {
	var running, all []*receiving
	for _, twin := range twins { // both pin the archive, and make the slot, at the same time
		running = append(running, twin.launch("--create-slot"))
	}
	all = append(all, running...)
	quorum(t, f.a, all)
	f.must("backup", "--checkpoint", "fast")
	ws := write(t, f.a, 4)
	for range 6 {
		ws.atLeast(t, 100)
		i := rand.IntN(2)
		running[i].kill()
		ws.atLeast(t, 100) // the other one is enough
		running[i] = twins[i].launch()
		all = append(all, running[i])
		quorum(t, f.a, all)
	}
	f.b.CaughtUp(f.a)
	f.a.Stop(syscall.SIGKILL)
	ws.stop()
	f.b.Promote()
	f.primary = f.b
	quorum(t, f.b, all)
	next := write(t, f.b, 2)
	next.atLeast(t, 100)
	next.stop()
	for i := range twins { // each leaves the tail of one segment, of other lengths
		more := write(t, f.b, 2)
		more.atLeast(t, 50)
		more.stop()
		more.inherit(next)
		next = more
		running[i].stop()
		running[i] = twins[i].launch()
		all = append(all, running[i])
		quorum(t, f.b, all)
	}
	for _, twin := range twins {
		twin.primary = f.b
		twin.archived()
	}
	f.whole(all...)
	f.crash()
	f.rescue("rescued", next)
}

// quorum waits until both receivers count for commits on c.
func quorum(t *testing.T, c *testkit.Cluster, logs []*receiving) {
	t.Helper()
	c.Psql(t, "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (\"left\", \"right\")'")
	c.Psql(t, "SELECT pg_reload_conf()")
	testkit.Wait(t, "both receivers to be synchronous", func() (bool, string) {
		out := c.Psql(t, "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'")
		text := out
		for _, r := range logs {
			text += "\n" + r.output()
		}
		return out == "2", fmt.Sprint(text)
	})
}
