package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/recovery"
	"github.com/walstream/walstream/wal"
)

// debian moves the configuration of the primary out of its data directory.
func (w *world) debian() {
	w.t.Helper()
	w.primary.Stop(syscall.SIGINT)
	etc := filepath.Join(w.dir, "etc")
	testkit.Run(w.t, "mkdir", etc)
	for _, name := range []string{"postgresql.conf", "pg_hba.conf", "pg_ident.conf"} {
		testkit.Run(w.t, "mv", filepath.Join(w.primary.DataDir, name), etc)
	}
	testkit.Run(w.t, filepath.Join(w.primary.Bin, "pg_ctl"), "-D", w.primary.DataDir, "-l", filepath.Join(w.dir, "log"),
		"-o", fmt.Sprintf("-c config_file=%[1]s/postgresql.conf -c hba_file=%[1]s/pg_hba.conf -c ident_file=%[1]s/pg_ident.conf -c max_connections=222", etc), "start")
	w.servers(w.primary.DataDir)
}

// Restores that start PostgreSQL themselves, one of them as root, and what they
// say of its recovery. The backup lacks the configuration files.
func TestRestoreWait(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	w.debian()
	w.receive("--create-slot")
	w.must("backup", "--checkpoint", "fast")
	steps := w.history(3)
	// At the end of WAL the first that asks is told that recovery goes on, and
	// then that it does not: it may end in between.
	w.primary.Psql(t, `CREATE SCHEMA between; CREATE SEQUENCE between.asked;
		CREATE FUNCTION between.pg_is_in_recovery() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
			RETURN pg_catalog.pg_is_in_recovery() OR nextval('between.asked') <= 2;
		END $$;
		ALTER DATABASE postgres SET search_path = between, pg_catalog, public`)
	w.archived()
	wait := func(name string, code int, args ...string) (end recoveryEnd, c *testkit.Cluster) {
		t.Helper()
		dir := filepath.Join(w.dir, name)
		w.servers(dir)
		line := quoted(append([]string{"walstream", "restore", dir, "--wait", "--json"}, args...)...)
		if os.Geteuid() == 0 && name == "paused" {
			line = "sudo " + line
		}
		out, errs, have := w.shell(line)
		if have != code {
			t.Fatalf("exit code %d, want %d\n%s%s", have, code, out, errs)
		}
		return decode(t, out, &struct{ Recovery recoveryEnd }{}).Recovery, quarantined(dir)
	}

	end, c := wait("paused", 0, "--target-xid", steps[1].xid)
	if rows := c.Psql(t, "SELECT count(*) FROM steps"); !end.Paused || end.Live || rows != "2" {
		t.Errorf("%s rows, %+v", rows, end)
	}
	if got := c.Psql(t, "SELECT current_setting('listen_addresses') || current_setting('max_connections')"); got != "222" {
		t.Errorf("addresses and connections %s", got)
	}
	end, c = wait("promoted", 0, "--target-xid", steps[1].xid, "--target-action", "promote")
	if state := c.Psql(t, "SELECT pg_is_in_recovery()"); !end.Live || state != "f" {
		t.Errorf("in recovery: %s, %+v", state, end)
	}
	end, c = wait("end", 0)
	if rows := c.Psql(t, "SELECT count(*) FROM steps"); !end.Live || rows != "3" || end.LastFinish.IsZero() {
		t.Errorf("%s rows, %+v", rows, end)
	}
	end, c = wait("shut", 0, "--target-lsn", steps[0].lsn, "--target-action", "shutdown")
	if _, err := c.Query("SELECT 1"); err == nil || end.Socket != "" {
		t.Errorf("it still runs: %+v", end)
	}
	if exists(filepath.Join(w.dir, "shut", "postmaster.pid")) {
		t.Error("it was not shut down")
	}

	// Programs that are not there, and of another version.
	fake := filepath.Join(w.dir, "fake")
	if err := os.Mkdir(fake, 0o755); err != nil {
		t.Fatal(err)
	}
	for body, want := range map[string]string{"": "its programs are not found", "#!/bin/sh\necho 'postgres (PostgreSQL) 9.6'\n": "those in " + fake + " are of 9"} {
		if err := os.WriteFile(filepath.Join(fake, "postgres"), []byte(body), 0o755); err != nil {
			t.Fatal(err)
		}
		_, errs, code := w.run("restore", filepath.Join(w.dir, "other"), "--wait", "--pg-bin", fake)
		if code != 1 || !strings.Contains(errs, want) || exists(filepath.Join(w.dir, "other")) {
			t.Errorf("exit code %d, want %q in\n%s", code, want, errs)
		}
	}
	// A server that cannot start says why.
	w.primary.Psql(t, "ALTER SYSTEM SET ssl = on")
	w.must("backup", "--checkpoint", "fast")
	dir := filepath.Join(w.dir, "broken")
	if _, errs, code := w.run("restore", dir, "--wait"); code != 1 || !strings.Contains(errs, "FATAL") || !strings.Contains(errs, "hint: all that the server said: less "+dir) {
		t.Errorf("exit code %d\n%s", code, errs)
	}
	if os.Geteuid() == 0 {
		w.unread()
	}
}

