package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/controlfile"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/internal/testkit/memstore"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// A backup that a page checksum contradicts is kept, and says so.
func TestTakeFindsDamagedPage(t *testing.T) {
	c := startServer(t, true)
	a := pinned(t, c, memstore.New())
	c.Psql(t, "CREATE TABLE t AS SELECT i FROM generate_series(1, 10000) i")
	c.Psql(t, "CHECKPOINT")
	file := filepath.Join(c.DataDir, c.Psql(t, "SELECT pg_relation_filepath('t')"))
	c.Stop(syscall.SIGINT)
	flipByte(t, file, 2*8192+5000)
	c.Start()
	nameWAL(t, c, a, 1, 20)

	commit, err := Take(t.Context(), Config{Server: pg.Options{Conninfo: c.Conninfo()}, Archive: a, Checkpoint: Fast})
	if err != nil {
		t.Fatal(err)
	}
	if !commit.ChecksumFailures {
		t.Error("the backup does not say that a page is damaged")
	}
	if err := checkWhole(a, commit); err != nil {
		t.Error(err)
	}
}

// A commit object tells from where to where a transaction may have finished,
// one that was open or prepared too.
func TestTakeBoundsTransactions(t *testing.T) {
	c := startServer(t, false)
	c.Configure("max_prepared_transactions = 5")
	c.Stop(syscall.SIGINT)
	c.Start()
	a := pinned(t, c, memstore.New())
	nameWAL(t, c, a, 1, 40)
	take := func() *Commit {
		commit, err := Take(t.Context(), Config{Server: pg.Options{Conninfo: c.Conninfo()}, Archive: a, Checkpoint: Fast})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := xids(commit), controlXIDs(t, c); got != want {
			t.Errorf("transaction IDs %s, pg_control has %s", got, want)
		}
		return commit
	}
	if commit := take(); commit.OldestActiveXID != commit.NextXID {
		t.Errorf("of a server without transactions: %s", xids(commit))
	}
	c.Psql(t, "BEGIN; CREATE TABLE t(); PREPARE TRANSACTION 'p'")
	xid, err := strconv.ParseUint(c.Psql(t, "SELECT transaction FROM pg_prepared_xacts"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		c.Psql(t, "SELECT txid_current()")
	}
	if commit := take(); commit.OldestActiveXID != xid || commit.NextXID < commit.OldestActiveXID+4 {
		t.Errorf("with %d prepared: %s", xid, xids(commit))
	}
	// The checkpoint of a shutdown does not tell of prepared transactions.
	c.Stop(syscall.SIGINT)
	body, err := os.ReadFile(filepath.Join(c.DataDir, controlfile.Path))
	if err != nil {
		t.Fatal(err)
	}
	if control, err := controlfile.Parse(body); err != nil || control.OldestActiveXID > xid || control.OldestActiveXID == 0 {
		t.Errorf("stopped with %d prepared: %+v, %v", xid, control, err)
	}
}

func xids(c *Commit) string { return fmt.Sprintf("next %d, oldest %d", c.NextXID, c.OldestActiveXID) }

// controlXIDs is the same as PostgreSQL tells it of its last checkpoint.
func controlXIDs(t *testing.T, c *testkit.Cluster) string {
	return c.Psql(t, `SELECT format('next %s, oldest %s', split_part(next_xid, ':', 1)::int8 * 4294967296 + split_part(next_xid, ':', 2)::int8,
		split_part(next_xid, ':', 1)::int8 * 4294967296 + oldest_active_xid::text::int8) FROM pg_control_checkpoint()`)
}

func flipByte(t *testing.T, file string, off int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], off); err != nil {
		t.Fatal(err)
	}
}

