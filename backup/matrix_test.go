//go:build matrix

package backup

import (
	"fmt"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/internal/testkit/memstore"
)

// TestMatrix takes backups of servers of each major version, a good one and
// one of a damaged page, with every option that the syntax has.
func TestMatrix(t *testing.T) {
	for _, major := range testkit.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) { takeDamaged(t, major) })
	}
}

func takeDamaged(t *testing.T, major int) {
	c := testkit.Start(t, testkit.Config{Major: major, SegmentSizeMB: 1, Checksums: true, Settings: []string{"autovacuum = off"}})
	a := pinned(t, c, memstore.New())
	c.Psql(t, "CREATE TABLE t AS SELECT i FROM generate_series(1, 10000) i")
	c.Psql(t, "CHECKPOINT")
	file := filepath.Join(c.DataDir, c.Psql(t, "SELECT pg_relation_filepath('t')"))
	nameWAL(t, c, a, 1, 40)
	for _, damaged := range []bool{false, true} {
		if damaged {
			c.Stop(syscall.SIGINT)
			flipByte(t, file, 2*8192+5000)
			c.Start()
		}
		commit, err := Take(t.Context(), Config{
			Server: pg.Options{Conninfo: c.Conninfo()}, Archive: a, Checkpoint: Fast, MaxRate: 1 << 30, Label: "it's a label",
		})
		if err != nil {
			t.Fatal(err)
		}
		if commit.ChecksumFailures != damaged {
			t.Errorf("damaged: %v, the backup says %v", damaged, commit.ChecksumFailures)
		}
		if got, want := xids(commit), controlXIDs(t, c); got != want {
			t.Errorf("transaction IDs %s, pg_control has %s", got, want)
		}
		if commit.MajorVersion != major || commit.PlainBytes < 10<<20 || commit.StopLSN <= commit.StartLSN {
			t.Errorf("commit object %+v", commit)
		}
		if err := checkWhole(a, commit); err != nil {
			t.Error(err)
		}
	}
}
