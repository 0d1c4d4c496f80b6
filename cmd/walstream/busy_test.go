package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// busy is an archive with a history of all that makes targets hard, and the
// past of which it is: three timelines with backups on each, a hole in the
// first, a clock that went back, and transactions that overlap.
type busy struct {
	*world
	*past
	rng      *rand.Rand
	receiver *receiving
	truth    string // the servers' own WAL, without what is lost

	tli, parent wal.Timeline
	fork        wal.LSN
	sessions    []*session
	pieces      map[string]*piece // those that were prepared, by GID
	prepared    []*piece          // those that are
	rows        []int             // committed, and in no open transaction
	last        int               // number of the newest row
	names       []string          // of restore points
	undone      []uint32          // transactions that never ended
}

// session is a connection, and its open transaction.
type session struct {
	conn *pgconn.PgConn
	open *piece
}

// piece is a transaction at work.
type piece struct {
	transaction
	effects
	took []int // rows that were there before
}

// newBusy makes the history, of half of the seeds with an encrypted archive, of
// half with an index. Equal seeds do the same things in the same order.
func newBusy(t *testing.T, seed uint64) *busy {
	t.Helper()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1, Settings: []string{
		"wal_keep_size = 1GB", "autovacuum = off", "shared_buffers = 4MB", "max_connections = 20",
	}})
	w.env = append(w.env, "WALSTREAM_RESTORE_RETRY=300ms")
	b := &busy{
		world: w, rng: rand.New(rand.NewPCG(seed, 0)), truth: filepath.Join(w.dir, "truth"), pieces: map[string]*piece{},
		past: &past{paths: map[wal.Timeline][]logged{}, work: map[transaction]*effects{}, lost: map[segment.ID]bool{}},
	}
	for _, sql := range []string{
		"UPDATE pg_database SET datistemplate = false", "DROP DATABASE template0", "DROP DATABASE template1",
		"CREATE TABLE worked (n int PRIMARY KEY, v text NOT NULL)",
	} {
		w.primary.Psql(t, sql)
	}
	testkit.Run(t, "mkdir", b.truth)
	if b.rng.IntN(2) == 0 {
		key, public := newKey(t, w.dir, "walstream.key")
		w.seal("fastest", public)
		w.env = append(w.env, "WALSTREAM_ENCRYPTION_IDENTITY_FILE="+key)
	}
	ahead := w.skew()
	b.begin(1)

	b.busyFor(20)
	b.backup()
	b.busyFor(25)
	for range 4 { // some of that will be lost
		b.fill(700_000)
		b.busyFor(8)
	}
	b.mark("twice")
	b.backup()
	b.busyFor(30)
	ahead(2)
	b.busyFor(15)
	ahead(0)
	b.busyFor(15)
	b.mark("once")
	time.Sleep(300 * time.Millisecond) // nothing happens
	b.mark("twice")
	b.busyFor(15)
	b.backup()
	b.busyFor(25)
	first := b.turn()
	b.busyFor(25)
	b.backup()
	b.mark("abandoned")
	b.busyFor(20)
	b.leave(syscall.SIGINT)

	b.follow(1, first)
	b.busyFor(20)
	b.backup()
	b.busyFor(15)
	b.mark("twice again")
	second := b.turn()
	b.busyFor(15)
	b.mark("twice again")
	b.busyFor(5)
	if b.rng.IntN(2) == 0 {
		b.leave(syscall.SIGKILL)
		b.follow(2, second)
	} else { // on to a branch that has nothing of timeline 2
		b.leave(syscall.SIGINT)
		b.spool = filepath.Join(b.dir, "fresh-spool")
		b.follow(1, first)
	}
	b.busyFor(20)
	b.backup()
	b.busyFor(20)
	b.mark("late")
	b.busyFor(10)
	b.leave(syscall.SIGKILL)
	if b.rng.IntN(2) == 0 {
		b.index()
		testkit.Own(t, b.archive)
	}
	b.lose()
	testkit.Own(t, b.archive)
	return b
}

