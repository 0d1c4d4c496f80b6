package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
)

// foreign is a primary whose WAL other programs archive.
type foreign struct {
	*world
	dirs map[string]string // by the way that the WAL got there
	stop []func()
	rows int
}

// archivedElsewhere starts a primary with 1 MiB segments, with an
// archive_command and a pg_receivewal for each kind of compression beside it.
func archivedElsewhere(t *testing.T) *foreign {
	t.Helper()
	shared := testkit.Dir(t)
	f := &foreign{dirs: map[string]string{}}
	for _, name := range []string{"cp", "zstd", "plain", "gzip", "lz4"} {
		f.dirs[name] = filepath.Join(shared, name)
		if err := os.Mkdir(f.dirs[name], 0o755); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Own(t, shared)
	f.world = newWorld(t, testkit.Config{SegmentSizeMB: 1, Settings: []string{
		"archive_mode = on", "wal_keep_size = 1GB",
		fmt.Sprintf("archive_command = 'cp %%p %s/%%f && zstd -q %%p -o %s/%%f.zst'", f.dirs["cp"], f.dirs["zstd"]),
	}})
	for name, args := range map[string][]string{"plain": nil, "gzip": {"--compress=gzip:1"}, "lz4": {"--compress=lz4"}} {
		f.stream(f.dirs[name], args...)
	}
	f.primary.Psql(t, "CREATE TABLE imported (n int)")
	return f
}

// stream starts a pg_receivewal into dir. It ends as kill -9 ends it.
func (f *foreign) stream(dir string, args ...string) {
	f.t.Helper()
	slot := "s_" + filepath.Base(dir)
	prog := filepath.Join(f.primary.Bin, "pg_receivewal")
	conn := []string{"-d", f.primary.Conninfo(), "-S", slot}
	testkit.Run(f.t, prog, append(conn, "--create-slot")...)
	cmd := testkit.Command(f.t, prog, append(append(conn, "-D", dir, "--synchronous", "-n"), args...)...)
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	end := func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	f.t.Cleanup(end)
	f.stop = append(f.stop, end)
}

// insert commits rows, a segment for each.
func (f *foreign) insert(n int) {
	for range n {
		f.rows++
		f.primary.Psql(f.t, fmt.Sprintf("INSERT INTO imported VALUES (%d)", f.rows))
		f.primary.Psql(f.t, "SELECT pg_switch_wal()")
	}
}

// settle waits until all archives have the segment before the current one, and
// the streams all that was flushed.
func (f *foreign) settle() {
	f.t.Helper()
	last := f.primary.Psql(f.t, "SELECT pg_walfile_name(pg_switch_wal())")
	f.primary.Psql(f.t, fmt.Sprintf("INSERT INTO imported VALUES (%d)", f.rows+1))
	f.rows++
	flushed := f.primary.Psql(f.t, "SELECT pg_current_wal_flush_lsn()")
	testkit.Wait(f.t, "the other programs to archive "+last, func() (bool, string) {
		done := f.primary.Psql(f.t, "SELECT last_archived_wal >= '"+last+"' FROM pg_stat_archiver")
		behind := f.primary.Psql(f.t, "SELECT count(*) FROM pg_stat_replication WHERE flush_lsn >= '"+flushed+"'")
		return done == "t" && behind == "3", done + " " + behind
	})
}

// end stops the other programs.
func (f *foreign) end() {
	f.primary.Psql(f.t, "ALTER SYSTEM SET archive_command = 'false'")
	f.primary.Reload()
	for _, stop := range f.stop {
		stop()
	}
}

// restored is the highest row after a restore to the end and how many there
// are.
func (f *foreign) restored(name string, args ...string) string {
	f.t.Helper()
	dir := filepath.Join(f.dir, "restored-"+name)
	c := f.restore(dir, args...)
	rows := c.Psql(f.t, "SELECT max(n) || ' ' || count(*) FROM imported")
	c.Stop(syscall.SIGINT)
	return rows
}

type importResult struct {
	DryRun                     bool `json:"dry_run"`
	Segments, Tails, Histories struct{ Stored, Had int }
	Needless                   int
	Backups                    []struct {
		ID, From string
		Had      bool
	}
	Failed []struct {
		Path, Error string
		Hints       []string
	}
	Holes []struct{ First, Last string }
}

// imports runs import and expects the exit code.
func (w *world) imports(code int, args ...string) *importResult {
	w.t.Helper()
	out, errs, got := w.run(append([]string{"import", "--json"}, args...)...)
	if got != code {
		w.t.Fatalf("import %v: exit code %d, want %d\n%s%s", args, got, code, out, errs)
	}
	return decode(w.t, out, &importResult{})
}

func basebackup(t *testing.T, c *testkit.Cluster, dir string, args ...string) string {
	t.Helper()
	testkit.Run(t, filepath.Join(c.Bin, "pg_basebackup"), append([]string{"-d", c.Conninfo(), "-c", "fast", "-D", dir}, args...)...)
	return dir
}

// Archives that pg_receivewal and archive_command made, plain and compressed,
// with base backups in every form, become archives of walstream: restores end
// where they end, receive goes on behind them without a hole.
func TestImport(t *testing.T) {
	t.Parallel()
	f := archivedElsewhere(t)
	f.insert(3)
	backups := map[string]string{}
	for name, args := range map[string][]string{
		"cp":    {"-Fp"},
		"zstd":  {"-Ft", "-X", "fetch", "--manifest-checksums=SHA256"},
		"plain": {"-Ft", "-z"},
		"gzip":  {"-Fp", "-X", "none", "-R"},
		"lz4":   {"-Ft", "-X", "none", "--compress=client-lz4", "-R"},
	} {
		backups[name] = basebackup(t, f.primary, filepath.Join(f.dir, "base-"+name), args...)
		f.insert(1)
	}
	f.insert(3)
	f.settle()
	atEnd := f.rows
	f.receiveFirst("gzip") // the other order

	for name, dir := range f.dirs {
		f.archive, f.spool = filepath.Join(f.dir, "archive-"+name), filepath.Join(f.dir, "spool-"+name)
		there := exists(f.archive)
		dry := f.imports(0, dir, "--backup", backups[name], "--dry-run")
		if exists(f.archive) != there {
			t.Errorf("%s: the dry run made an archive", name)
		}
		got := f.imports(0, dir, "--backup", backups[name], "-d", f.primary.Conninfo())
		if got.Segments.Stored+got.Segments.Had < 12 || got.Segments != dry.Segments || len(got.Backups) != 1 || got.Tails != dry.Tails || !dry.DryRun || got.DryRun {
			t.Errorf("%s: imported %+v, in the dry run %+v", name, got, dry)
		}
		want := atEnd
		switch name {
		case "cp", "zstd": // an archive_command has no unfinished segment
			want--
		case "gzip":
			want++
		}
		if rows := f.restored(name, "--backup", got.Backups[0].ID); rows != fmt.Sprintf("%d %d", want, want) {
			t.Errorf("%s: highest and number of rows %s, want %d", name, rows, want)
		}
		again := f.imports(0, dir, "--backup", backups[name])
		if again.Segments.Stored+again.Tails.Stored != 0 || again.Segments.Had != got.Segments.Stored+got.Segments.Had || !again.Backups[0].Had {
			t.Errorf("%s: the second import %+v, the first %+v", name, again, got)
		}

		if name != "cp" && name != "lz4" {
			continue
		}
		r := f.receive("--create-slot", "--slot", "ws_"+name)
		f.insert(2)
		f.archived()
		r.stop()
		if holes := f.imports(0, dir).Holes; len(holes) > 0 {
			t.Errorf("%s: holes %v", name, holes)
		}
		if rows := f.restored(name + "-on"); rows != fmt.Sprintf("%d %d", f.rows, f.rows) {
			t.Errorf("%s: after receive went on, highest and number of rows %s, want %d", name, rows, f.rows)
		}
		f.reset()
	}
}

// receiveFirst makes an archive of its own for name. The other programs stop
// once walstream receives.
func (f *foreign) receiveFirst(name string) {
	f.t.Helper()
	f.archive, f.spool = filepath.Join(f.dir, "archive-"+name), filepath.Join(f.dir, "spool-"+name)
	r := f.receive("--create-slot", "--slot", "ws_first")
	f.end()
	f.rows++
	f.primary.Psql(f.t, fmt.Sprintf("INSERT INTO imported VALUES (%d)", f.rows))
	r.stop()
	f.reset()
}

// reset lets commits go on without walstream.
func (f *foreign) reset() {
	f.primary.Psql(f.t, "ALTER SYSTEM RESET synchronous_standby_names")
	f.primary.Psql(f.t, "SELECT pg_reload_conf()")
}

// tree is the names and contents below a directory.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		body, err := os.ReadFile(path)
		fmt.Fprintf(&b, "%s %x\n", path, body)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return b.String()
}

