package main

import (
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/segment"
)

// damage is something that happens while PostgreSQL replays, and how it is
// mended.
type damage struct {
	name       string
	at         string // the file that PostgreSQL asks for then; empty: one in the middle
	do, repair func(t *testing.T)
}

func move(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func flip(t *testing.T, name string, off int) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[off%len(b)] ^= 1
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// gone is a damage: names are not there.
func gone(what, at string, names ...string) damage {
	each := func(from, to string) func(*testing.T) {
		return func(t *testing.T) {
			for _, name := range names {
				move(t, name+from, name+to)
			}
		}
	}
	return damage{what + " gone", at, each("", ".away"), each(".away", "")}
}

// replaced is a damage: name has other contents.
func (p *replay) replaced(what, at, name string, contents func() []byte) damage {
	d := gone("", at, name)
	return damage{what, at, func(t *testing.T) {
		body := contents()
		d.do(t)
		p.write(name, string(body), 0o755)
	}, d.repair}
}

// closed is a damage: name cannot be opened by who runs PostgreSQL.
func closed(what, name string) damage {
	mode := func(m os.FileMode) func(*testing.T) {
		return func(t *testing.T) {
			if err := os.Chmod(name, m); err != nil {
				t.Fatal(err)
			}
		}
	}
	return damage{what + " not accessible", "", mode(0), mode(0o755)}
}

func flipped(what, at, name string, off int) damage {
	f := func(t *testing.T) { flip(t, name, off) }
	return damage{what + " damaged", at, f, f}
}

func (p *replay) damages(t *testing.T) []damage {
	const history = "00000002.history"
	side := p.dir + ".walstream"
	program := p.program + ".real"
	seg := p.inArchive(p.middle)
	read := func(name string) []byte {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	script := func(text string) func() []byte { return func() []byte { return []byte("#!/bin/sh\n" + text + "\n") } }
	unmounted := gone("", "", p.archive)
	alien := p.identity()
	alien.SystemIdentifier++
	cousin := p.middle
	cousin.Timeline = 1
	return []damage{
		gone("archive", "", p.archive),
		{"archive not mounted", "",
			func(t *testing.T) { unmounted.do(t); testkit.Run(t, "mkdir", p.archive) },
			func(t *testing.T) { testkit.Run(t, "rmdir", p.archive); unmounted.repair(t) }},
		gone("archive, when the server looks for a free timeline,", "00000003.history", p.archive),
		gone("identity of the archive", "", p.archive+"/walstream.json"),
		closed("directory of the timeline", p.segments),
		gone("segment", "", seg),
		closed("segment", seg),
		flipped("segment", "", seg, -1+len(read(seg))/2),
		flipped("header", "", seg, 40),
		p.replaced("segment cut", "", seg, func() []byte { b := read(seg); return b[:len(b)/2] }),
		p.replaced("segment swapped with another", "", seg, func() []byte {
			return read(p.inArchive(segment.ID{Timeline: 2, No: p.middle.No - 1}))
		}),
		p.replaced("segment of another cluster", "", seg, func() []byte { return p.object(t, alien, p.middle) }),
		p.replaced("segment of another timeline", "", seg, func() []byte { return p.object(t, p.identity(), cousin) }),
		gone("history", history, p.archive+"/wal/"+history, side+"/"+history),
		p.replaced("history damaged", history, p.archive+"/wal/"+history, func() []byte { return []byte("1\t0/") }),
		p.replaced("history empty", history, p.archive+"/wal/"+history, func() []byte { return nil }),
		gone("plan", "", side+"/plan.json"),
		p.replaced("plan cut", "", side+"/plan.json", func() []byte { b := read(side + "/plan.json"); return b[:len(b)/2] }),
		gone("identity beside the plan", "", side+"/walstream.json"),
		gone("all that was beside the data directory", "", side),
		gone("copy of the spool's segment", "", p.copied()),
		flipped("copy of the spool's segment", "", p.copied(), 9000),
		closed("configuration file", p.config),
		p.replaced("configuration file damaged", "", p.config, func() []byte { return []byte("archive: [") }),
		gone("program", "", program),
		closed("program", program),
		p.replaced("program killed", "", program, script("kill -9 $$")),
		p.replaced("program crashed", "", program, script("exit 2")),
		closed("pg_wal", p.dir+"/pg_wal"),
	}
}

// PostgreSQL takes a restore_command that fails in the wrong way for the end
// of WAL, and promotes. Whatever happens while it replays, it must stop
// instead, and complete once that is mended.
func TestTroubleDuringReplayNeverPromotes(t *testing.T) {
	t.Parallel()
	p := newReplay(t)
	stops := func(t *testing.T, d damage, restored string) {
		c := p.to(t, cmp.Or(d.at, p.middle.Name(mib)), restored)
		d.do(t)
		p.open()
		select {
		case <-c.Exited():
		case <-time.After(time.Minute):
			t.Errorf("it goes on:\n%s", c.Log())
			c.Stop(syscall.SIGQUIT)
		}
		d.repair(t)
		if p.promoted() || strings.Contains(c.Log(), "archive recovery complete") {
			t.Fatalf("it promoted:\n%s", c.Log())
		}
		c = testkit.Adopt(t, p.dir)
		c.Start()
		p.complete(t, c)
	}
	for i, d := range p.damages(t) {
		withTarget := i%3 == 0
		if *full || !withTarget {
			t.Run(d.name, func(t *testing.T) { stops(t, d, "end") })
		}
		if *full || withTarget {
			t.Run(d.name+", with a target", func(t *testing.T) { stops(t, d, "target") })
		}
	}

	t.Run("hole found beforehand", func(t *testing.T) {
		d := gone("", "", p.inArchive(p.middle))
		d.do(t)
		defer d.repair(t)
		dir := filepath.Join(p.world.dir, "hole")
		_, stderr, code := p.run("restore", dir)
		if code != 4 || !strings.Contains(stderr, p.middle.Name(mib)) || exists(dir) {
			t.Errorf("exit code %d, want 4 naming the segment, nothing written:\n%s", code, stderr)
		}
	})
	for name, d := range map[string]damage{
		"archive away for a moment": gone("", "", p.archive),
		"segment comes late":        gone("", "", p.inArchive(p.middle)),
		"disk full for a moment": {"", "",
			func(t *testing.T) {
				if err := os.Symlink("/dev/full", p.dir+"/pg_wal/RECOVERYXLOG.walstream"); err != nil {
					t.Fatal(err)
				}
			},
			func(*testing.T) {}}, // wal-get has removed it
	} {
		t.Run(name, func(t *testing.T) {
			c := p.to(t, p.middle.Name(mib), "end", patient)
			d.do(t)
			p.open()
			testkit.Wait(t, "wal-get to retry", func() (bool, string) {
				return strings.Contains(c.Log(), "cannot get WAL yet"), c.Log()
			})
			d.repair(t)
			p.complete(t, c)
		})
	}
	t.Run("archive slow", func(t *testing.T) {
		slow := gone("", "", p.program+".real")
		c := p.to(t, p.middle.Name(mib), "end")
		slow.do(t)
		p.write(p.program+".real", "#!/bin/sh\nsleep 1\nexec $0.away \"$@\"\n", 0o755)
		p.open()
		p.complete(t, c)
		slow.repair(t)
	})
	p.throughServer(t)
}

// Spool and archive on one file system that is not mounted look like first use.
// The slot tells that they are not: WAL before it is in an archive already, and
// what came into another one now would be missing there.
func TestNothingMounted(t *testing.T) {
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	r := w.receive("--create-slot")
	w.archived()
	r.stop()
	slot := w.must("slot", "show", "--json")

	w.archive, w.spool = filepath.Join(w.dir, "mnt", "archive"), filepath.Join(w.dir, "mnt", "spool")
	for _, mountPoint := range []string{filepath.Dir(w.archive), w.archive} {
		if err := errors.Join(os.Mkdir(mountPoint, 0o755), os.Chmod(mountPoint, 0o777)); err != nil {
			t.Fatal(err)
		}
		w.primary.Psql(t, "SELECT pg_switch_wal()")
		_, stderr, code := w.run("receive", "--create-slot", "--once-until", w.primary.Psql(t, "SELECT pg_switch_wal()"))
		if code != 1 || !strings.Contains(stderr, "mounted?") || !strings.Contains(stderr, "walstream slot drop") {
			t.Errorf("exit code %d:\n%s", code, stderr)
		}
		if exists(filepath.Join(w.archive, "walstream.json")) || exists(w.spool) {
			t.Error("an archive or a spool was made")
		}
	}
	if now := w.must("slot", "show", "--json"); now != slot {
		t.Errorf("the slot has moved: %s, was %s", now, slot)
	}
	w.must("slot", "drop") // all is lost indeed
	w.receive("--create-slot")
}
