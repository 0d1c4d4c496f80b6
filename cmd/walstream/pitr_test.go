package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walstream/walstream/internal/testkit"
)

// step is one committed row and what is known of its commit.
type step struct {
	row  string // its number
	xid  string
	lsn  string // insert position after the commit
	time string // a moment between this commit and the next
}

// history writes rows 1..n, each in a transaction of its own, and notes what
// names the moment after each.
func (w *world) history(n int) []step {
	w.t.Helper()
	w.primary.Psql(w.t, "CREATE TABLE IF NOT EXISTS steps (n serial)")
	var steps []step
	for range n {
		row := w.primary.Psql(w.t, "INSERT INTO steps DEFAULT VALUES RETURNING n, pg_current_xact_id()::text")
		s := step{}
		s.row, s.xid, _ = strings.Cut(row, "|")
		time.Sleep(2 * time.Millisecond)
		s.time = w.primary.Psql(w.t, "SET timezone = 'UTC'; SELECT clock_timestamp()")
		s.lsn = w.primary.Psql(w.t, "SELECT pg_current_wal_insert_lsn()")
		time.Sleep(2 * time.Millisecond)
		steps = append(steps, s)
	}
	return steps
}

// kindOfTarget is a target, and the highest row that is there then.
type kindOfTarget struct {
	name string
	args []string
	want string
}

// everyKind makes targets of four steps, a restore point behind them, the end of
// the backup and the end of WAL.
func everyKind(steps []step, point, backup, last string) []kindOfTarget {
	return []kindOfTarget{
		{"time", []string{"--target-time", steps[1].time}, steps[1].row},
		{"time exclusive", []string{"--target-time", steps[2].time, "--target-exclusive"}, steps[2].row},
		{"xid", []string{"--target-xid", steps[2].xid}, steps[2].row},
		{"xid exclusive", []string{"--target-xid", steps[2].xid, "--target-exclusive"}, steps[1].row},
		{"lsn", []string{"--target-lsn", steps[0].lsn}, steps[0].row},
		{"lsn exclusive", []string{"--target-lsn", steps[0].lsn, "--target-exclusive"}, steps[0].row},
		{"name", []string{"--target-name", point, "--target-action", "promote"}, steps[3].row},
		{"immediate", []string{"--target-immediate"}, backup},
		{"end", nil, last},
	}
}

func TestRestoreReachesEveryKindOfTarget(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1, Checksums: true})
	w.receive("--create-slot")
	w.history(2)
	w.must("backup", "--checkpoint", "fast", "--label", "first")
	steps := w.history(4)
	w.must("mark", "before the accident")
	late := w.history(3)
	w.archived()

	for _, c := range everyKind(steps, "before the accident", "2", late[2].row) {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(w.dir, strings.ReplaceAll(c.name, " ", "-"))
			restored := w.in(t).restore(dir, c.args...)
			if got := restored.Psql(t, "SELECT max(n) FROM steps"); got != c.want {
				t.Errorf("highest row is %s, want %s", got, c.want)
			}
			restored.Stop(2)
		})
	}
}

// A transaction is found where it finished, however many backups were taken
// since it began: one that stayed open, one that was prepared, and one that was
// rolled back, the newest backup before their ends being the one to begin with.
func TestRestoreToTransactionAcrossBackups(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1, Settings: []string{"max_prepared_transactions = 5"}})
	w.receive("--create-slot")
	w.primary.Psql(t, "CREATE TABLE t (who text)")
	begin := func(who string) (conn *pgconn.PgConn, xid string) {
		conn, err := pgconn.Connect(t.Context(), w.primary.Conninfo()+" dbname=postgres")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close(context.Background()) })
		results, err := conn.Exec(t.Context(), fmt.Sprintf("BEGIN; INSERT INTO t VALUES ('%s'); SELECT pg_current_xact_id()", who)).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		return conn, string(results[2].Rows[0][0])
	}
	end := func(conn *pgconn.PgConn, sql string) {
		if _, err := conn.Exec(t.Context(), sql).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	open, openXID := begin("open")
	prepared, preparedXID := begin("prepared")
	end(prepared, "PREPARE TRANSACTION 'p'")
	rolled, rolledXID := begin("rolled back")
	backups := []string{}
	take := func(n int) {
		for range n {
			var taken struct {
				ID string `json:"id"`
			}
			decode(t, w.must("backup", "--checkpoint", "fast", "--json"), &taken)
			backups = append(backups, taken.ID)
			w.history(2)
		}
	}
	take(2)
	end(open, "COMMIT")
	take(2)
	end(prepared, "COMMIT PREPARED 'p'")
	take(2)
	end(rolled, "ROLLBACK")
	take(1)
	w.archived()

	for xid, newest := range map[string]string{openXID: backups[1], preparedXID: backups[3], rolledXID: backups[5]} {
		var plan struct {
			Backup struct {
				ID string `json:"id"`
			} `json:"backup"`
			Before struct {
				XID uint32 `json:"xid"`
			} `json:"before"`
		}
		decode(t, w.must("restore", filepath.Join(w.dir, "r"), "--target-xid", xid, "--dry-run", "--json"), &plan)
		if plan.Backup.ID != newest || fmt.Sprint(plan.Before.XID) != xid {
			t.Errorf("transaction %s: backup %s up to %d, want backup %s of %v", xid, plan.Backup.ID, plan.Before.XID, newest, backups)
		}
	}
	restored := w.restore(filepath.Join(w.dir, "restored"), "--target-xid", preparedXID)
	if got := restored.Psql(t, "SELECT string_agg(who, ', ' ORDER BY who) FROM t"); got != "open, prepared" {
		t.Errorf("restored to the one that was prepared there is: %s", got)
	}
}
