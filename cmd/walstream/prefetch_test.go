package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/walstream/walstream/internal/ready"
	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/segment"
)

// servers are the prefetching servers of a program.
func servers(t *testing.T, program string) (pids []int) {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		line, _ := os.ReadFile(name)
		if text := string(line); strings.HasPrefix(text, program) && strings.Contains(text, ready.ServerArg) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// noServers waits until all have ended and left nothing.
func (p *replay) noServers(t *testing.T) {
	t.Helper()
	testkit.Wait(t, "the prefetching server to end", func() (bool, string) {
		pids := servers(t, p.program)
		return len(pids) == 0 && !exists(p.dir+"/pg_wal/walstream.prefetch"), fmt.Sprint(pids)
	})
}

// toServer is [replay.to] where the segment that is asked for was fetched ahead.
func (p *replay) toServer(t *testing.T, file, restored, option string) *testkit.Cluster {
	t.Helper()
	c := p.to(t, file, restored, option)
	if file == p.middle.Name(mib) {
		p.ready(t, c, p.middle)
	}
	return c
}

// ready waits until a segment has been fetched ahead.
func (p *replay) ready(t *testing.T, c *testkit.Cluster, id segment.ID) {
	t.Helper()
	testkit.Wait(t, "a prefetched segment", func() (bool, string) {
		names, err := filepath.Glob(p.dir + "/pg_wal/walstream.prefetch/" + id.Name(mib) + ".*")
		return len(names) == 1, fmt.Sprint(names, err, c.Log())
	})
}

// throughServer is trouble while a server fetches segments ahead. It may hide
// trouble with what it has, never what is to be known of the rest.
func (p *replay) throughServer(t *testing.T) {
	for i, d := range p.damages(t) {
		if !*full && i > 0 {
			break
		}
		t.Run(d.name+", behind a server", func(t *testing.T) {
			c := p.toServer(t, cmp.Or(d.at, p.middle.Name(mib)), "end", prefetching)
			d.do(t)
			p.open()
			ended := false
			testkit.Wait(t, "the end, or a stop", func() (bool, string) {
				ended = strings.Contains(c.Log(), "archive recovery complete")
				return ended || !c.Running(), c.Log()
			})
			d.repair(t)
			if !ended {
				if p.promoted() {
					t.Fatalf("it promoted:\n%s", c.Log())
				}
				c = testkit.Adopt(t, p.dir)
				c.Start()
			}
			p.complete(t, c)
			p.noServers(t)
		})
	}
	signal := func(sig syscall.Signal) func(*testing.T) {
		return func(t *testing.T) {
			pids := servers(t, p.program)
			if len(pids) != 1 {
				t.Fatalf("servers: %v", pids)
			}
			if err := syscall.Kill(pids[0], sig); err != nil {
				t.Fatal(err)
			}
		}
	}
	segment := gone("", "", p.inArchive(p.middle))
	for _, d := range []damage{
		{"segment gone that is there", "", segment.do, segment.repair},
		{"server killed", "", signal(syscall.SIGKILL), func(*testing.T) {}},
		{"server stopped", "", signal(syscall.SIGSTOP), signal(syscall.SIGCONT)},
	} {
		t.Run(d.name, func(t *testing.T) {
			c := p.toServer(t, p.middle.Name(mib), "end", "--restore-prefetch 8MiB")
			next := p.middle.Next()
			p.ready(t, c, next)
			d.do(t)
			p.open()
			p.complete(t, c)
			if n := p.started(p.middle.Name(mib)) + p.started(next.Name(mib)); n > 0 || p.started("00000003.history") == 0 {
				t.Errorf("the program was started %d times for what was ready", n)
			}
			d.repair(t)
			p.noServers(t)
		})
	}
	t.Run("all killed", func(t *testing.T) { // what is left is of an earlier start
		c := p.toServer(t, p.middle.Name(mib), "end", prefetching)
		start := recovering(p.dir)
		signal(syscall.SIGKILL)(t)
		c.Stop(syscall.SIGQUIT)
		left := fmt.Sprintf("%s/pg_wal/walstream.prefetch/%s.%d", p.dir, p.middle.Name(mib), start)
		flip(t, left, int(mib)/2)
		for time.Now().Unix() == start {
			time.Sleep(10 * time.Millisecond)
		}
		c = testkit.Adopt(t, p.dir)
		c.Start()
		p.complete(t, c)
		p.noServers(t)
	})
}
