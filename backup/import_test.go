package backup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/internal/testkit/memstore"
)

// found is what import sees below a directory, with its WAL imported.
func found(t *testing.T, a *archive.Archive, dir string) *Found {
	t.Helper()
	var f Found
	if err := f.Discover(dir); err != nil {
		t.Fatal(err)
	}
	temp, err := f.OpenWAL()
	defer os.RemoveAll(temp)
	if err != nil {
		t.Fatal(err)
	}
	got, err := archive.Import(t.Context(), archive.ImportConfig{Archive: a}, f.WAL)
	if err != nil || len(got.Failed) > 0 || len(f.Failed) > 0 {
		t.Fatalf("%v, not imported: %v %v", err, got, f.Failed)
	}
	return &f
}

// Backups with tablespaces, in both forms, are kept as Take would keep them:
// every part is whole, and the manifest agrees.
func TestImportTablespaces(t *testing.T) {
	c := startServer(t, false)
	space := filepath.Join(testkit.Dir(t), "space")
	testkit.Run(t, "mkdir", space)
	c.Psql(t, "CREATE TABLESPACE apart LOCATION '"+space+"'")
	c.Psql(t, "CREATE TABLE t TABLESPACE apart AS SELECT i FROM generate_series(1, 10000) i")
	oid := c.Psql(t, "SELECT oid FROM pg_tablespace WHERE spcname = 'apart'")
	for form, args := range map[string][]string{
		"tar":   {"-Ft", "-z"},
		"plain": {"-Fp", "-T", space + "=" + space + "-copy"},
	} {
		dir := filepath.Join(testkit.Dir(t), "base")
		testkit.Run(t, filepath.Join(c.Bin, "pg_basebackup"), append([]string{"-d", c.Conninfo(), "-c", "fast", "-l", "by hand", "-D", dir}, args...)...)
		begun := time.Now()
		a := pinned(t, c, memstore.New())
		f := found(t, a, dir)
		if len(f.Backups) != 1 {
			t.Fatalf("%s: backups %v", form, f.Backups)
		}
		commit, had, err := Import(t.Context(), ImportConfig{Archive: a, PartSize: 1 << 20}, f.Backups[0])
		if err != nil || had {
			t.Fatalf("%s: %v, had %v", form, err, had)
		}
		if err := checkWhole(a, commit); err != nil {
			t.Errorf("%s: %v", form, err)
		}
		location := space
		if form == "plain" {
			location += "-copy"
		}
		spaces := commit.Tablespaces
		if len(spaces) != 1 || spaces[0].Location != location || oid != fmt.Sprint(spaces[0].OID) {
			t.Errorf("%s: tablespaces %+v, want %s at %s", form, spaces, oid, location)
		}
		if age := begun.Sub(commit.Started); age < 0 || age > time.Minute || commit.Label != "by hand" || commit.ServerVersion != "15" || len(commit.Parts) < 4 {
			t.Errorf("%s: %+v", form, commit)
		}
		again, had, err := Import(t.Context(), ImportConfig{Archive: a}, f.Backups[0])
		if err != nil || !had || again.ID != commit.ID {
			t.Errorf("%s again: %v, %v", form, had, err)
		}
		missing := pinned(t, c, memstore.New())
		_, _, err = Import(t.Context(), ImportConfig{Archive: missing}, f.Backups[0])
		if err == nil || !strings.Contains(err.Error(), "which the backup needs") || len(hint.Of(err)) == 0 {
			t.Errorf("%s without its WAL: %v", form, err)
		}
		checkNothing(t, missing.Store())
	}
}

