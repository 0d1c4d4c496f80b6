package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/wal"
)

// world is a primary with the walstream binary, an archive and a spool beside
// it: what a user has.
type world struct {
	t       *testing.T
	bin     string
	dir     string
	archive string
	spool   string
	primary *testkit.Cluster
	dbname  string   // when it is not the primary's
	env     []string // beyond these
}

func newWorld(t *testing.T, cfg testkit.Config) *world {
	t.Helper()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, bin: bin, dir: testkit.Dir(t)}
	w.archive, w.spool = filepath.Join(w.dir, "archive"), filepath.Join(w.dir, "spool")
	w.primary = testkit.Start(t, cfg)
	return w
}

// command prepares a walstream run with the world's archive and spool.
func (w *world) command(args ...string) *exec.Cmd {
	cmd := testkit.Command(w.t, w.bin, args...)
	cmd.Env = append(cmd.Env, "WALSTREAM_ARCHIVE="+w.archive, "WALSTREAM_SPOOL="+w.spool,
		"WALSTREAM_DBNAME="+cmp.Or(w.dbname, w.primary.Conninfo()), "TZ=UTC")
	cmd.Env = append(cmd.Env, w.env...)
	return cmd
}

// run runs walstream to its end.
func (w *world) run(args ...string) (stdout, stderr string, code int) {
	w.t.Helper()
	cmd := w.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// must runs walstream and expects success.
func (w *world) must(args ...string) string {
	w.t.Helper()
	out, errs, code := w.run(args...)
	if code != 0 {
		w.t.Fatalf("walstream %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// receiving is a running walstream, mostly `walstream receive`.
type receiving struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  string
	done chan error
}

// receive starts `walstream receive` and waits until PostgreSQL sees it as
// the synchronous standby.
func (w *world) receive(args ...string) *receiving {
	w.t.Helper()
	r := w.launch(args...)
	w.synchronous(r)
	return r
}

// synchronous makes r the primary's synchronous standby.
func (w *world) synchronous(r *receiving) {
	w.t.Helper()
	w.primary.Psql(w.t, "ALTER SYSTEM SET synchronous_standby_names = 'walstream'")
	w.primary.Psql(w.t, "SELECT pg_reload_conf()")
	testkit.Wait(w.t, "walstream to be synchronous", func() (bool, string) {
		select {
		case err := <-r.done:
			w.t.Fatalf("walstream receive ended: %v\n%s", err, r.output())
		default:
		}
		state, err := w.primary.Query("SELECT sync_state FROM pg_stat_replication WHERE application_name = 'walstream'")
		return state == "sync", fmt.Sprintf("%s %v\n%s", state, err, r.output())
	})
}

// launch starts `walstream receive` without waiting for anything.
func (w *world) launch(args ...string) *receiving {
	w.t.Helper()
	return w.start(append([]string{"receive"}, args...)...)
}

// start starts walstream without waiting for anything.
func (w *world) start(args ...string) *receiving {
	w.t.Helper()
	r := &receiving{t: w.t, cmd: w.command(args...), done: make(chan error, 1)}
	log, err := os.CreateTemp(w.dir, args[0]+"-*.log")
	if err != nil {
		w.t.Fatal(err)
	}
	defer log.Close()
	r.log = log.Name()
	r.cmd.Stdout, r.cmd.Stderr = log, log
	if err := r.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() { r.done <- r.cmd.Wait() }()
	w.t.Cleanup(func() { r.cmd.Process.Kill() })
	return r
}

func (r *receiving) output() string {
	b, _ := os.ReadFile(r.log)
	return string(b)
}

// stop asks the receiver to end and expects that it does so cleanly.
func (r *receiving) stop() {
	r.t.Helper()
	r.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-r.done:
		if err != nil {
			r.t.Fatalf("walstream receive after SIGTERM: %v\n%s", err, r.output())
		}
	case <-time.After(time.Minute):
		r.t.Fatalf("walstream receive does not end after SIGTERM\n%s", r.output())
	}
}

// kill is kill -9.
func (r *receiving) kill() {
	r.cmd.Process.Kill()
	<-r.done
}

// writers commit numbered rows and remember which the server acknowledged.
type writers struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	acked  map[int]bool
}

// write starts n clients that insert into table acked(n int) until stopped.
// They reconnect when the server goes away.
func write(t *testing.T, c *testkit.Cluster, n int) *writers {
	t.Helper()
	c.Psql(t, "CREATE TABLE IF NOT EXISTS acked (n int PRIMARY KEY)")
	ctx, cancel := context.WithCancel(context.Background())
	ws := &writers{cancel: cancel, acked: map[int]bool{}}
	t.Cleanup(ws.stop)
	var start int
	fmt.Sscan(c.Psql(t, "SELECT coalesce(max(n), 0) FROM acked"), &start)
	for i := range n {
		ws.wg.Add(1)
		go func() {
			defer ws.wg.Done()
			ws.client(ctx, c.Conninfo(), start+i*10_000_000)
		}()
	}
	return ws
}

// inherit makes ws answer for what older writers were promised too.
func (ws *writers) inherit(older *writers) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for n := range older.acked {
		ws.acked[n] = true
	}
}