// Whatever ends a backup early, no commit object is left, and nothing else
// either where the archive could still be reached.
func TestTakeFails(t *testing.T) {
	c := startServer(t, false)
	server := pg.Options{Conninfo: c.Conninfo()}
	newArchive := func(t *testing.T) *archive.Archive {
		a := pinned(t, c, memstore.New())
		nameWAL(t, c, a, 1, 20)
		return a
	}
	take := func(t *testing.T, cfg Config) error {
		t.Helper()
		cfg.Server, cfg.Checkpoint = server, Fast
		commit, err := Take(t.Context(), cfg)
		if err == nil {
			t.Fatalf("backup %s was taken", commit.ID)
		}
		checkNothing(t, cfg.Archive.Store())
		return err
	}

	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		a := newArchive(t)
		stop := errors.New("enough")
		_, err := Take(ctx, Config{Server: server, Archive: a, Checkpoint: Fast, PartSize: 1 << 20, MaxRate: 2 << 20,
			Progress: func(done, _ int64) {
				if done > 1<<20 {
					cancel(stop)
				}
			}})
		if !errors.Is(err, context.Canceled) && !errors.Is(err, stop) {
			t.Errorf("error %v", err)
		}
		checkNothing(t, a.Store())
		testkit.Wait(t, "the server to end the backup", func() (bool, string) {
			n := c.Psql(t, "SELECT count(*) FROM pg_stat_progress_basebackup")
			return n == "0", n
		})
	})
	t.Run("connection cut", func(t *testing.T) {
		cut := false
		err := take(t, Config{Archive: newArchive(t), PartSize: 1 << 20, MaxRate: 2 << 20, Progress: func(done, _ int64) {
			if done > 1<<20 && !cut {
				cut = true
				c.Psql(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_progress_basebackup")
			}
		}})
		if !cut || !lost(err) {
			t.Errorf("cut: %v, error %v", cut, err)
		}
	})
	t.Run("unreadable file", func(t *testing.T) {
		name := filepath.Join(c.DataDir, "private")
		if err := os.WriteFile(name, []byte("x"), 0); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(name)
		if os.Geteuid() != 0 { // root made a file that PostgreSQL does not own
			if err := os.Chmod(name, 0); err != nil {
				t.Fatal(err)
			}
		}
		err := take(t, Config{Archive: newArchive(t)})
		if pg.Code(err) != pg.CodeInsufficientRight || !strings.Contains(err.Error(), "private") || len(hint.Of(err)) == 0 {
			t.Errorf("error %v, hints %q", err, hint.Of(err))
		}
	})
	t.Run("foreign cluster", func(t *testing.T) {
		identity := pinned(t, c, memstore.New()).Identity().Identity
		identity.SystemIdentifier++
		a, err := archive.Pin(t.Context(), memstore.New(), identity)
		if err != nil {
			t.Fatal(err)
		}
		var foreign *segment.ForeignError
		if err := take(t, Config{Archive: a}); !errors.As(err, &foreign) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("WAL does not come", func(t *testing.T) {
		a := pinned(t, c, memstore.New())
		start, err := wal.ParseLSN(c.Psql(t, "SELECT pg_current_wal_flush_lsn()"))
		if err != nil {
			t.Fatal(err)
		}
		err = take(t, Config{Archive: a, WALTimeout: time.Millisecond})
		// The server switches to a new segment before the backup starts.
		first := segment.At(1, start, testSegmentSize).Next().Name(testSegmentSize)
		if !strings.Contains(err.Error(), first) || len(hint.Of(err)) == 0 {
			t.Errorf("error %v, hints %q; want %s named", err, hint.Of(err), first)
		}
	})
	for name, cfg := range map[string]Config{
		"control characters": {Label: "a\nb"},
		"rate too small":     {MaxRate: 31 << 10},
		"rate too large":     {MaxRate: 1<<30 + 1<<10},
	} {
		t.Run(name, func(t *testing.T) {
			cfg.Archive = newArchive(t)
			take(t, cfg)
		})
	}
	t.Run("checkpoint", func(t *testing.T) {
		if _, err := Take(t.Context(), Config{Server: server, Archive: newArchive(t), Checkpoint: "lazy"}); err == nil {
			t.Error("accepted")
		}
	})
	t.Run("server crashes", func(t *testing.T) { // the last one: it takes the server down
		err := take(t, Config{Archive: newArchive(t), PartSize: 1 << 20, MaxRate: 2 << 20, Progress: func(done, _ int64) {
			if done > 1<<20 {
				c.Stop(syscall.SIGQUIT)
			}
		}})
		if !lost(err) {
			t.Errorf("error %v", err)
		}
	})
}

// lost says whether the error is one of a connection that ended; whether the
// server's last words were still read is a matter of chance.
func lost(err error) bool {
	return pg.Code(err) == "57P01" || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
}

// brokenStore dies at its Nth call that changes something. As a flaky store it
// fails only this once, and the call has its effect all the same.
type brokenStore struct {
	archive.Store
	left  atomic.Int64
	flaky bool
}

var errStore = errors.New("the store is gone")

func (b *brokenStore) change(do func() error) error {
	left := b.left.Add(-1)
	if left >= 0 || b.flaky && left < -1 {
		return do()
	}
	if b.flaky {
		if err := do(); err != nil {
			return err
		}
	}
	return errStore
}

func (b *brokenStore) Put(ctx context.Context, name string, body io.Reader) error {
	return b.change(func() error { return b.Store.Put(ctx, name, body) })
}

func (b *brokenStore) Delete(ctx context.Context, name string) error {
	return b.change(func() error { return b.Store.Delete(ctx, name) })
}

// At whichever operation the archive goes away, or the process dies: a commit
// object that is there is one of a whole backup.
func TestTakeIsAllOrNothing(t *testing.T) {
	c := startServer(t, false)
	// take cuts a backup at an operation and returns how many are listed then.
	take := func(flaky bool, operation int64) (listed int, left []string, err error) {
		store := &brokenStore{Store: memstore.New(), flaky: flaky}
		store.left.Store(1000)
		a := pinned(t, c, store)
		nameWAL(t, c, a, 1, 10)
		store.left.Store(operation)
		_, err = Take(t.Context(), Config{Server: pg.Options{Conninfo: c.Conninfo()}, Archive: a, Checkpoint: Fast, PartSize: 4 << 20})
		if err != nil && !errors.Is(err, errStore) {
			t.Fatalf("operation %d: error %v", operation, err)
		}
		for commit, err := range List(t.Context(), a) {
			if err == nil {
				err = checkWhole(a, commit)
			}
			if err != nil {
				t.Errorf("operation %d, flaky %v: %v", operation, flaky, err)
			}
			listed++
		}
		return listed, objects(t, store, archive.BackupPrefix), err
	}
	var last int64 // operation of a whole backup
	for ; ; last++ {
		listed, _, err := take(false, last)
		if err == nil {
			last--
			break
		}
		if listed > 0 {
			t.Errorf("operation %d: %v, but a backup is listed", last, err)
		}
	}
	if last < 5 {
		t.Errorf("a backup takes %d operations: too few to cut between parts", last+1)
	}
	for operation := range last {
		listed, left, _ := take(true, operation)
		// Whose the reservation is, when storing it failed, is not known.
		if listed > 0 || len(left) > 0 && operation > 0 {
			t.Errorf("flaky at operation %d: %d backups are listed, %s is left", operation, listed, left)
		}
	}
	if listed, _, err := take(true, last); listed != 1 || err == nil {
		t.Errorf("flaky at the commit object: %d backups are listed, error %v", listed, err)
	}
}

// Two backups that begin in the same second both succeed.
func TestTakeTwiceInOneSecond(t *testing.T) {
	c := startServer(t, false)
	a := pinned(t, c, memstore.New())
	nameWAL(t, c, a, 1, 20)
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	t.Chdir(tmp)
	now := time.Date(2026, 11, 22, 1, 0, 59, 0, time.UTC)
	type result struct {
		commit      *Commit
		err         error
		last, total int64 // of the progress
	}
	results := make(chan result, 2)
	for range 2 {
		go func() {
			var r result
			r.commit, r.err = Take(t.Context(), Config{Server: pg.Options{Conninfo: c.Conninfo()}, Archive: a, Checkpoint: Fast,
				Label: `it's "full"`, MaxRate: 1 << 30,
				Now:      func() time.Time { return now },
				Progress: func(done, estimate int64) { r.last, r.total = done, estimate },
			})
			results <- r
		}()
	}
	ids := map[string]bool{}
	for range 2 {
		r := <-results
		if r.err != nil {
			t.Fatal(r.err)
		}
		ids[r.commit.ID] = true
		if err := checkWhole(a, r.commit); err != nil {
			t.Error(err)
		}
		// The server's estimate leaves out headers and padding.
		if r.total < r.commit.PlainBytes/2 || r.total > 2*r.commit.PlainBytes || r.last < r.total/2 {
			t.Errorf("progress ended at %d of %d, the backup has %d bytes", r.last, r.total, r.commit.PlainBytes)
		}
	}
	if !ids["20261122T010059Z"] || !ids["20261122T010100Z"] {
		t.Errorf("IDs %v", ids)
	}
	if files, err := os.ReadDir(tmp); err != nil || len(files) > 0 {
		t.Errorf("local files were written: %v, %v", files, err)
	}
	if n := len(objects(t, a.Store(), archive.BackupsPrefix)); n != 2 {
		t.Errorf("%d commit objects", n)
	}
}

// A clone of the cluster was promoted to a timeline of the same number as the
// server from which the archive has its WAL: with that, its backup is of no
// use. The archive may learn of the timeline only while the backup is taken.
func TestTakeRefusesOtherBranch(t *testing.T) {
	c := startServer(t, false)
	c.Stop(syscall.SIGINT)
	if err := os.WriteFile(filepath.Join(c.DataDir, "standby.signal"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.Start()
	c.Psql(t, "SELECT pg_promote()")
	c.Psql(t, "CHECKPOINT")
	own, err := os.ReadFile(filepath.Join(c.DataDir, "pg_wal", "00000002.history"))
	if err != nil {
		t.Fatal(err)
	}
	other := []byte("1\t0/300000\tno recovery target specified\n")
	for name, when := range map[string]struct {
		before, meanwhile []byte
	}{"before": {other, nil}, "meanwhile": {nil, other}, "never": {nil, nil}, "own": {nil, own}} {
		t.Run(name, func(t *testing.T) {
			a := pinned(t, c, memstore.New())
			nameWAL(t, c, a, 2, 20)
			put := func(body []byte) {
				if body != nil {
					if err := a.PutHistory(t.Context(), 2, body); err != nil {
						t.Error(err)
					}
				}
			}
			put(when.before)
			asked := false
			_, err := Take(t.Context(), Config{
				Server: pg.Options{Conninfo: c.Conninfo()}, Archive: a, Checkpoint: Fast,
				Progress: func(int64, int64) {
					if !asked {
						put(when.meanwhile)
					}
					asked = true
				},
			})
			if name == "own" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || name != "never" && (!strings.Contains(err.Error(), "0/300000") || len(hint.Of(err)) == 0) {
				t.Errorf("error %v, hints %q", err, hint.Of(err))
			}
			if asked != (name != "before") {
				t.Errorf("data was sent: %v", asked)
			}
			checkNothing(t, a.Store())
		})
	}
}
