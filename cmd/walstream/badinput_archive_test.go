package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/wal"
)

// disk is a file system of its own, of a few MiB.
type disk struct{ dir, ballast string }

func newDisk(t *testing.T, size string) *disk {
	t.Helper()
	d := &disk{dir: testkit.Dir(t)}
	d.ballast = filepath.Join(d.dir, "ballast")
	if err := unix.Mount("none", d.dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatalf("mount a small tmpfs, which the tests of full disks need: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(d.dir, unix.MNT_DETACH) })
	testkit.Own(t, d.dir)
	return d
}

// fill leaves no byte.
func (d *disk) fill(t *testing.T) {
	t.Helper()
	f, err := os.Create(d.ballast)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for page := make([]byte, 4096); err == nil; {
		_, err = f.Write(page)
	}
}

func (d *disk) free(t *testing.T) {
	t.Helper()
	if err := os.Remove(d.ballast); err != nil {
		t.Fatal(err)
	}
}

// What can be wrong with the directories before anything runs.
func TestBadDirectories(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	w.must("receive", "--create-slot", "--once-until", w.primary.Psql(t, "SELECT pg_switch_wal()"))
	other := testkit.Start(t, testkit.Config{SegmentSizeMB: 1})
	small := newDisk(t, "8m")
	at := func(name string) string { return filepath.Join(w.dir, name) }
	receive := func(args ...string) string {
		return quoted(append([]string{"walstream", "receive", "--create-slot", "--once-until", "0/1000"}, args...)...)
	}
	// Nothing is there yet, not even a slot.
	fresh := func(slot, archive, spool string) string {
		return receive("--slot", slot, "--archive", archive, "--spool", spool)
	}
	alien := func(args ...string) string { return receive(append(args, "-d", other.Conninfo())...) }
	away := func(dir string) (do, mend func(*world)) {
		return func(w *world) { move(w.t, dir, dir+".away") }, func(w *world) { move(w.t, dir+".away", dir) }
	}
	moved, back := away(w.archive)
	lost, found := away(filepath.Join(w.archive, "walstream.json"))
	nameless, named := away(filepath.Join(w.spool, "walstream.json"))
	fill := func(w *world) { small.fill(w.t) }
	free := func(w *world) { small.free(w.t) }
	mkdir := func(dir string, mode string) func(*world) {
		return func(w *world) { testkit.Run(w.t, "mkdir", "-m", mode, dir) }
	}

	var r *receiving

	w.catalogue("The archive and the spool", []bad{
		{name: "archive of another cluster", line: alien("--spool", at("alien-spool")), code: 1, keeps: []string{at("alien-spool")},
			want: "archive " + w.archive + " belongs to another cluster", hint: "give each cluster an archive of its own: ",
			paste: flags(alien("--spool", at("alien-spool"))), once: true},
		{name: "spool of another cluster", line: alien("--archive", at("alien")), code: 1, keeps: []string{at("alien")},
			want: "spool " + w.spool + " belongs to another cluster", hint: "give each cluster a spool and an archive of its own: ",
			paste: flags(alien("--archive", at("alien"))), once: true},
		{name: "backup of another cluster", line: quoted("walstream", "backup", "-d", other.Conninfo()), code: 1,
			want: "archive " + w.archive + " belongs to another cluster", once: true},
		{name: "mark in another cluster", line: quoted("walstream", "mark", "here", "-d", other.Conninfo()), code: 1,
			want: "belongs to another cluster", once: true},
		{name: "archive away", do: moved, line: "walstream list", code: 1,
			want: "open archive directory " + w.archive + ": ", hint: "is it the right place, and mounted? ", paste: (*world).sh, mend: back},
		{name: "archive not mounted", do: lost, line: "walstream list", code: 1,
			want: "open archive " + w.archive + ": no archive there", hint: "is it the right place, and mounted? ", paste: (*world).sh, mend: found},
		{name: "first use", line: quoted("walstream", "list", "--archive", at("fresh"), "--spool", at("fresh-spool"), "--slot", "fresh"), code: 1,
			want: at("fresh"), hint: "if there is none yet: ", paste: func(w *world, text string) { w.sh(text + " --once-until 0/1000") }},
		{name: "archive not writable", do: mkdir(at("closed"), "500"), line: fresh("closed", at("closed"), at("s1")), code: 1,
			want: "permission denied", paste: (*world).sh, keeps: []string{at("closed"), at("s1")}},
		{name: "spool not writable", do: mkdir(at("closed-spool"), "500"), line: fresh("closed_spool", at("a2"), at("closed-spool")), code: 1,
			want: "spool " + at("closed-spool"), paste: (*world).sh, keeps: []string{at("closed-spool")}},
		{name: "archive full", do: fill, line: fresh("full", small.dir+"/archive", at("s3")), code: 1,
			want: "no space left on device", hint: "make room for the archive: ", paste: (*world).sh, mend: free, keeps: []string{at("s3")}},
		{name: "spool full", do: fill, line: fresh("full_spool", at("a4"), small.dir+"/spool"), code: 1,
			want: "no space left on device", hint: "make room for the spool: ", paste: (*world).sh, mend: free},
		{name: "spool read-only", do: func(w *world) { small.remount(w.t, unix.MS_RDONLY) }, line: fresh("full_spool", at("a4"), small.dir+"/spool"), code: 1,
			want: "spool " + small.dir + "/spool", hint: "why may nothing be written there? ", paste: (*world).sh,
			mend: func(w *world) { small.remount(w.t, 0) }, keeps: []string{at("a4"), small.dir}},
		{name: "spool locked", do: func(w *world) { r = w.launch("-d", "host="+at("nowhere")); r.said("not streaming") }, line: receive(), code: 5,
			want: "spool lock " + w.spool + "/lock is held by another process", hint: "what that one is doing: ",
			paste: func(w *world, text string) {
				if out, errs, code := w.shell(text); code != 3 || !strings.Contains(out, "state     waiting for ") {
					w.t.Errorf("pasted %s: exit code %d\n%s%s", text, code, out, errs)
				}
			}, mend: func(*world) { r.stop() }},
		{name: "spool without its identity", do: nameless, line: receive(), code: 1,
			want: "spool " + w.spool, hint: "give an empty directory: ", paste: flags(receive()), mend: named},
	})
}

// What happens to directories while WAL is streamed stops no commit, and
// nothing is lost when it is over.
func TestBadDirectoriesWhileStreaming(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	small, local := newDisk(t, "24m"), newDisk(t, "16m")
	w.archive, w.spool = filepath.Join(small.dir, "archive"), filepath.Join(local.dir, "spool")
	r := w.receive("--create-slot")
	for _, d := range []struct {
		name     string
		do, mend func()
		says     string
	}{
		{"gone", func() { move(t, w.archive, w.archive+".away") }, func() { move(t, w.archive+".away", w.archive) }, "is not there any more"},
		{"full", func() { small.fill(t) }, func() { small.free(t) }, "no space left on device"},
		{"read-only", func() { small.remount(t, unix.MS_RDONLY) }, func() { small.remount(t, 0) }, "read-only file system"},
	} {
		t.Run("archive "+d.name, func(t *testing.T) {
			d.do()
			w.primary.Psql(t, "CREATE TABLE IF NOT EXISTS t (i int); INSERT INTO t SELECT generate_series(1, 20000)")
			want, err := wal.ParseLSN(w.primary.Psql(t, "SELECT pg_switch_wal()"))
			if err != nil {
				t.Fatal(err)
			}
			testkit.Wait(t, "status to tell", func() (bool, string) {
				out, errs, code := w.run("status")
				return code == 3 && strings.Contains(out, "PROBLEM") && strings.Contains(out, d.says), out + errs
			})
			d.mend()
			testkit.Wait(t, "the archive to have "+want.String(), func() (bool, string) {
				out, _, code := w.run("status", "--json")
				var s statusView
				return decode(t, out, &s).ArchivedLSN >= want && code == 0, out
			})
		})
	}
	t.Run("spool full", func(t *testing.T) { w.in(t).fillSpool(r, local) })
}

// A spool in which nothing can be made any more ends the receiver, and each new
// one says why, until somebody pastes the hint. Commits wait for that and no
// longer.
func TestSpoolNotWritable(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	disk := newDisk(t, "16m")
	w.spool = filepath.Join(disk.dir, "spool")
	r := w.receive("--create-slot")
	w.archived()
	if err := os.Chmod(w.spool, 0o500); err != nil {
		t.Fatal(err)
	}
	ended := func(cause, hint string) {
		t.Helper()
		<-r.done
		if code, log := r.cmd.ProcessState.ExitCode(), r.output(); code != 1 || !strings.Contains(log, cause) || !strings.Contains(log, "hint: "+hint) {
			t.Errorf("exit code %d:\n%s", code, log)
		}
	}
	committed := make(chan error, 1)
	go func() {
		_, err := w.primary.Query("CREATE TABLE t AS SELECT generate_series(1, 100000) i")
		committed <- err
	}()
	mode := "chmod -R u+rwX " + w.spool
	ended("permission denied", "sudo chown -R ")
	before := snapshot(t, w.archive)
	r = w.launch()
	ended("permission denied", "sudo chown -R ")
	if log := r.output(); !strings.Contains(log, " && "+mode) {
		t.Errorf("no %s in:\n%s", mode, log)
	}
	disk.remount(t, unix.MS_RDONLY)
	r = w.launch()
	ended("read-only file system", "why may nothing be written there? findmnt -T "+w.spool)
	if changed := changes(before, snapshot(t, w.archive)); len(changed) > 0 {
		t.Errorf("changed in the archive: %v", changed)
	}
	select {
	case err := <-committed:
		t.Errorf("the commit did not wait: %v", err)
	default:
	}
	disk.remount(t, 0)
	w.sh(mode)
	w.receive()
	if err := <-committed; err != nil {
		t.Error(err)
	}
	w.archived()
	if list := w.must("list", "wal"); strings.Contains(list, "missing") || strings.Contains(list, "gap") {
		t.Errorf("list wal:\n%s", list)
	}
}

// fillSpool leaves the receiver no room: commits wait and status tells, until
// there is room.
func (w *world) fillSpool(r *receiving, local *disk) {
	w.t.Helper()
	move(w.t, w.archive, w.archive+".away") // or it would make room
	local.fill(w.t)
	for range 3 {
		w.primary.Psql(w.t, "SET synchronous_commit = local; INSERT INTO t SELECT generate_series(1, 20000)")
	}
	testkit.Wait(w.t, "status to tell", func() (bool, string) {
		out, errs, code := w.run("status")
		return code == 3 && strings.Contains(out, "no space left on device"), out + errs
	})
	committed := make(chan error, 1)
	go func() {
		_, err := w.primary.Query("INSERT INTO t VALUES (-1)")
		committed <- err
	}()
	testkit.Wait(w.t, "the commit to wait", func() (bool, string) {
		waits := w.primary.Psql(w.t, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
		return waits == "1", waits
	})
	local.free(w.t)
	move(w.t, w.archive+".away", w.archive)
	if err := <-committed; err != nil {
		w.t.Error(err)
	}
	w.archived()
	r.stop()
}

func (d *disk) remount(t *testing.T, flags uintptr) {
	t.Helper()
	if err := unix.Mount("none", d.dir, "tmpfs", unix.MS_REMOUNT|flags, ""); err != nil {
		t.Fatal(err)
	}
}
