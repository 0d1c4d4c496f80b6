package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/walstream/walstream/internal/testkit"
)

// copied starts a primary whose archive_command copies to a directory, with a
// base backup, and returns the directory; the server is stopped.
func copied(t *testing.T, segments int) (f *foreign, dir, base string) {
	t.Helper()
	dir = filepath.Join(testkit.Dir(t), "wal")
	f = &foreign{world: newWorld(t, testkit.Config{SegmentSizeMB: 1, Settings: []string{
		"archive_mode = on", "archive_command = 'cp %p " + dir + "/%f'"}})}
	testkit.Run(t, "mkdir", dir)
	f.primary.Psql(t, "CREATE TABLE imported (n int)")
	f.insert(2)
	base = basebackup(t, f.primary, filepath.Join(f.dir, "base"), "-Ft", "-z")
	f.insert(segments)
	last := f.primary.Psql(t, "SELECT pg_walfile_name(pg_switch_wal() - 1)")
	testkit.Wait(t, "archive_command", func() (bool, string) {
		done := f.primary.Psql(t, "SELECT last_archived_wal >= '"+last+"' FROM pg_stat_archiver")
		return done == "t", done
	})
	return f, dir, base
}

// What is not good is named and left out, the rest is imported; good copies
// complete it. Import runs killed in the middle do no harm.
func TestImportTrouble(t *testing.T) {
	f, dir, base := copied(t, 12)
	all, err := filepath.Glob(filepath.Join(dir, strings.Repeat("?", 24)))
	if err != nil || len(all) < 14 {
		t.Fatalf("%d segments, %v", len(all), err)
	}
	slices.Sort(all)
	damaged, lost := all[len(all)-4], all[len(all)-7]
	good, err := os.ReadFile(damaged)
	if err != nil {
		t.Fatal(err)
	}
	hidden := lost + ".away"
	if err := os.Rename(lost, hidden); err != nil {
		t.Fatal(err)
	}
	flip := slices.Clone(good)
	flip[9000] ^= 1
	if err := os.WriteFile(damaged, flip, 0o644); err != nil {
		t.Fatal(err)
	}
	before := tree(t, dir)

	for i := range 6 { // kill -9 ever later
		cmd := f.command("import", dir, "--backup", base)
		cmd.Env = append(cmd.Env, "TMPDIR="+f.dir) // kill -9 leaves its copies of WAL there
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(20*(1+i*i)) * time.Millisecond)
		cmd.Process.Kill()
		cmd.Wait()
	}
	got := f.imports(3, dir, "--backup", base)
	if len(got.Failed) != 2 || got.Failed[0].Path != hidden || got.Failed[1].Path != damaged || !strings.Contains(got.Failed[1].Error, "no valid WAL at") {
		t.Errorf("not imported: %+v, want %s and %s", got.Failed, hidden, damaged)
	}
	want := []string{filepath.Base(lost), filepath.Base(damaged)}
	if len(got.Holes) != 2 || got.Holes[0].First != want[0] || got.Holes[1].Last != want[1] || len(got.Backups) != 1 {
		t.Errorf("holes %v, want %v; backups %v", got.Holes, want, got.Backups)
	}
	if got.Segments.Stored+got.Segments.Had < len(all)-2 {
		t.Errorf("segments %+v of %d files", got.Segments, len(all))
	}
	if tree(t, dir) != before {
		t.Error("import changed the directory that it reads")
	}
	text, errs, code := f.run("import", dir)
	for _, part := range []string{"not imported: " + damaged + ": no valid WAL", "missing: " + want[0] + " .. " + want[0] + " (1 segment)", "segments   0 new"} {
		if !strings.Contains(text, part) {
			t.Errorf("import prints\n%s\nwithout %q", text, part)
		}
	}
	if code != 3 || !strings.Contains(errs, "hint: ") {
		t.Errorf("exit code %d, stderr %s", code, errs)
	}
	out, _, code := f.run("restore", filepath.Join(f.dir, "beyond"), "--target-lsn", f.primary.Psql(t, "SELECT pg_current_wal_flush_lsn()"), "-n")
	if code != 4 {
		t.Errorf("a restore beyond the hole: exit code %d\n%s", code, out)
	}

	if err := os.WriteFile(damaged, good, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(hidden, lost); err != nil {
		t.Fatal(err)
	}
	got = f.imports(0, dir, "--backup", base)
	if got.Segments.Stored != 2 || !got.Backups[0].Had {
		t.Errorf("after the repair: %+v", got)
	}
	if rows := f.restored("all"); rows != fmt.Sprintf("%d %d", f.rows, f.rows) {
		t.Errorf("highest and number of rows %s, want %d", rows, f.rows)
	}
}

