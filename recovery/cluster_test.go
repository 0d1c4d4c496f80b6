package recovery

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// rig is a real cluster whose complete segments go to an archive, and the rest
// into a spool when it dies.
type rig struct {
	*testkit.Cluster
	dir     string // of everything
	archive *archive.Archive
	program string // this one, where PostgreSQL may run it

	mu   sync.Mutex
	next segment.ID // to be archived
	last *archive.Header
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{dir: testkit.Dir(t)}
	r.Cluster = testkit.Start(t, testkit.Config{SegmentSizeMB: 1, Settings: []string{
		"wal_keep_size = 1GB", "autovacuum = off", "wal_level = replica", "log_connections = off",
	}})
	r.Psql(t, "UPDATE pg_database SET datistemplate = false")
	r.Psql(t, "DROP DATABASE template0")
	r.Psql(t, "DROP DATABASE template1")
	r.program = filepath.Join(r.dir, "recovery.test")
	copyFile(t, os.Args[0], r.program, 0o755)
	r.pin(t)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.archiveAll(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("archiving: %v", err)
		}
	})
	return r
}

func (r *rig) pin(t *testing.T) {
	conn, err := pg.ConnectReplication(t.Context(), pg.Options{Conninfo: r.Conninfo()})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	identity, _, err := conn.Identity(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	store, err := archive.Locate(t.Context(), filepath.Join(r.dir, "archive"), true, archive.S3Config{})
	if err != nil {
		t.Fatal(err)
	}
	if r.archive, err = archive.Pin(t.Context(), store, identity); err != nil {
		t.Fatal(err)
	}
	lsn := mustLSN(r.Psql(t, "SELECT pg_current_wal_flush_lsn()"))
	r.next = segment.At(1, lsn, testSize)
}

func copyFile(t *testing.T, from, to string, mode os.FileMode) {
	t.Helper()
	body, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, body, mode)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) archiveAll(ctx context.Context) error {
	for ctx.Err() == nil {
		if r.Running() {
			if lsn, err := r.Query("SELECT pg_current_wal_flush_lsn()"); err == nil {
				if err := r.archiveUpTo(ctx, lsn); err != nil && ctx.Err() == nil {
					return err
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// archiveUpTo stores the segments that are complete when WAL reaches to lsn.
func (r *rig) archiveUpTo(ctx context.Context, flushed string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	lsn, err := wal.ParseLSN(flushed)
	if err != nil {
		return err
	}
	for ; r.next.End(testSize) <= lsn; r.next = r.next.Next() {
		f, err := os.Open(filepath.Join(r.DataDir, "pg_wal", r.next.Name(testSize)))
		if err != nil {
			return err
		}
		p := archive.Piece{ID: r.next, To: int64(testSize)}
		h, err := r.archive.Describe(p, f, r.last)
		if err == nil {
			err = r.archive.PutSegment(ctx, p, h, f, 0)
		}
		f.Close()
		if err != nil {
			return err
		}
		r.last = h
	}
	return nil
}

func (r *rig) backup(t *testing.T) *backup.Commit {
	t.Helper()
	c, err := backup.Take(t.Context(), backup.Config{
		Server: pg.Options{Conninfo: r.Conninfo()}, Archive: r.archive, Checkpoint: backup.Fast, PartSize: 1 << 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// crash kills the server and puts what is not archived yet into a spool.
func (r *rig) crash(t *testing.T) (spool string) {
	t.Helper()
	flushed := r.Psql(t, "SELECT pg_current_wal_flush_lsn()")
	r.Stop(syscall.SIGKILL)
	if err := r.archiveUpTo(t.Context(), flushed); err != nil {
		t.Fatal(err)
	}
	spool = filepath.Join(r.dir, "spool")
	s, err := segment.OpenSpool(segment.SpoolConfig{Dir: spool, Identity: r.archive.Identity().Identity})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	// One archived segment too, as a spool has it.
	from, end := segment.ID{Timeline: 1, No: r.next.No - 1}.Start(testSize), mustLSN(flushed)
	if err := s.Begin(1, from); err != nil {
		t.Fatal(err)
	}
	for lsn := from; lsn < end; lsn += wal.LSN(testSize) {
		body, err := os.ReadFile(filepath.Join(r.DataDir, "pg_wal", segment.At(1, lsn, testSize).Name(testSize)))
		if err == nil {
			err = s.Append(1, lsn, body[:min(len(body), int(end-lsn))])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	return spool
}

func (r *rig) config(dir, spool string) RestoreConfig {
	return RestoreConfig{
		Dir: dir, Source: Source{Archive: r.archive, Spool: spool},
		Command: []string{r.program, "wal-get", "--archive", r.archive.Store().String()},
	}
}

// restore plans and restores to a new directory.
func (r *rig) restore(t *testing.T, target Target, spool string) (*Plan, *testkit.Cluster) {
	t.Helper()
	dir := filepath.Join(testkit.Dir(t), "data")
	cfg := r.config(dir, spool)
	p, err := cfg.Source.Plan(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	cfg.TablespaceMap = map[string]string{}
	for _, ts := range p.Backup.Tablespaces {
		cfg.TablespaceMap[ts.Location] = filepath.Join(filepath.Dir(dir), filepath.Base(ts.Location))
	}
	if err := p.Execute(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	testkit.Own(t, r.dir) // the archive was written by whoever runs the tests
	return p, testkit.Adopt(t, dir)
}

// step is a row and where it can be stopped at.
type step struct {
	id   int
	xid  uint32
	lsn  wal.LSN // of the end of WAL after the commit
	time time.Time
}

// write commits one row, with a pause behind it so that times differ.
func (r *rig) write(t *testing.T, id int) step {
	t.Helper()
	xid, err := ParseXID(r.Psql(t, fmt.Sprintf("WITH x AS (INSERT INTO t VALUES (%d)) SELECT pg_current_xact_id()", id)))
	if err != nil {
		t.Fatal(err)
	}
	s := step{id: id, xid: xid, lsn: mustLSN(r.Psql(t, "SELECT pg_current_wal_flush_lsn()"))}
	at := r.Psql(t, "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')")
	if s.time, err = ParseTime(at, time.UTC, time.Time{}); err != nil {
		t.Fatal(err)
	}
	r.Psql(t, "SELECT pg_sleep(0.01)")
	return s
}

// waitPaused waits until a restored server has come to its target.
func waitPaused(t *testing.T, c *testkit.Cluster) {
	t.Helper()
	testkit.Wait(t, "recovery to pause at its target", func() (bool, string) {
		state, err := c.Query("SELECT pg_get_wal_replay_pause_state()")
		return err == nil && state == "paused", fmt.Sprintf("%s %v\n%s", state, err, c.Log())
	})
}

func waitPromoted(t *testing.T, c *testkit.Cluster) {
	t.Helper()
	testkit.Wait(t, "recovery to end", func() (bool, string) {
		state, err := c.Query("SELECT pg_is_in_recovery()")
		return err == nil && state == "f", fmt.Sprintf("%s %v\n%s", state, err, c.Log())
	})
}
