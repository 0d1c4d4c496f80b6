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

	"github.com/walstream/walstream/internal/ready"
	"github.com/walstream/walstream/internal/testkit"
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
func (p *replay) toServer(t *testing.T, file, restored string, options ...string) *testkit.Cluster {
	t.Helper()
	c := p.to(t, file, restored, append(options, prefetching)...)
	testkit.Wait(t, "a prefetched segment", func() (bool, string) {
		names, err := filepath.Glob(p.dir + "/pg_wal/walstream.prefetch/" + p.middle.Name(mib) + ".*")
		return file != p.middle.Name(mib) || len(names) == 1 && filepath.Ext(names[0]) != ".walstream", fmt.Sprint(names, err, c.Log())
	})
	return c
}

// throughServer is trouble while a server fetches segments ahead. It may hide
// trouble with what it has, never what is to be known of the rest.
func (p *replay) throughServer(t *testing.T) {
	for i, d := range p.damages(t) {
		if !*full && i > 0 {
			break
		}
		t.Run(d.name+", behind a server", func(t *testing.T) {
			c := p.toServer(t, cmp.Or(d.at, p.middle.Name(mib)), "end")
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
			c := p.toServer(t, p.middle.Name(mib), "end")
			d.do(t)
			p.open()
			p.complete(t, c)
			d.repair(t)
			p.noServers(t)
		})
	}
}
