package backup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/internal/testkit"
)

// A backup taken while the cluster changes is unpacked with zstd and tar alone,
// as FORMAT.md says, judged by pg_verifybackup, and started.
func TestRestoreByHand(t *testing.T) {
	c := startServer(t, true)
	dir := testkit.Dir(t) // the archive, and all that is restored
	a := dirArchive(t, c, filepath.Join(dir, "archive"))
	archiveWAL(t, c, a)
	spaces := makeOddCluster(t, c, dir)
	stop := write(t, c)
	before, err := strconv.Atoi(c.Psql(t, "SELECT count(*) FROM written"))
	if err != nil {
		t.Fatal(err)
	}

	commit, err := Take(t.Context(), Config{
		Server: pg.Options{Conninfo: c.Conninfo()}, Archive: a, Label: "by hand", Checkpoint: Fast, PartSize: 1 << 20,
		MaxRate: 1 << 30,
	})
	if err != nil {
		t.Fatal(err)
	}
	rows := stop()
	if err := checkWhole(a, commit); err != nil {
		t.Error(err)
	}
	checkCommit(t, c, commit, spaces)

	restored := unpackPart(t, dir, commit)
	checkTree(t, c.DataDir, restored)
	unpackWAL(t, dir)
	testkit.Run(t, filepath.Join(c.Bin, "pg_verifybackup"), restored)

	moveTablespaces(t, restored, commit)
	r := testkit.Adopt(t, restored)
	r.Start()
	if got, _ := strconv.Atoi(r.Psql(t, "SELECT count(*) FROM written")); got < before || got > rows {
		t.Errorf("%d rows restored; %d were written before the backup, %d in all", got, before, rows)
	}
	for query, want := range map[string]string{
		"SELECT count(*), sum(i) FROM spaced":              "5000|12502500",
		"SELECT count(*) FROM unlogged":                    "0",
		"SELECT count(*), sum(length(filler)) FROM filled": "3000|3000000",
	} {
		if got := r.Psql(t, query); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
}

func dirArchive(t *testing.T, c *testkit.Cluster, path string) *archive.Archive {
	t.Helper()
	store, err := archive.OpenDir(archive.DirConfig{Path: path, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	return pinned(t, c, store)
}

// makeOddCluster fills the cluster with what makes backups go wrong, and
// returns the locations of its tablespaces.
func makeOddCluster(t *testing.T, c *testkit.Cluster, dir string) []string {
	t.Helper()
	var spaces []string
	for i, name := range []string{`a "space" here`, "empty"} {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		testkit.Own(t, path)
		c.Psql(t, fmt.Sprintf("CREATE TABLESPACE space%d LOCATION %s", i, pg.QuoteLiteral(path)))
		spaces = append(spaces, path)
	}
	for _, sql := range []string{
		"CREATE TABLE spaced TABLESPACE space0 AS SELECT i FROM generate_series(1, 5000) i",
		"CREATE UNLOGGED TABLE unlogged AS SELECT i FROM generate_series(1, 5000) i",
		"CREATE TABLE filled AS SELECT repeat('x', 1000) filler FROM generate_series(1, 3000)",
		"CREATE TABLE written (i serial PRIMARY KEY, filler text)",
	} {
		c.Psql(t, sql)
	}
	odd := filepath.Join(c.DataDir, "odd")
	for _, sub := range []string{"", "empty dir", "sub"} {
		if err := os.Mkdir(filepath.Join(odd, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, size := range map[string]int{
		"with space": 511, `quo"te's`: 512, "not utf8 \xff\xfe": 513, "über": 1, "back\\slash": 2, "nothing": 0,
		"line\nbreak": 3, "-dash": 4, strings.Repeat("n", 90): 5, "sub/larger than a part": 3 << 20,
	} {
		if err := os.WriteFile(filepath.Join(odd, name), bytes.Repeat([]byte("o"), size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Own(t, odd)
	return spaces
}

// write inserts rows all the time, until the function it returns is called;
// that one says how many there are.
func write(t *testing.T, c *testkit.Cluster) (stop func() int) {
	t.Helper()
	quit, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-quit:
				done <- nil
				return
			default:
			}
			if _, err := c.Query("INSERT INTO written (filler) SELECT repeat('w', 500) FROM generate_series(1, 50)"); err != nil {
				done <- err
				return
			}
		}
	}()
	testkit.Wait(t, "the writer to begin", func() (bool, string) {
		n := c.Psql(t, "SELECT count(*) FROM written")
		return n != "0", n
	})
	return func() int {
		close(quit)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		rows, err := strconv.Atoi(c.Psql(t, "SELECT count(*) FROM written"))
		if err != nil {
			t.Fatal(err)
		}
		return rows
	}
}

func checkCommit(t *testing.T, c *testkit.Cluster, commit *Commit, spaces []string) {
	t.Helper()
	var locations []string
	for _, ts := range commit.Tablespaces {
		locations = append(locations, ts.Location)
		if got := c.Psql(t, fmt.Sprintf("SELECT pg_tablespace_location(%d)", ts.OID)); got != ts.Location {
			t.Errorf("tablespace %d is at %s, the commit object has %s", ts.OID, got, ts.Location)
		}
	}
	if diff := cmp.Diff(spaces, locations); diff != "" {
		t.Errorf("tablespaces (-want +got):\n%s", diff)
	}
	if commit.Label != "by hand" || commit.ChecksumFailures || commit.FromStandby || commit.Timeline != 1 {
		t.Errorf("commit object %+v", commit)
	}
	if !strings.HasPrefix(commit.ServerVersion, fmt.Sprint(commit.MajorVersion)) || commit.Finished.Before(commit.Started) {
		t.Errorf("commit object %+v", commit)
	}
	large := 0
	for _, p := range commit.Parts {
		if p.PlainBytes > 1<<20+2*tarBlock {
			large++
			if p.Files != 1 {
				t.Errorf("%s has %d bytes and %d files", p.Name, p.PlainBytes, p.Files)
			}
		}
	}
	if large == 0 || len(commit.Parts) < 8 {
		t.Errorf("%d parts, %d of them of one large file", len(commit.Parts), large)
	}
}

// unpackPart is the recipe: parts in order, each into its tablespace or the data
// directory, the manifest beside.
func unpackPart(t *testing.T, dir string, commit *Commit) string {
	t.Helper()
	restored := filepath.Join(dir, "restored")
	script := fmt.Sprintf("set -e -o pipefail; cd '%s'; mkdir -m 700 restored spaces\n", dir)
	for _, ts := range commit.Tablespaces {
		script += fmt.Sprintf("mkdir -m 700 spaces/%d\n", ts.OID)
	}
	for _, p := range commit.Parts {
		into := "restored"
		if p.Tablespace != 0 {
			into = fmt.Sprintf("spaces/%d", p.Tablespace)
		}
		script += fmt.Sprintf("echo '%s  archive/%s' | sha256sum -c --quiet\n", p.SHA256, p.Name)
		script += fmt.Sprintf("zstd -dc archive/%s | tar -x -p -C %s\n", p.Name, into)
	}
	for _, ts := range commit.Tablespaces {
		script += fmt.Sprintf("ln -s '%s/spaces/%d' restored/pg_tblspc/%d\n", dir, ts.OID, ts.OID)
	}
	script += fmt.Sprintf("cp archive/%s restored/backup_manifest\n", ManifestName(commit.ID))
	testkit.Own(t, filepath.Join(dir, "archive"))
	testkit.Run(t, "bash", "-c", script)
	return restored
}

// checkTree compares names and modes of the odd files and of all directories.
func checkTree(t *testing.T, source, restored string) {
	t.Helper()
	tree := func(root string) map[string]fs.FileMode {
		modes := map[string]fs.FileMode{}
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) || d != nil && d.Name() == "pgsql_tmp" {
				return nil // removed meanwhile, or never part of a backup
			}
			if err != nil {
				return err
			}
			rel, _ := filepath.Rel(root, path)
			if info, err := d.Info(); err == nil && (d.IsDir() || strings.HasPrefix(rel, "odd")) {
				modes[rel] = info.Mode()
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return modes
	}
	if diff := cmp.Diff(tree(source), tree(restored)); diff != "" {
		t.Errorf("tree (-source +restored):\n%s", diff)
	}
}

// unpackWAL puts all archived segments into pg_wal.
func unpackWAL(t *testing.T, dir string) {
	t.Helper()
	testkit.Own(t, filepath.Join(dir, "archive"))
	testkit.Run(t, "bash", "-c", fmt.Sprintf(`set -e; cd '%s'; for f in archive/wal/00000001/*.zst
		do zstd -dqc "$f" >"restored/pg_wal/$(basename "$f" .zst)"; done`, dir))
}

// moveTablespaces rewrites tablespace_map, so that the restored server leaves
// the source's tablespaces alone.
func moveTablespaces(t *testing.T, restored string, commit *Commit) {
	t.Helper()
	name := filepath.Join(restored, "tablespace_map")
	have, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var want, moved strings.Builder
	for _, ts := range commit.Tablespaces {
		fmt.Fprintf(&want, "%d %s\n", ts.OID, ts.Location)
		fmt.Fprintf(&moved, "%d %s/spaces/%d\n", ts.OID, filepath.Dir(restored), ts.OID)
	}
	if diff := cmp.Diff(want.String(), string(have)); diff != "" {
		t.Errorf("tablespace_map (-want +got):\n%s", diff)
	}
	if err := os.WriteFile(name, []byte(moved.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}