// begin starts to work on a primary.
func (b *busy) begin(tli wal.Timeline) {
	t := b.t
	t.Helper()
	b.tli = tli
	b.receiver = b.receive("--create-slot")
	b.prepared = nil
	taken := map[string]bool{}
	for _, gid := range strings.Fields(b.primary.Psql(t, "SELECT gid FROM pg_prepared_xacts ORDER BY gid")) {
		p := b.pieces[gid]
		b.prepared = append(b.prepared, p)
		for _, n := range p.took {
			taken[fmt.Sprint(n)] = true
		}
	}
	b.rows = nil
	for _, line := range strings.Fields(b.primary.Psql(t, "SELECT n FROM worked ORDER BY n")) {
		if n, err := strconv.Atoi(line); err == nil && !taken[line] {
			b.rows = append(b.rows, n)
		}
	}
	b.sessions = nil
	for range 4 {
		conn, err := pgconn.Connect(t.Context(), b.primary.Conninfo()+" dbname=postgres")
		if err != nil {
			t.Fatal(err)
		}
		b.sessions = append(b.sessions, &session{conn: conn})
	}
}

// fill makes WAL of that size.
func (b *busy) fill(size int) {
	b.sessions[0].do(b.t, fmt.Sprintf("SELECT pg_logical_emit_message(false, 'filler', repeat('f', %d))", size))
}

func (b *busy) mark(name string) {
	b.primary.Psql(b.t, "SELECT pg_create_restore_point('"+name+"')")
	b.names = append(b.names, name)
}

func (b *busy) backup() {
	b.t.Helper()
	b.must("backup", "--checkpoint", "fast")
}

// leave ends the work on a timeline by a signal to the server, and keeps what
// the server wrote. Of one that is killed, its receiver has everything before,
// and is killed too.
func (b *busy) leave(sig syscall.Signal) {
	t := b.t
	t.Helper()
	e := era{parent: b.parent, fork: b.fork}
	for sig == syscall.SIGKILL && e.end == 0 {
		b.primary.Psql(t, "SELECT pg_logical_emit_message(true, '', 'the last commit')")
		const here = "SELECT pg_current_wal_insert_lsn()"
		end := b.primary.Psql(t, here+" FROM pg_stat_replication WHERE flush_lsn = pg_current_wal_insert_lsn()")
		if end == "" {
			continue
		}
		b.receiver.kill()
		if end != b.primary.Psql(t, here) { // of what came since, it may have a part
			b.receiver = b.receive()
			continue
		}
		var err error
		if e.end, err = wal.ParseLSN(end); err != nil {
			t.Fatal(err)
		}
	}
	e.until = time.Now()
	b.primary.Stop(sig)
	if sig != syscall.SIGKILL {
		b.receiver.stop()
	}
	for _, s := range b.sessions {
		s.conn.Close(context.Background()) // the server is gone
		if s.open != nil {
			b.undone = append(b.undone, s.open.xid)
		}
	}
	files, err := filepath.Glob(filepath.Join(b.primary.DataDir, "pg_wal", fmt.Sprintf("%08X*", uint32(b.tli))))
	if err != nil {
		t.Fatal(err)
	}
	testkit.Run(t, "cp", append(files, b.truth)...)
	b.dump(t, b.primary, b.truth, e)
}

// turn makes a moment to go back to, at which a transaction is prepared that
// began in the same segment.
func (b *busy) turn() string {
	b.primary.Psql(b.t, "SELECT pg_switch_wal()")
	b.busyFor(8)
	s := b.sessions[0]
	if s.open == nil {
		b.open(s)
	}
	b.prepare(s)
	return b.primary.Psql(b.t, "SELECT pg_current_wal_insert_lsn()")
}

// follow goes back to a moment of a timeline, and on from there.
func (b *busy) follow(parent wal.Timeline, moment string) {
	b.t.Helper()
	b.primary = b.restore(filepath.Join(b.dir, fmt.Sprint("follows-", b.tli)),
		"--target-lsn", moment, "--target-exclusive", "--target-timeline", parent.String(), "--target-action", "promote")
	b.parent, b.fork = ended(b.t, b.primary)
	b.begin(b.tli + 1)
}

