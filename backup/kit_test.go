package backup

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testSegmentSize segment.Size = 1 << 20

// startServer starts a cluster with small segments that it keeps long enough.
// It has no template databases, which would only make it three times larger.
func startServer(t *testing.T, checksums bool) *testkit.Cluster {
	t.Helper()
	c := testkit.Start(t, testkit.Config{
		SegmentSizeMB: 1,
		Checksums:     checksums,
		Settings:      []string{"wal_keep_size = 1GB", "autovacuum = off", "wal_level = replica"},
	})
	c.Psql(t, "UPDATE pg_database SET datistemplate = false")
	c.Psql(t, "DROP DATABASE template0")
	c.Psql(t, "DROP DATABASE template1")
	return c
}

func pinned(t *testing.T, c *testkit.Cluster, store archive.Store) *archive.Archive {
	t.Helper()
	conn, err := pg.ConnectReplication(t.Context(), pg.Options{Conninfo: c.Conninfo()})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Done()
	identity, _, err := conn.Identity(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a, err := archive.Pin(t.Context(), store, identity)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// archiveWAL stores the segments that the server has completed, until the test
// ends. To the backup only their names matter; to the by-hand restore the
// bytes do.
func archiveWAL(t *testing.T, c *testkit.Cluster, a *archive.Archive) {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(func() { stop(); <-done })
	go func() {
		defer close(done)
		stored := map[string]bool{}
		for ctx.Err() == nil {
			current, err := c.Query("SELECT pg_walfile_name(pg_current_wal_flush_lsn())")
			if err != nil {
				current = "" // the server is down
			}
			files, _ := filepath.Glob(filepath.Join(c.DataDir, "pg_wal", strings.Repeat("[0-9A-F]", 24)))
			for _, file := range files {
				name := filepath.Base(file)
				id, err := segment.ParseName(name, testSegmentSize)
				if err != nil || name >= current || stored[name] {
					continue
				}
				body, err := os.ReadFile(file)
				if err == nil {
					err = a.Store().Put(ctx, archive.SegmentName(id, testSegmentSize), bytes.NewReader(enc.EncodeAll(body, nil)))
				}
				stored[name] = err == nil
			}
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
}

// nameWAL stores objects under the names of segments that are yet to come, for
// tests in which nobody reads them.
func nameWAL(t *testing.T, c *testkit.Cluster, a *archive.Archive, tli wal.Timeline, count int) {
	t.Helper()
	lsn, err := wal.ParseLSN(c.Psql(t, "SELECT pg_current_wal_flush_lsn()"))
	if err != nil {
		t.Fatal(err)
	}
	id := segment.At(tli, lsn, testSegmentSize)
	for range count {
		err := a.Store().Put(t.Context(), archive.SegmentName(id, testSegmentSize), strings.NewReader("WAL"))
		if err != nil {
			t.Fatal(err)
		}
		id = id.Next()
	}
}

// objects lists what a store holds below prefix.
func objects(t *testing.T, store archive.Store, prefix string) []string {
	t.Helper()
	var names []string
	for info, err := range store.List(context.Background(), prefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, info.Name)
	}
	return names
}

// checkNothing checks that no trace of a backup is in the store.
func checkNothing(t *testing.T, store archive.Store) {
	t.Helper()
	if names := objects(t, store, "backup"); len(names) > 0 {
		t.Errorf("the failed backup left %s", names)
	}
}

// checkWhole checks that everything a commit object names is in the store.
func checkWhole(a *archive.Archive, c *Commit) error {
	ctx := context.Background()
	for _, p := range c.Parts {
		body, err := archive.ReadAll(ctx, a.Store(), p.Name, -1)
		if err != nil {
			return err
		}
		if have := sha256Hex(body); have != p.SHA256 || int64(len(body)) != p.StoredSize {
			return fmt.Errorf("%s has %d bytes with sha256 %s, not %d with %s", p.Name, len(body), have, p.StoredSize, p.SHA256)
		}
	}
	m, err := LoadManifest(ctx, a, c)
	if err != nil {
		return err
	}
	missing, err := firstMissing(ctx, a, m.segments(c.SegmentSize))
	if err == nil && missing != "" {
		err = fmt.Errorf("segment %s is missing", missing)
	}
	return err
}