// A recovery that ended elsewhere is told apart from the plan.
func TestRecoveryEndCompare(t *testing.T) {
	end := recoveryEnd{LSN: 0x200}
	p := &recovery.Plan{End: 0x300, WAL: []recovery.Range{{Timeline: 1, Last: "000000010000000000000001"}}, Target: recovery.Target{Kind: recovery.KindLSN}}
	end.compare(p, t.TempDir())
	if text := end.String(); len(end.Differs) != 2 || !strings.Contains(text, "NOT as planned: the plan was to end at 0/300; which timeline it is on is not known") {
		t.Error(text)
	}
	// It went live, on a timeline that is based on the second.
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "pg_wal"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pg_wal", "00000003.history"), []byte("1\t0/100\tx\n2\t0/300\tx\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := time.Now()
	end = recoveryEnd{LSN: 0x300, Live: true, history: "00000003.history", LastFinish: at}
	p.Before = &wal.Finish{Time: at.Add(time.Microsecond)}
	end.compare(p, dir)
	if text := end.String(); len(end.Differs) != 3 || !strings.Contains(text, "end on timeline 1; it did not pause at the target; the last transaction was to be") {
		t.Error(text)
	}
}

// unread restores as root what PostgreSQL will not be able to read.
func (w *world) unread() {
	for dir, more := range map[string]string{w.archive: "", w.spool: " --standby"} {
		if out, err := exec.Command("chown", "-R", "root:root", dir).CombinedOutput(); err != nil {
			w.t.Fatalf("%v: %s", err, out)
		}
		line := "sudo " + quoted("walstream", "restore", filepath.Join(w.dir, "unread"+more)) + more
		_, errs, code := w.shell(line)
		_, remedy, _ := strings.Cut(errs, "hint: let the group of that user read what is there: ")
		if code != 1 || !strings.Contains(errs, "who will run PostgreSQL: open "+dir) || exists(filepath.Join(w.dir, "unread"+more)) {
			w.t.Errorf("exit code %d\n%s", code, errs)
		}
		if out, err := exec.Command("sh", "-c", remedy).CombinedOutput(); err != nil {
			w.t.Errorf("%s: %v\n%s", remedy, err, out)
		}
		if _, errs, code := w.shell(line); code != 0 {
			w.t.Errorf("exit code %d\n%s", code, errs)
		}
		testkit.Own(w.t, dir)
	}
}

// What stops recovery, the server's log alone tells.
func TestRecoveryTrouble(t *testing.T) {
	t.Parallel()
	s := &restored{side: t.TempDir()}
	logs, w := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer w.Close()
		s.tell(ctx, zerolog.New(w))
	}()
	f, err := os.Create(s.log())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, part := range []string{"LOG:  starting\n10:00:00 WRN cannot get WAL yet error=\"den", "ied\"\n", "10:00:09 INF fine\n"} {
		if _, err := f.WriteString(part); err != nil {
			t.Fatal(err)
		}
	}
	r := bufio.NewReader(logs)
	if got, err := r.ReadString('\n'); err != nil || !strings.Contains(got, "cannot get WAL yet") || !strings.Contains(got, "denied") {
		t.Errorf("%s %v", got, err)
	}
	cancel()
	if more, err := io.ReadAll(r); err != nil || len(more) > 0 {
		t.Errorf("also %s %v", more, err)
	}
}

// An interrupted wait for the start of the server ends, and with it what waits.
func TestRecoveryInterrupted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script := "#!/bin/sh\nsleep 1000 &\necho $! >pid.new && mv pid.new pid\nwait\n"
	if err := os.WriteFile(filepath.Join(dir, "pg_ctl"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		for t.Context().Err() == nil && !exists(filepath.Join(dir, "pid")) {
			time.Sleep(10 * time.Millisecond)
		}
	}()
	if err := (&restored{bin: dir, dir: dir}).run(ctx, "start"); err == nil {
		t.Error("pg_ctl has ended")
	}
	body, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "the end of what waits", func() (bool, string) {
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(state), ") Z "), string(state)
	})
}
