package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/recovery"
)

// ruins is an archive with two timelines, two backups on the first, and
// transactions around everything that can be missing.
type ruins struct {
	*world
	early, middle, late, forked step
	backups                     []string
	hole                        string // the name of a segment between the backups
	fork                        string // that of the one in which timeline 2 begins
	dir                         string // to restore into
}

func newRuins(t *testing.T) *ruins {
	r := &ruins{world: newWorld(t, testkit.Config{SegmentSizeMB: 1})}
	r.dir = filepath.Join(r.world.dir, "restored")
	recv := r.receive("--create-slot")
	r.early = r.history(2)[0] // and one more, which the backup has and that time has not
	backup := func() { r.must("backup", "--checkpoint", "fast") }
	backup()
	r.must("mark", "known")
	r.archived()
	r.middle = r.history(2)[0]
	r.hole = r.primary.Psql(t, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
	r.archived()
	backup()
	r.late = r.history(2)[0]
	r.archived()
	recv.stop()
	c := r.restore(filepath.Join(r.world.dir, "forked"), "--target-lsn", r.late.lsn, "--target-action", "promote")
	r.primary.Stop(2)
	r.primary = c
	recv = r.receive("--create-slot")
	r.forked = r.history(2)[0]
	r.primary.Psql(t, "SELECT pg_switch_wal()")
	testkit.Wait(t, "WAL of timeline 2", func() (bool, string) {
		names, err := filepath.Glob(filepath.Join(r.archive, "wal", "00000002", "*.zst"))
		return len(names) > 0, fmt.Sprint(err)
	})
	recv.stop()
	r.spool = filepath.Join(r.world.dir, "none") // the archive alone counts
	var list struct{ Backups []backupView }
	for _, b := range decode(t, r.must("list", "--json"), &list).Backups {
		r.backups = append(r.backups, b.ID)
	}
	return r
}

// object is the path of a segment in the archive.
func (r *ruins) object(name string) string {
	return filepath.Join(r.archive, "wal", name[:8], name+".zst")
}

// to is a restore with these flags.
func (r *ruins) to(flags ...string) string {
	return quoted(append([]string{"walstream", "restore", r.dir}, flags...)...)
}

// restored pastes a restore, and removes what there is then.
func (r *ruins) restored(w *world, text string) {
	w.t.Helper()
	out, errs, code := w.shell(text)
	made, err := filepath.Glob(r.dir + "*/PG_VERSION")
	if start := fmt.Sprintf("start it with PostgreSQL %d:  ", w.primary.Major); err != nil || len(made) != 1 || code != 0 || !strings.Contains(out, start) {
		w.t.Errorf("pasted %s: restored %v, exit code %d\n%s%s", text, made, code, out, errs)
	}
	r.clear(w)
}

func (r *ruins) clear(w *world) {
	for _, suffix := range []string{"", "-2"} {
		if err := errors.Join(os.RemoveAll(r.dir+suffix), os.RemoveAll(recovery.SideDir(r.dir+suffix))); err != nil {
			w.t.Fatal(err)
		}
	}
}

// without makes a row of a file that is not there.
func without(path string) (do, mend func(*world)) {
	return func(w *world) { move(w.t, path, path+".away") }, func(w *world) { move(w.t, path+".away", path) }
}

func (b bad) when(do, mend func(*world)) bad {
	b.do, b.mend = do, mend
	return b
}

// failing is not refused by the planner.
func (b bad) failing(paste func(*world, string)) bad {
	b.code, b.paste = 1, paste
	return b
}

// at restores into another directory.
func (b bad) at(dir string) bad {
	b.line = quoted("walstream", "restore", dir, "--dry-run")
	return b
}

// flipping makes a row of a file with one wrong bit.
func flipping(path string, off int) (do, mend func(*world)) {
	f := func(w *world) { flip(w.t, path, off) }
	return f, f
}

// cutting makes a row of a file without its last byte.
func cutting(path string) (do, mend func(*world)) {
	var body []byte
	write := func(w *world, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	do = func(w *world) {
		var err error
		if body, err = os.ReadFile(path); err != nil {
			w.t.Fatal(err)
		}
		write(w, body[:len(body)-1])
	}
	return do, func(w *world) { write(w, body) }
}

// What can be wrong with a target, with the place to restore to, and with the
// archive.
func TestBadRestore(t *testing.T) {
	t.Parallel()
	r := newRuins(t)
	seg := r.object(r.hole)
	glob := func(pattern ...string) string { // the first
		names, err := filepath.Glob(filepath.Join(append([]string{r.archive}, pattern...)...))
		if err != nil || len(names) == 0 {
			t.Fatalf("%v: %v", pattern, err)
		}
		return names[0]
	}
	r.fork = strings.TrimSuffix(filepath.Base(glob("wal", "00000002", "*.zst")), ".zst")
	data := glob("backup", r.backups[1], "data", "*")
	first := glob("backup", r.backups[0], "data", "*")
	manifest := filepath.Join(r.archive, "backup", r.backups[1], "backup_manifest")
	commit := glob("backups", "*-"+r.backups[1]+".json")
	history := filepath.Join(r.archive, "wal", "00000002.history")
	places := []string{r.dir, recovery.SideDir(r.dir)}
	// A refusal of a dry run hints at a dry run, which is quicker.
	refused := func(name, want, hint string, flags ...string) bad {
		return bad{name: name, line: r.to(append(flags, "--dry-run")...), code: 4, want: want, hint: hint, paste: (*world).sh, once: true, keeps: places}
	}
	really := func(b bad) bad {
		b.line, b.paste = strings.TrimSuffix(b.line, " --dry-run"), r.restored
		return b
	}
	// What cannot be seen beforehand leaves a restore that is not finished.
	halfway := func(name, want string) bad {
		return bad{name: name, line: r.to("--target-immediate", "--backup", r.backups[1]), code: 1, want: want, hint: "remove what was restored so far and begin anew: ", paste: (*world).sh}
	}
	failed := func(b bad) bad {
		b.code = 1
		return b
	}
	occupied := func(name, want, file string) bad {
		b := refused(name, want, "restore deletes nothing; into a directory that is absent or empty: ", "--target-name", "known")
		b.do = func(w *world) {
			testkit.Run(w.t, "sh", "-c", quoted("mkdir", r.dir)+" && "+quoted("touch", filepath.Join(r.dir, file)))
		}
		b.mend = r.clear
		return failed(b)
	}

	unlisted := refused("commit object damaged", r.backups[1]+".json is unusable: ", "there are ", "--backup", r.backups[1]).when(flipping(commit, 20))
	unlisted.paste = func(w *world, text string) { // which lists it as a problem
		if _, errs, code := w.shell(text); code != 3 {
			w.t.Errorf("pasted %s: exit code %d\n%s", text, code, errs)
		}
	}

	interrupted := bad{name: "interrupted", line: r.to("--target-name", "known"), code: 1, want: "an earlier restore, of backup " + r.backups[1] + " to the end of the backup, was interrupted there", hint: "go on with it: ", paste: r.restored, once: true}
	interrupted.do = func(w *world) {
		flip(w.t, data, 100000)
		w.shell(r.to("--target-immediate", "--backup", r.backups[1]))
		flip(w.t, data, 100000)
	}

	r.catalogue("Restore", []bad{
		unlisted,
		refused("time before the first backup", "cannot be reached: it lies before backup "+r.backups[0], "earliest point of this backup: ", "--target-time", r.early.time),
		refused("LSN before the first backup", "LSN 0/100028 cannot be reached: it lies before backup "+r.backups[0], "earliest point of this backup: ", "--target-lsn", "0/100028"),
		refused("xid before the first backup", "transaction "+r.early.xid+" cannot be reached: ", "all there is", "--target-xid", r.early.xid),
		really(refused("time after the last commit", "no transaction in the archive finished later", "up to the last commit or abort: ", "--target-time", "2099-01-01 00:00:00+00")),
		refused("LSN after the end", "LSN FF/0 cannot be reached: the last record starts at ", "all there is", "--target-lsn", "FF/0"),
		refused("unknown xid", "transaction 4000000 cannot be reached: it neither committed nor aborted", "all there is", "--target-xid", "4000000"),
		refused("unknown restore point", "there is no restore point of that name", "known, of ", "--target-name", "nobody made this"),
		refused("unknown timeline", "there is no timeline 7", "there are 1, 2; where they begin: ", "--target-timeline", "7"),
		refused("unknown backup", "there is no backup 20010101T000000Z", "there are ", "--backup", "20010101T000000Z"),
		refused("in a hole", "segment "+r.hole+" is missing", "last point before it", "--target-xid", r.middle.xid).when(without(seg)),
		refused("in a hole, to go on behind it", "segment "+r.hole+" is missing", "first point after it: ", "--target-xid", r.middle.xid).when(without(seg)),
		refused("beyond a hole", "segment "+r.hole+" is missing", "last point before it", "--target-lsn", r.forked.lsn, "--backup", r.backups[0]).when(without(seg)),
		refused("missing segment of the fork", "segment "+r.fork+", in which timeline 2 begins, is missing", "to stay on the timeline before: ").when(without(r.object(r.fork))),
		refused("missing history", "the history of timeline 2 is missing", "00000002.history is in pg_wal").when(without(history)),
		refused("missing history of a named timeline", "the history of timeline 2 is missing", "00000002.history is in pg_wal", "--target-timeline", "2").when(without(history)),
		refused("history damaged", "wal/00000002.history is damaged", "00000002.history is in pg_wal").when(flipping(history, 3)),
		refused("header damaged", "segment "+r.hole+" is damaged", "last point before it", "--backup", r.backups[0]).when(flipping(seg, 40)),
		really(refused("part missing", "backup "+r.backups[1]+" is unusable: backup/"+r.backups[1]+"/data/"+filepath.Base(data)+" is missing", "with another backup: ", "--target-lsn", r.late.lsn)).when(without(data)),
		refused("part cut short", " bytes, not ", "with another backup: ", "--backup", r.backups[1], "--target-immediate").when(cutting(data)),
		refused("manifest missing", "backup_manifest is missing", "with another backup: ", "--target-time", r.late.time).when(without(manifest)),
		refused("manifest damaged", "backup_manifest is damaged", "with another backup: ").when(flipping(manifest, 100)),
		refused("part missing of the only backup", "backup "+r.backups[0]+" is unusable: ", "no other backup leads there; ", "--target-name", "known").when(without(first)),
		occupied("directory not empty", r.dir+" is not empty: it holds precious", "precious"),
		failed(refused("server there", r.primary.DataDir+" holds postmaster.pid: a server runs there or crashed", "restore deletes nothing; into a directory that is absent or empty: ")).at(r.primary.DataDir),
		refused("programs missing", fmt.Sprintf("PostgreSQL %d is needed, and its programs are not found", r.primary.Major), "say where they are: ", "--wait", "--pg-bin", "/nowhere").failing(flags(r.to("--wait", "--dry-run"))),
		interrupted,
		halfway("part damaged", "backup/"+r.backups[1]+"/data/"+filepath.Base(data)).when(flipping(data, 100000)),
	})
	r.clear(r.world)
	r.settings()
	r.upkeep()
	r.walGet()
}
