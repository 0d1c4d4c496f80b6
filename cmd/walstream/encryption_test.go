package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
)

// newKey makes an identity file as the README says, and tells its public key.
func newKey(t *testing.T, dir, name string) (file, public string) {
	t.Helper()
	file = filepath.Join(dir, name)
	testkit.Run(t, "age-keygen", "-o", file)
	return file, strings.TrimSpace(testkit.Run(t, "age-keygen", "-y", file))
}

// seal makes what follows encrypt for these keys, and compress at a level.
func (w *world) seal(level string, public ...string) {
	w.env = append(w.env, "WALSTREAM_COMPRESSION_LEVEL="+level, "WALSTREAM_ENCRYPTION_RECIPIENTS="+strings.Join(public, ","))
}

// fails expects that a command fails as a row of docs/errors.md says.
func (w *world) fails(rows []*documented, args ...string) {
	w.t.Helper()
	w.refused(rows, w.command(args...))
}

func (w *world) refused(rows []*documented, cmd *exec.Cmd) {
	w.t.Helper()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Run(); err == nil {
		w.t.Fatalf("%s succeeds", cmd)
	}
	errs, code := stderr.String(), cmd.ProcessState.ExitCode()
	var message, hints []string
	for line := range strings.Lines(errs) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "walstream: "); ok {
			message = append(message, text)
		} else if text, ok := strings.CutPrefix(strings.TrimSpace(line), "hint: "); ok {
			hints = append(hints, text)
		}
	}
	document(w.t, rows, code, strings.Join(message, "\n"), hints)
}