// opened is the archive, to look into it.
func (w *world) opened() *archive.Archive {
	store, err := archive.OpenDir(archive.DirConfig{Path: w.archive})
	if err != nil {
		w.t.Fatal(err)
	}
	a, err := archive.Open(w.t.Context(), store)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// index adds the index of timeline 1 that a longer history would have: with
// nothing in the segments that there are not.
func (b *busy) index() {
	ctx, a := b.t.Context(), b.opened()
	headers := make([]*archive.Header, archive.IndexSpan)
	last := &archive.Header{}
	for no := range headers {
		id := segment.ID{Timeline: 1, No: uint64(no)}
		h, err := a.Header(ctx, archive.Piece{ID: id, To: int64(mib)})
		if errors.Is(err, archive.ErrNotExist) {
			h, err = &archive.Header{Identity: a.Identity().Identity, Timeline: 1, StartLSN: id.Start(mib), RunningMax: last.RunningMax, RunningMaxSince: last.RunningMaxSince}, nil
			tails, terr := a.Tails(ctx, id)
			slices.SortFunc(tails, func(x, y archive.Piece) int { return cmp.Compare(x.To, y.To) })
			if len(tails) > 0 || terr != nil {
				h, err = a.Header(ctx, tails[len(tails)-1])
			}
		}
		if err != nil {
			b.t.Fatal(err)
		}
		h.From, h.To = 0, int64(mib)
		headers[no], last = h, h
	}
	if err := a.PutIndex(ctx, headers); err != nil {
		b.t.Fatal(err)
	}
}

// lose removes WAL from archive and spool: a segment between the first two
// backups, and any other one.
func (b *busy) lose() {
	b.t.Helper()
	var list struct {
		Backups []struct {
			ID       string
			Timeline wal.Timeline
			StartLSN wal.LSN `json:"start_lsn"`
		}
	}
	decode(b.t, b.must("list", "backups", "--json"), &list)
	for _, l := range list.Backups {
		i := slices.IndexFunc(b.paths[l.Timeline], func(r logged) bool { return r.backupFrom == l.StartLSN })
		if i < 0 {
			b.t.Fatalf("pg_waldump shows no end of backup %s", l.ID)
		}
		b.backups = append(b.backups, based{l.ID, l.Timeline, l.StartLSN, b.paths[l.Timeline][i].end})
	}
	slices.SortFunc(b.backups, func(x, y based) int { return cmp.Or(cmp.Compare(y.tli, x.tli), cmp.Compare(y.stop, x.stop)) })

	oldest := b.backups[len(b.backups)-1]
	all, err := filepath.Glob(filepath.Join(b.archive, "wal", "*", "*.zst*"))
	if err != nil || len(all) < 10 {
		b.t.Fatalf("%v, %v", all, err)
	}
	var other segment.ID // one behind which there is more
	for other.No == 0 || b.eras[other.Timeline-1].end <= other.End(mib) {
		name, _, _ := strings.Cut(filepath.Base(oneOf(b.rng, all)), ".")
		if other, err = segment.ParseName(name, mib); err != nil {
			b.t.Fatal(err)
		}
	}
	for _, id := range []segment.ID{{Timeline: 1, No: segment.At(1, oldest.stop, mib).No + 1 + b.rng.Uint64N(2)}, other} {
		b.lost[id] = true
		if err := b.opened().PutGap(b.t.Context(), archive.Gap{Timeline: id.Timeline, From: id.Start(mib), To: id.End(mib)}); err != nil {
			b.t.Fatal(err)
		}
		for _, pattern := range []string{b.archive + "/wal/*/", b.spool + "/", b.spool + "/*/", b.truth + "/"} {
			names, err := filepath.Glob(pattern + id.Name(mib) + "*")
			for _, name := range names {
				err = errors.Join(err, os.RemoveAll(name))
			}
			if err != nil {
				b.t.Fatal(err)
			}
		}
	}
	b.t.Logf("%d timelines, %d backups, %d transactions, lost: %v", len(b.eras), len(b.backups), len(b.work), b.lost)
}