// A backup of plain files with a tablespace has links, not a map of them: it
// comes back all the same.
func TestImportedTablespaceIsRestored(t *testing.T) {
	f, dir, _ := copied(t, 1)
	space := filepath.Join(testkit.Dir(t), "space")
	testkit.Run(t, "mkdir", space)
	f.primary.Psql(t, "CREATE TABLESPACE apart LOCATION '"+space+"'")
	f.primary.Psql(t, "CREATE TABLE t TABLESPACE apart AS SELECT i FROM generate_series(1, 1000) i")
	base := basebackup(t, f.primary, filepath.Join(f.dir, "plain"), "-Fp", "-T", space+"="+space+"-copy")
	if got := f.imports(0, dir, "--backup", base); len(got.Backups) != 1 {
		t.Fatalf("%+v", got)
	}
	f.primary.Stop(syscall.SIGINT)
	restored := filepath.Join(f.dir, "restored")
	c := f.restore(restored, "--tablespace-map", space+"-copy="+space+"-restored")
	if rows := c.Psql(t, "SELECT count(*) FROM t"); rows != "1000" {
		t.Errorf("%s rows in the tablespace", rows)
	}
	if at := c.Psql(t, "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'apart'"); at != space+"-restored" {
		t.Errorf("the tablespace is at %s", at)
	}
}