// flip damages the one file of the archive that matches, at an offset, and
// returns what mends it.
func (w *world) flip(pattern string, at int) (mend func()) {
	w.t.Helper()
	found, err := filepath.Glob(filepath.Join(w.archive, pattern))
	if err != nil || len(found) != 1 {
		w.t.Fatalf("%s: %v %v", pattern, found, err)
	}
	body, err := os.ReadFile(found[0])
	if err != nil {
		w.t.Fatal(err)
	}
	write := func() {
		body[at] ^= 1
		if err := os.WriteFile(found[0], body, 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	write()
	return write
}

// The whole way with an encrypted archive, whose keys are rotated on the way.
// Only what reads needs an identity.
func TestEncryptedArchive(t *testing.T) {
	t.Parallel()
	w, errors := newWorld(t, testkit.Config{SegmentSizeMB: 1}), readErrors(t, "Encryption")
	old, oldPublic := newKey(t, w.dir, "old.key")
	young, youngPublic := newKey(t, w.dir, "young.key")
	w.seal("default", oldPublic)
	r := w.receive("--create-slot")
	w.must("backup", "--checkpoint", "fast")
	first := w.history(3)
	w.archived()
	r.stop()
	w.seal("better", youngPublic)
	r = w.receive()
	late := w.history(2)
	w.must("mark", "the end")
	w.archived()

	list := w.must("list", "wal", "--json") + w.must("list") + w.must("list", "timelines")
	if !strings.Contains(list, `"state": "complete"`) || !strings.Contains(list, "recoverable: ") {
		t.Error(list)
	}
	w.must("status")
	for _, pattern := range []string{"wal/*/*.zst", "wal/*/*.tail/*.zst", "backup/*/data/*.zst", "backup/*/backup_manifest"} {
		if found, err := filepath.Glob(filepath.Join(w.archive, pattern)); err != nil || len(found) > 0 {
			t.Errorf("not encrypted: %v %v", found, err)
		}
	}

	both := filepath.Join(w.dir, "both.key")
	testkit.Run(t, "sh", "-c", fmt.Sprintf("cat %s %s >%s", young, old, both))
	w.examined(errors, young, both)

	dir := filepath.Join(w.dir, "none")
	w.fails(errors, "restore", dir)
	w.fails(errors, "restore", dir, "--identity", young)
	w.fails(errors, "restore", dir, "--identity", filepath.Join(w.dir, "missing.key"))
	if exists(dir) {
		t.Error("a restore without the key has written something")
	}
	for _, pattern := range []string{"backup/*/data/000001.tar.zst.age", "backup/*/backup_manifest.age"} {
		mend := w.flip(pattern, 60)
		if _, errs, code := w.run("restore", dir, "--identity", both); code == 0 || !strings.Contains(errs, "damaged") {
			t.Errorf("%s is damaged: exit code %d, %s", pattern, code, errs)
		}
		mend()
		testkit.Run(t, "rm", "-rf", dir, dir+".walstream")
	}
	if os.Geteuid() == 0 { // as root, with a key that PostgreSQL will not be able to read
		body, err := os.ReadFile(both)
		if err != nil {
			t.Fatal(err)
		}
		own := filepath.Join(w.dir, "root.key")
		if err := os.WriteFile(own, body, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := w.command("restore", dir, "--identity", own)
		cmd.SysProcAttr = nil
		w.refused(errors, cmd)
	} else {
		errors = slices.DeleteFunc(errors, func(d *documented) bool { return strings.Contains(d.message, "who will run PostgreSQL") })
	}
	back := w.restore(filepath.Join(w.dir, "back"), "--identity", both, "--target-time", first[1].time)
	conf, err := os.ReadFile(filepath.Join(w.dir, "back", "postgresql.auto.conf"))
	if err != nil || !strings.Contains(string(conf), " --identity "+both+" ") || strings.Contains(string(conf), "SECRET") {
		t.Errorf("%s, %v", conf, err)
	}
	if got := back.Psql(t, "SELECT max(n) FROM steps"); got != first[1].row {
		t.Errorf("restored row %s, want %s", got, first[1].row)
	}

	w.primary.Stop(syscall.SIGINT)
	r.stop()
	end := w.restore(filepath.Join(w.dir, "end"), "--identity", both)
	if got := end.Psql(t, "SELECT max(n) FROM steps"); got != late[1].row {
		t.Errorf("restored row %s, want %s", got, late[1].row)
	}

	w.seal("fastest")
	w.fails(errors, "backup")
	r = w.launch()
	if err := <-r.done; err == nil || !strings.Contains(r.output(), "is encrypted, but there are no encryption.recipients") {
		t.Errorf("receive without recipients: %v\n%s", err, r.output())
	}
	w.seal("fastest", "age1nonsense")
	w.fails(errors, "list")
	w.seal("fastest", youngPublic)
	testkit.Run(t, "sh", "-c", "mkdir "+w.dir+"/clear; sed s/true/false/ "+w.archive+"/walstream.json >"+w.dir+"/clear/walstream.json")
	w.fails(errors, "list", "--archive", filepath.Join(w.dir, "clear"))
	for _, row := range errors {
		if !row.met {
			t.Errorf("nothing has brought about: %s", row.message)
		}
	}
}

// examined lets verify and doctor look at an archive of which the key some opens
// a part, and all everything: without one, what is not known is said, and never
// called damage.
func (w *world) examined(errors []*documented, some, all string) {
	w.t.Helper()
	if out := w.must("verify"); !strings.Contains(out, "contents of WAL and manifests are not read: the archive is encrypted") || !strings.Contains(out, "nothing is wrong") {
		w.t.Error(out)
	}
	w.fails(errors, "verify", "--full")
	w.fails(errors, "verify", "--identity", some)
	if out := w.must("verify", "--full", "--identity", all); strings.Contains(out, "note") || !strings.Contains(out, "nothing is wrong") {
		w.t.Error(out)
	}
	here, away := *w, *w // where the server is, and where not
	away.env = append(slices.Clone(w.env), "WALSTREAM_DBNAME=")
	for _, tc := range []struct {
		w     *world
		code  int
		words string
		args  []string
	}{
		{&here, 0, "a restore will", nil},
		{&here, 3, "encrypted for others", []string{"--identity", some}},
		{&here, 0, all + " reads the archive", []string{"--identity", all}},
		{&away, 3, "no identity to read it with", nil},
		{&away, 3, "identity file " + all + "x", []string{"--identity", all + "x"}},
		{&away, 0, all + " reads the archive", []string{"--identity", all}},
	} {
		states, out := tc.w.doctor(tc.code, tc.args...)
		if want := map[int]string{0: "ok", 3: "FAIL"}[tc.code]; states["encryption"] != want || !strings.Contains(out, tc.words) {
			w.t.Errorf("doctor %s: encryption is %s, want %s and %q in\n%s", tc.args, states["encryption"], want, tc.words, out)
		}
	}
}

// The same in an object store, with the WAL of an open segment in the archive.
func TestEncryptedS3(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	w.inS3()
	key, public := newKey(t, w.dir, "walstream.key")
	w.seal("fastest", public)
	r := w.receive("--create-slot")
	w.must("backup", "--checkpoint", "fast")
	last := w.history(3)[2]
	w.primary.Stop(syscall.SIGINT)
	r.stop()
	w.spool = filepath.Join(w.dir, "lost")
	c := w.restore(filepath.Join(w.dir, "back"), "--identity", key)
	if got := c.Psql(t, "SELECT max(n) FROM steps"); got != last.row {
		t.Errorf("restored row %s, want %s", got, last.row)
	}
}

// A base backup of pg_basebackup is imported into an encrypted archive, and
// then everything is taken out of it with age, zstd and tar, as FORMAT.md says;
// the same of an archive in clear. PostgreSQL starts from both.
func TestArchiveByHand(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	key, public := newKey(t, w.dir, "walstream.key")
	w.primary.Psql(t, "CREATE TABLE steps AS SELECT generate_series(1, 1000) AS n")
	source := filepath.Join(w.dir, "source")
	testkit.Run(t, filepath.Join(w.primary.Bin, "pg_basebackup"), "-d", w.primary.Conninfo(), "-c", "fast", "-X", "fetch", "-Ft", "-D", source)
	for _, archive := range []string{"clear", "sealed"} {
		w.archive = filepath.Join(w.dir, archive)
		if archive == "sealed" {
			w.seal("best", public)
		}
		if dry := w.must("import", source, "--dry-run"); exists(w.archive) {
			t.Errorf("a dry run has made the archive: %s", dry)
		}
		w.must("import", source)
		backups := decode(t, w.must("list", "--json"), &struct{ Backups []backupView }{}).Backups
		if len(backups) != 1 {
			t.Fatalf("backups %v", backups)
		}
		plain, dir := filepath.Join(w.dir, archive+"-wal"), filepath.Join(w.dir, archive+"-data")
		vars := map[string]string{"ARCHIVE": w.archive, "KEY": key, "ID": backups[0].ID, "SIZE": "1048576", "OUT": plain}
		testkit.Run(t, "sh", "-eu", "-c", recipe(t, "truncate -s", vars))
		vars["OUT"] = dir
		testkit.Run(t, "sh", "-eu", "-c", recipe(t, "tar -x", vars))
		testkit.Run(t, filepath.Join(w.primary.Bin, "pg_verifybackup"), "-n", dir)
		testkit.Run(t, "sh", "-eu", "-c", fmt.Sprintf(`echo "restore_command = 'cp %s/%%f %%p'" >>%s/postgresql.conf; touch %[2]s/recovery.signal`, plain, dir))
		if got := w.startRestored(dir).Psql(t, "SELECT count(*) FROM steps"); got != "1000" {
			t.Errorf("%s: %s rows", archive, got)
		}
	}
	w.restore(filepath.Join(w.dir, "restored"), "--identity", key)
}

// recipe is the shell block of FORMAT.md that holds marker, with variables set
// to other values than those in the text.
func recipe(t *testing.T, marker string, vars map[string]string) string {
	t.Helper()
	body, err := os.ReadFile(filepath.Join(repository, "archive", "FORMAT.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range fence.FindAllStringSubmatch(string(body), -1) {
		if script := m[1]; strings.Contains(script, marker) {
			for name, value := range vars {
				script = regexp.MustCompile("(?m)^"+name+"=.*$").ReplaceAllLiteralString(script, name+"='"+value+"'")
			}
			return script
		}
	}
	t.Fatalf("FORMAT.md has no recipe with %q", marker)
	return ""
}