func (ws *writers) client(ctx context.Context, conninfo string, next int) {
	for ctx.Err() == nil {
		conn, err := pgconn.Connect(ctx, conninfo+" dbname=postgres application_name=writer")
		if err != nil {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		for err == nil {
			next++ // a number whose fate is unknown is never tried again
			_, err = conn.Exec(ctx, fmt.Sprintf("INSERT INTO acked VALUES (%d)", next)).ReadAll()
			if err == nil {
				ws.mu.Lock()
				ws.acked[next] = true
				ws.mu.Unlock()
			}
		}
		conn.Close(context.Background())
	}
}

func (ws *writers) count() int {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return len(ws.acked)
}

// atLeast waits until n more commits have been acknowledged.
func (ws *writers) atLeast(t *testing.T, n int) {
	t.Helper()
	goal := ws.count() + n
	testkit.Wait(t, "acknowledged commits", func() (bool, string) {
		have := ws.count()
		return have >= goal, fmt.Sprintf("%d of %d", have, goal)
	})
}

func (ws *writers) stop() {
	ws.cancel()
	ws.wg.Wait()
}

// lost lists the acknowledged commits that c does not have.
func (ws *writers) lost(t *testing.T, c *testkit.Cluster) []int {
	t.Helper()
	have := map[string]bool{}
	for _, line := range strings.Fields(c.Psql(t, "SELECT n FROM acked")) {
		have[line] = true
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	var lost []int
	for n := range ws.acked {
		if !have[fmt.Sprint(n)] {
			lost = append(lost, n)
		}
	}
	return lost
}

// startRestored starts a restored cluster with plain pg_ctl, as the user is
// told, and returns it once recovery has ended or paused.
func (w *world) startRestored(dir string) *testkit.Cluster {
	w.t.Helper()
	c := testkit.Adopt(w.t, dir)
	if recovers(w.t, c) == "stopped" {
		w.t.Fatalf("PostgreSQL stopped:\n%s", c.Log())
	}
	return c
}

// recovers starts a server and waits until recovery has "paused" or "promoted",
// or the server has "stopped".
func recovers(t *testing.T, c *testkit.Cluster) (state string) {
	t.Helper()
	c.Launch()
	paused := "pg_get_wal_replay_pause_state()"
	if c.Major < 14 {
		paused = "CASE WHEN pg_is_wal_replay_paused() THEN 'paused' ELSE 'in recovery' END"
	}
	testkit.Wait(t, "recovery to end or pause", func() (bool, string) {
		if !c.Running() {
			state = "stopped"
			return true, ""
		}
		var err error
		state, err = c.Query("SELECT CASE WHEN pg_is_in_recovery() THEN " + paused + " ELSE 'promoted' END")
		return state == "paused" || state == "promoted", fmt.Sprintf("%s %v\n%s", state, err, c.Log())
	})
	return state
}

// crash kills the primary and destroys its data directory.
func (w *world) crash() {
	w.t.Helper()
	w.primary.Stop(syscall.SIGKILL)
	if err := os.RemoveAll(w.primary.DataDir); err != nil {
		w.t.Fatal(err)
	}
}

// archived waits until everything up to now is in the archive in complete
// segments.
func (w *world) archived() {
	w.t.Helper()
	want, err := wal.ParseLSN(w.primary.Psql(w.t, "SELECT pg_switch_wal()"))
	if err != nil {
		w.t.Fatal(err)
	}
	testkit.Wait(w.t, "the archive to have "+want.String(), func() (bool, string) {
		out, _, _ := w.run("status", "--json") // exit code 3 if there is something to tell
		var s struct {
			Archived wal.LSN `json:"archived_lsn"`
		}
		return decode(w.t, out, &s).Archived >= want, out
	})
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// decode reads JSON output of walstream.
func decode[T any](t *testing.T, text string, v *T) *T {
	t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}
