package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/internal/testkit"
)

// What can be wrong with the server, its users and the slot.
func TestBadServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	c := w.primary
	const name = `it's a\b: "c"` // of the role
	role := pg.QuoteIdent(name)
	app := strings.ReplaceAll(c.Conninfo(), "user=postgres", `user='it\'s a\\b: "c"'`)
	look := quoted("walstream", "slot", "show", "-d", app)
	receive := quoted("walstream", "receive", "--create-slot", "--once-until", "0/1000", "-d", app)
	restart := func(*world) { c.Stop(syscall.SIGINT); c.Start() }
	pgpass := func(password string) {
		if err := os.WriteFile(filepath.Join(w.dir, ".pgpass"), []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		testkit.Own(t, filepath.Join(w.dir, ".pgpass"))
	}
	sql := func(text string) func(*world) { return func(w *world) { w.primary.Psql(w.t, text) } }

	w.catalogue("The server", []bad{
		{name: "server down", do: func(w *world) { c.Stop(syscall.SIGINT) }, line: look, code: 1,
			want: "connect to " + c.SocketDir + "/.s.PGSQL.5432: no such file or directory", hint: "does a server listen there? ",
			paste: func(w *world, text string) { c.Start(); w.sh(text) }, mend: sql("CREATE ROLE " + role + " LOGIN REPLICATION"), then: 3},
		{name: "unknown role", do: sql("DROP ROLE " + role), line: look, code: 1,
			want: "as " + name + `: FATAL: role "` + name + `" does not exist`, paste: (*world).psql, then: 3},
		{name: "wal_level minimal", do: func(w *world) { c.Configure("wal_level = minimal", "max_wal_senders = 0"); restart(w) },
			line: receive, code: 1, want: "the server allows no WAL senders",
			hint: "restart PostgreSQL after: ", paste: (*world).psql, mend: restart},
		{name: "no REPLICATION right", do: sql("ALTER ROLE " + role + " NOREPLICATION PASSWORD 'right'"), line: receive, code: 1,
			want: "connect to " + c.SocketDir + "/.s.PGSQL.5432 as " + name + ": FATAL: ", paste: (*world).psql},
		{name: "pg_hba refuses", do: func(w *world) { pgpass("*:*:*:*:right"); c.Allow("local all postgres trust") }, line: receive, code: 1,
			want: "no pg_hba.conf entry for replication connection", hint: "put first into pg_hba.conf, then SELECT pg_reload_conf(): ",
			paste: func(w *world, text string) { c.Allow(text, "local all all trust") }},
		{name: "pg_hba rejects", do: func(w *world) {
			c.Allow("local all postgres trust", "local all all reject", "local replication all reject")
		}, line: receive, code: 1,
			want: "pg_hba.conf rejects", hint: "put first into pg_hba.conf, then SELECT pg_reload_conf(): ",
			paste: func(w *world, text string) { c.Allow(text, "local all all trust") }},
		{name: "wrong password", do: func(w *world) { pgpass("*:*:*:*:wrong") }, line: receive, code: 1,
			want: `password authentication failed for user "` + name + `"`, hint: "put the right password into ~/.pgpass (mode 600): ",
			paste: func(w *world, text string) { pgpass(strings.ReplaceAll(text, "PASSWORD", "right")) }, mend: func(*world) { c.Allow("local all all trust", "local replication all trust") }},
		{name: "slot missing", do: sql("SELECT pg_drop_replication_slot('walstream')"), line: strings.ReplaceAll(receive, " --create-slot", ""), code: 1,
			want: `replication slot "walstream" does not exist`, paste: (*world).sh},
		{name: "slot to show missing", do: sql("SELECT pg_drop_replication_slot('walstream')"), line: "walstream slot show", code: 3,
			want: `slot "walstream" does not exist`, paste: (*world).sh},
		{name: "slot in use", do: (*world).holdSlot, line: "walstream slot drop", code: 1,
			want: `slot "walstream" is in use`, hint: "end the connection that uses it: ", paste: (*world).psql},
		{name: "slot to drop missing", line: "walstream slot drop", code: 1, want: `slot "walstream" does not exist`, then: 1},
		{name: "logical slot", do: func(w *world) {
			c.Configure("wal_level = logical")
			c.Psql(t, "ALTER SYSTEM RESET wal_level")
			restart(w)
			c.Psql(t, "SELECT pg_create_logical_replication_slot('walstream', 'pgoutput')")
		}, line: receive, code: 1, want: `replication slot "walstream" cannot be used`, hint: "choose another name: ",
			paste: flags(receive), mend: sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")},
		{name: "archive elsewhere than the slot says", line: receive + " --archive " + w.dir + "/elsewhere --spool " + w.dir + "/elsewhere-spool", code: 1,
			do: func(w *world) {
				testkit.Wait(t, "the slot to move", func() (bool, string) { // it follows complete segments only
					c.Psql(t, "CREATE TABLE IF NOT EXISTS moved (); SELECT pg_switch_wal()")
					w.sh(receive + " --once-until " + c.Psql(t, "SELECT pg_current_wal_lsn()"))
					at := c.Psql(t, "SELECT (restart_lsn - '0/0') % 1048576 FROM pg_replication_slots WHERE slot_name = 'walstream'")
					return at == "0", at
				})
			},
			want: "slot walstream was moved to", hint: "if that archive is lost: ",
			paste: func(w *world, text string) { w.sh(text + " --once-until 0/1000") }},
		{name: "slot lost", do: (*world).loseSlot, line: "walstream slot show", code: 3,
			want: `slot "walstream" keeps no WAL`, paste: (*world).sh},
		{name: "WAL removed while the slot was lost", do: func(w *world) { w.shell("WALSTREAM_ON_GAP=stop walstream receive --create-slot") }, line: "WALSTREAM_ON_GAP=stop " + quoted("walstream", "receive", "--create-slot"), code: 1,
			want: "has already been removed", once: true,
			hint: "copy the missing segments from a standby or another archive into pg_wal of the server and start again; or go on behind them, with a new backup: ",
			paste: func(w *world, text string) {
				w.sh(text + " --create-slot --once-until " + c.Psql(t, "SELECT pg_current_wal_lsn() FROM pg_switch_wal()"))
			}},
	})
}

// holdSlot makes something else use the slot.
func (w *world) holdSlot() {
	w.t.Helper()
	dir := filepath.Join(w.dir, "held")
	testkit.Run(w.t, "mkdir", dir)
	cmd := testkit.Command(w.t, filepath.Join(w.primary.Bin, "pg_receivewal"), "-D", dir, "-n", "-S", "walstream", "-h", w.primary.SocketDir, "-p", "5432", "-U", "postgres")
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	testkit.Wait(w.t, "the slot to be in use", func() (bool, string) {
		active := w.primary.Psql(w.t, "SELECT active FROM pg_replication_slots")
		return active == "t", active
	})
}

// loseSlot makes the server invalidate the slot.
func (w *world) loseSlot() {
	w.t.Helper()
	w.sh("walstream slot create")
	w.primary.Psql(w.t, "ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
	w.primary.Psql(w.t, "SELECT pg_reload_conf()")
	testkit.Wait(w.t, "the slot to be lost", func() (bool, string) {
		w.primary.Psql(w.t, "CREATE TABLE IF NOT EXISTS churn (i int); INSERT INTO churn SELECT generate_series(1, 50000)")
		w.primary.Psql(w.t, "SELECT pg_switch_wal()")
		w.primary.Psql(w.t, "CHECKPOINT")
		status := w.primary.Psql(w.t, "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'walstream'")
		return status == "lost", fmt.Sprint(status)
	})
	w.primary.Psql(w.t, "ALTER SYSTEM RESET max_slot_wal_keep_size")
	w.primary.Psql(w.t, "SELECT pg_reload_conf()")
}