func TestParseLabel(t *testing.T) {
	const body = "START WAL LOCATION: 1/2000028 (file 000000030000000100000002)\nCHECKPOINT LOCATION: 1/2000060\nBACKUP METHOD: streamed\n" +
		"BACKUP FROM: standby\nSTART TIME: 2026-11-22 06:30:04 IST\nLABEL: pg_basebackup: base\nSTART TIMELINE: 3\n"
	got, err := parseLabel(body)
	want := label{start: position{0x102000028, 3}, started: "2026-11-22 06:30:04 IST", name: "pg_basebackup: base", fromStandby: true}
	if err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for _, gone := range []string{"START WAL LOCATION", "START TIMELINE", "START TIME:"} {
		if got, err := parseLabel(strings.Replace(body, gone, "X", 1)); err == nil {
			t.Errorf("without %s: %+v", gone, got)
		}
	}
	for _, bad := range []string{"START TIMELINE: x\n", "START WAL LOCATION: 5\n"} {
		if got, err := parseLabel(bad + body); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
	if _, err := parseLabel(body + "INCREMENTAL FROM LSN: 1/28\n"); err == nil || !strings.Contains(strings.Join(hint.Of(err), ""), "pg_combinebackup") {
		t.Errorf("incremental: %v", err)
	}
}

// The label's clock is in a zone that its abbreviation does not tell.
func TestLabelTime(t *testing.T) {
	written := time.Date(2026, 11, 22, 1, 0, 5, 0, time.UTC)
	for started, want := range map[string]time.Time{
		"2026-11-22 06:30:04 IST":   written.Add(-time.Second), // India
		"2026-11-22 03:00:04 IST":   written.Add(-time.Second), // Israel
		"2026-11-21 20:00:03 EST":   written.Add(-2 * time.Second),
		"2026-11-22 01:00:04 UTC":   written.Add(-time.Second),
		"2026-11-22 06:45:04 +0545": written.Add(-time.Second),
		"2026-11-21 23:00:00 GMT":   written.Add(-2*time.Hour - 5*time.Second), // written last, after two hours
	} {
		if got, err := (label{started: started}).time(written); err != nil || !got.Equal(want) {
			t.Errorf("%s: %s, %v; want %s", started, got, err, want)
		}
	}
	if got, err := (label{started: "yesterday"}).time(written); err == nil {
		t.Errorf("yesterday is %s", got)
	}
}

func TestParseTablespaceMap(t *testing.T) {
	got, err := ParseTablespaceMap("16384 /a b\n16385 /c\\\\d\\\ne\n")
	want := []Tablespace{{16384, "/a b"}, {16385, "/c\\d\ne"}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for _, bad := range []string{"16384 /a", "x /a\n", "16384\n", "99999999999 /a\n"} {
		if got, err := ParseTablespaceMap(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

// What looks like a backup but cannot be one is named; the rest is found.
func TestDiscover(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{
		"000000010000000000000001", "000000010000000000000002.xz", "old/00000002.history", "notes.txt",
		"tar/base.tar.gz", "tar/backup_manifest", "tar/000000010000000000000003.gz", "bare/base.tar", "bare/000000010000000000000004",
		"plain/PG_VERSION", "plain/backup_manifest", "plain/pg_wal/000000010000000000000005", "cluster/PG_VERSION",
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("x"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	var f Found
	if err := f.Discover(dir); err != nil {
		t.Fatal(err)
	}
	var names []string
	add := func(kind, path string) {
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, kind+" "+rel)
	}
	for _, w := range f.WAL {
		add("wal", w.Path)
	}
	for _, b := range f.Backups {
		add("backup", b.Dir)
	}
	for _, e := range f.Failed {
		add("failed", e.Path)
		if len(hint.Of(e)) == 0 {
			t.Errorf("no hint: %v", e)
		}
	}
	slices.Sort(names)
	want := []string{
		"backup plain", "backup tar", "failed 000000010000000000000002.xz", "failed bare", "failed cluster",
		"wal 000000010000000000000001", "wal old/00000002.history", "wal tar/000000010000000000000003.gz",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
	if err := f.Discover(filepath.Join(dir, "nowhere")); err == nil {
		t.Error("no error for a directory that is not there")
	}
}