// newImporter is f's machine with another archive.
func newImporter(f *foreign, name string) *world {
	w := *f.world
	w.archive = filepath.Join(f.dir, name)
	return &w
}

// Backups that do not agree with their manifest, or have none, are refused
// with what to do, and leave nothing behind; archives of other clusters too.
func TestImportRefuses(t *testing.T) {
	f, dir, base := copied(t, 1)
	tarred := filepath.Join(base, "base.tar.gz")
	plain := basebackup(t, f.primary, filepath.Join(f.dir, "plain"), "-Fp")
	f.insert(1)
	bare := basebackup(t, f.primary, filepath.Join(f.dir, "bare"), "-Ft", "--no-manifest")

	for what, c := range map[string]struct {
		spoil func() (backup string)
		want  string
	}{
		"cut off": {func() string {
			if err := os.Truncate(tarred, 1<<20); err != nil {
				t.Fatal(err)
			}
			return base
		}, "base.tar.gz: unexpected EOF"},
		"changed file": {func() string {
			if err := os.WriteFile(filepath.Join(plain, "pg_hba.conf"), []byte("local all all trust\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			return plain
		}, "pg_hba.conf"},
	} {
		got := f.imports(3, dir, "--backup", c.spoil())
		if len(got.Backups) > 0 || len(got.Failed) != 1 || !strings.Contains(got.Failed[0].Error, c.want) {
			t.Errorf("%s: %+v", what, got)
		}
		if left := tree(t, filepath.Join(f.archive, "backup")) + tree(t, filepath.Join(f.archive, "backups")); left != "" {
			t.Errorf("%s: left behind: %.200s", what, left)
		}
	}
	// A backup alone can follow its WAL, not come before it.
	late := basebackup(t, f.primary, filepath.Join(f.dir, "late"), "-Ft", "-X", "none")
	last := f.primary.Psql(t, "SELECT pg_walfile_name(pg_switch_wal() - 1)")
	testkit.Wait(t, "archive_command", func() (bool, string) {
		done := f.primary.Psql(t, "SELECT last_archived_wal >= '"+last+"' FROM pg_stat_archiver")
		return done == "t", done
	})
	if _, errs, code := newImporter(f, "fresh").run("import", late); code != 1 || !strings.Contains(errs, "nothing to import") {
		t.Errorf("a backup without any WAL: exit code %d\n%s", code, errs)
	}
	f.imports(0, dir)
	if got := f.imports(0, late); len(got.Backups) != 1 || got.Backups[0].Had {
		t.Errorf("a backup behind its WAL: %+v", got)
	}
	committed := tree(t, f.archive)
	_, errs, code := f.run("import", dir, "--backup", bare)
	if code != 1 || !strings.Contains(errs, "no backup_manifest") || !strings.Contains(errs, "hint: take a new one: walstream backup") {
		t.Errorf("without a manifest: exit code %d\n%s", code, errs)
	}
	if _, errs, code := f.run("import", dir, "--backup", dir); code != 2 || !strings.Contains(errs, "holds no base backup") {
		t.Errorf("no backup: exit code %d\n%s", code, errs)
	}
	if _, errs, code := f.run("import", f.dir+"/nowhere"); code != 1 || !strings.Contains(errs, "no such file") {
		t.Errorf("no directory: exit code %d\n%s", code, errs)
	}

	other, away, _ := copied(t, 1)
	before := committed
	if _, errs, code := f.run("import", away); code != 1 || !strings.Contains(errs, "belongs to another cluster") || !strings.Contains(errs, "hint: ") {
		t.Errorf("another cluster's WAL: exit code %d\n%s", code, errs)
	}
	other.archive = filepath.Join(other.dir, "wrong")
	if _, errs, code := other.run("import", away, "-d", f.primary.Conninfo()); code != 1 || !strings.Contains(errs, "another cluster") || exists(other.archive) {
		t.Errorf("with -d of another server: exit code %d\n%s", code, errs)
	}
	if tree(t, f.archive) != before {
		t.Error("the archive was changed")
	}
	f.primary.Stop(syscall.SIGINT)
}
