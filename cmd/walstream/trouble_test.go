package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
)

// damage is something that happens to the archive after the restore was
// planned and before PostgreSQL has replayed it, and how it is mended.
type damage struct {
	name       string
	do, repair func(t *testing.T, archive, segment string)
}

func move(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func flip(t *testing.T, name string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// PostgreSQL takes a restore_command that fails in the wrong way for the end
// of WAL, and promotes. Whatever happens to the archive while it replays, it
// must stop instead, and complete once the archive is mended.
func TestTroubleDuringReplayNeverPromotes(t *testing.T) {
	t.Setenv("WALSTREAM_RESTORE_RETRY", "1s")
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	r := w.receive("--create-slot")
	w.must("backup", "--checkpoint", "fast")
	ws := write(t, w.primary, 2)
	for range 4 {
		ws.atLeast(t, 50)
		w.archived()
	}
	ws.stop()
	w.archived()
	r.stop()

	segments, err := filepath.Glob(filepath.Join(w.archive, "wal", "00000001", "*.zst"))
	if err != nil || len(segments) < 4 {
		t.Fatalf("%d segments in the archive: %v", len(segments), err)
	}
	middle := segments[len(segments)-2]

	for _, d := range []damage{
		{"archive gone",
			func(t *testing.T, archive, _ string) { move(t, archive, archive+".away") },
			func(t *testing.T, archive, _ string) { move(t, archive+".away", archive) }},
		{"segment gone",
			func(t *testing.T, _, seg string) { move(t, seg, seg+".away") },
			func(t *testing.T, _, seg string) { move(t, seg+".away", seg) }},
		{"segment damaged",
			func(t *testing.T, _, seg string) { flip(t, seg) },
			func(t *testing.T, _, seg string) { flip(t, seg) }},
		{"segment cut",
			func(t *testing.T, _, seg string) {
				b, _ := os.ReadFile(seg)
				move(t, seg, seg+".away")
				os.WriteFile(seg, b[:len(b)/2], 0o644)
			},
			func(t *testing.T, _, seg string) { move(t, seg+".away", seg) }},
		{"segment swapped with another",
			func(t *testing.T, _, seg string) {
				move(t, seg, seg+".away")
				b, _ := os.ReadFile(segments[0])
				os.WriteFile(seg, b, 0o644)
			},
			func(t *testing.T, _, seg string) { move(t, seg+".away", seg) }},
	} {
		t.Run(d.name, func(t *testing.T) {
			dir := filepath.Join(w.dir, strings.ReplaceAll(d.name, " ", "-"))
			w.must("restore", dir)
			d.do(t, w.archive, middle)
			c := testkit.Adopt(t, dir)
			c.Launch()
			<-c.Exited()
			if log := c.Log(); strings.Contains(log, "selected new timeline") || strings.Contains(log, "accept connections\n") && strings.Contains(log, "archive recovery complete") {
				t.Errorf("it promoted:\n%s", log)
			}
			d.repair(t, w.archive, middle)
			c = w.startRestored(dir)
			if lost := ws.lost(t, c); len(lost) > 0 {
				t.Errorf("after the repair %d of %d commits are missing", len(lost), ws.count())
			}
			c.Stop(2)
		})
	}

	t.Run("hole found beforehand", func(t *testing.T) {
		move(t, middle, middle+".away")
		defer move(t, middle+".away", middle)
		dir := filepath.Join(w.dir, "hole")
		_, stderr, code := w.run("restore", dir)
		if code != 4 || !strings.Contains(stderr, strings.TrimSuffix(filepath.Base(middle), ".zst")) || exists(dir) {
			t.Errorf("exit code %d, want 4 naming the segment, nothing written:\n%s", code, stderr)
		}
	})
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

// A second receiver, a foreign cluster and a wrong directory are refused
// before anything is changed.
func TestRefusals(t *testing.T) {
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	w.receive("--create-slot")
	w.must("backup", "--checkpoint", "fast")

	t.Run("second receiver on the spool", func(t *testing.T) {
		_, stderr, code := w.run("receive")
		if code != 5 || !strings.Contains(stderr, w.spool) {
			t.Errorf("exit code %d, want 5 naming the spool:\n%s", code, stderr)
		}
	})
	t.Run("directory not empty", func(t *testing.T) {
		dir := testkit.Dir(t)
		if err := os.WriteFile(filepath.Join(dir, "precious"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		_, stderr, code := w.run("restore", dir)
		if code != 1 || !strings.Contains(stderr, dir) || !strings.Contains(stderr, "hint:") {
			t.Errorf("exit code %d:\n%s", code, stderr)
		}
		if left, _ := os.ReadDir(dir); len(left) != 1 {
			t.Errorf("something was written: %v", left)
		}
	})
	t.Run("foreign cluster", func(t *testing.T) {
		other := *w
		other.primary = testkit.Start(t, testkit.Config{SegmentSizeMB: 1})
		other.spool = filepath.Join(w.dir, "other-spool")
		for _, args := range [][]string{{"receive", "--create-slot"}, {"backup"}} {
			_, stderr, code := other.run(args...)
			if code != 1 && code != 2 || !strings.Contains(stderr, "another cluster") || !strings.Contains(stderr, "hint:") {
				t.Errorf("%v: exit code %d:\n%s", args, code, stderr)
			}
		}
	})
}
