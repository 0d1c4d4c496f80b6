package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/internal/term"
	"github.com/walstream/walstream/recovery"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// restored is a cluster that was restored and is started closed to clients: its only
// socket lies in the side directory, which is its owner's, and there everybody
// is let in. So no port, no pg_hba.conf and no client is in the way.
type restored struct {
	bin, dir, side string
	owner          string // to become, empty if this is who runs walstream
	users          []string
	major          int
}

// socketPort only names the socket.
const socketPort = 5432

// findPrograms finds the programs of a major version, in bin if that is given.
func findPrograms(ctx context.Context, bin, dir string, major int) (*restored, error) {
	candidates := []string{bin}
	if bin == "" {
		out, _ := exec.CommandContext(ctx, "pg_config", "--bindir").Output() // it may be missing
		candidates = []string{strings.TrimSpace(string(out)), fmt.Sprintf("/usr/lib/postgresql/%d/bin", major), fmt.Sprintf("/usr/pgsql-%d/bin", major), "/usr/local/pgsql/bin"}
	}
	wrong := ""
	for _, bin := range candidates {
		var have int
		out, err := exec.CommandContext(ctx, filepath.Join(bin, "postgres"), "--version").Output()
		if _, serr := fmt.Sscanf(string(out), "postgres (PostgreSQL) %d", &have); err != nil || serr != nil {
			continue
		}
		if have == major {
			return &restored{bin: bin, dir: dir, side: recovery.SideDir(dir), major: major}, nil
		}
		wrong = fmt.Sprintf("; those in %s are of %d", bin, have)
	}
	return nil, hint.Errorf(fmt.Sprintf("say where they are: --pg-bin /usr/lib/postgresql/%d/bin", major), "PostgreSQL %d is needed, and its programs are not found%s", major, wrong)
}

// pgCtl is the command that runs pg_ctl as the owner of the directory.
func (s *restored) pgCtl(args ...string) []string {
	command := append([]string{filepath.Join(s.bin, "pg_ctl"), "-D", s.dir}, args...)
	if s.owner != "" {
		command = append([]string{"runuser", "-u", s.owner, "--"}, command...)
	}
	return command
}

func (s *restored) run(ctx context.Context, args ...string) error {
	command := s.pgCtl(args...)
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir = s.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, strings.TrimSpace(string(out)))
	}
	return err
}

// start starts the server, which is to pause at its target whatever it shall do
// there later, and waits until it answers.
func (s *restored) start(ctx context.Context) error {
	var st unix.Stat_t
	if err := unix.Stat(s.dir, &st); err != nil {
		return err
	}
	s.users = []string{"postgres"}
	if name := os.Getenv("PGUSER"); name != "" {
		s.users = []string{name}
	}
	if u, err := user.LookupId(strconv.Itoa(int(st.Uid))); err == nil {
		s.users = append(s.users, u.Username)
		if int(st.Uid) != os.Geteuid() {
			s.owner = u.Username
		}
	}
	hba := filepath.Join(s.side, "pg_hba.conf")
	if err := os.WriteFile(hba, []byte("local all all trust\n"), 0o600); err != nil {
		return err
	}
	if err := os.Chown(hba, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	var options []string
	for _, o := range []string{
		"listen_addresses=", fmt.Sprintf("port=%d", socketPort), `unix_socket_directories="` + s.side + `"`, "hba_file=" + hba,
		"logging_collector=off", "log_destination=stderr", "hot_standby=on", "recovery_target_action=pause",
	} {
		options = append(options, "-c "+hint.Quote(o))
	}
	if err := s.run(ctx, "-s", "-w", "-t", "100000000", "-l", s.log(), "-o", strings.Join(options, " "), "start"); err != nil {
		return s.failed(ctx, err)
	}
	return nil
}

func (s *restored) log() string { return filepath.Join(s.side, "server.log") }

// failed completes an error with the end of the server's log.
func (s *restored) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return hint.With(context.Cause(ctx), "recovery goes on; end it: %s", quotedWords(s.pgCtl("stop")))
	}
	log, _ := os.ReadFile(s.log()) // which the hint names
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	return hint.With(fmt.Errorf("%w\n%s", err, strings.Join(lines[max(0, len(lines)-5):], "\n")), "all that the server said: less %s", hint.Quote(s.log()))
}

// recoveryEnd is where a recovery ended, which was followed.
type recoveryEnd struct {
	LSN      wal.LSN      `json:"lsn"`
	Timeline wal.Timeline `json:"timeline"`
	// LastFinish is the time of the last commit or abort that was replayed.
	LastFinish time.Time `json:"last_finish,omitzero"`
	Live       bool      `json:"live"` // no longer in recovery
	Paused     bool      `json:"paused"`
	Seconds    float64   `json:"seconds"`
	Socket     string    `json:"socket"`
	// Differs is what is not as planned.
	Differs []string `json:"differs,omitempty"`

	history string // the name of the live server's newest
}

func (e *recoveryEnd) String() string {
	parts := []string{fmt.Sprintf("%s on timeline %s", e.LSN, e.Timeline)}
	if !e.LastFinish.IsZero() {
		parts = append(parts, "last transaction "+term.Exact(e.LastFinish))
	}
	outcome := "as planned"
	if len(e.Differs) > 0 {
		outcome = "NOT as planned: " + strings.Join(e.Differs, "; ")
	}
	return join(append(parts, "after "+term.Duration(time.Duration(e.Seconds*float64(time.Second))), outcome)...)
}

// follow starts the server, waits until recovery ends or pauses, compares that
// with the plan, and lets the server do what the plan says then, if it is right.
func (s *restored) follow(ctx context.Context, p *recovery.Plan, progress *term.Progress) (*recoveryEnd, error) {
	began := time.Now()
	var end *recoveryEnd
	err := progress.While(ctx, func(ctx context.Context) error {
		if err := s.start(ctx); err != nil {
			return err
		}
		var err error
		end, err = s.await(ctx, func(e *recoveryEnd) bool {
			progress.Set(int64(e.LSN-min(e.LSN, p.Backup.StartLSN)), int64(p.End-p.Backup.StartLSN))
			return e.Live || e.Paused
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	end.Seconds = time.Since(began).Seconds()
	end.compare(p, s.dir)
	switch {
	case len(end.Differs) > 0:
	case p.Target.Action == recovery.ActionPromote && end.Paused:
		if err := s.query(ctx, "SELECT pg_wal_replay_resume()", nil); err != nil {
			return nil, s.failed(ctx, err)
		}
		live, err := s.await(ctx, func(e *recoveryEnd) bool { return e.Live })
		if err != nil {
			return nil, err
		}
		end.Live, end.Paused = live.Live, live.Paused
	case p.Target.Action == recovery.ActionShutdown:
		if err := s.run(ctx, "-s", "-m", "fast", "stop"); err != nil {
			return nil, s.failed(ctx, err)
		}
		end.Paused, end.Socket = false, ""
	}
	return end, nil
}

// await asks the server how far recovery is until that is enough.
func (s *restored) await(ctx context.Context, enough func(*recoveryEnd) bool) (*recoveryEnd, error) {
	paused := "pg_get_wal_replay_pause_state() = 'paused'"
	if s.major < 14 {
		paused = "pg_is_wal_replay_paused()"
	}
	for {
		e := &recoveryEnd{Socket: s.side}
		err := s.query(ctx, "SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN "+paused+" ELSE false END, coalesce(pg_last_wal_replay_lsn(), '0/0'), "+
			"CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) || '.history' END, "+
			`to_char(pg_last_xact_replay_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`, e)
		if err != nil {
			return nil, s.failed(ctx, err)
		}
		if enough(e) {
			return e, nil
		}
		select {
		case <-ctx.Done():
			return nil, s.failed(ctx, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// query runs SQL, and reads what [restored.await] asks for into e if that is set.
func (s *restored) query(ctx context.Context, sql string, e *recoveryEnd) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Done()
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil || e == nil {
		return err
	}
	row := results[0].Rows[0]
	e.Live, e.Paused, e.history = string(row[0]) == "f", string(row[1]) == "t", string(row[3])
	if e.LSN, err = wal.ParseLSN(string(row[2])); err == nil && row[4] != nil {
		e.LastFinish, err = time.Parse(time.RFC3339Nano, string(row[4]))
	}
	return err
}

// connect tries the names that the superuser usually has.
func (s *restored) connect(ctx context.Context) (conn *pg.Conn, err error) {
	for i, name := range s.users {
		conn, err = pg.ConnectSQL(ctx, pg.Options{AllowStandby: true, Conninfo: conninfoOf(s.side, name)})
		var refused *pgconn.PgError
		if err == nil {
			s.users = s.users[i : i+1]
			return conn, nil
		} else if !errors.As(err, &refused) {
			break
		}
	}
	return nil, hint.With(err, "the superuser has another name: PGUSER=NAME")
}

func conninfoOf(dir, name string) string {
	value := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	return fmt.Sprintf("host='%s' port=%d user='%s' dbname=postgres sslmode=disable", value.Replace(dir), socketPort, value.Replace(name))
}

// compare notes what is not as planned. While the source lives, the end of WAL
// moves on.
func (e *recoveryEnd) compare(p *recovery.Plan, dir string) {
	toEnd := p.Target.Kind == recovery.KindEnd
	if e.LSN != p.End && !(toEnd && e.LSN > p.End) {
		e.Differs = append(e.Differs, fmt.Sprintf("the plan was to end at %s", p.End))
	}
	var err error
	if e.Timeline, err = e.along(p.WAL[len(p.WAL)-1], filepath.Join(dir, "pg_wal")); err != nil {
		e.Differs = append(e.Differs, fmt.Sprintf("which timeline it is on is not known: %v", err))
	} else if want := p.WAL[len(p.WAL)-1].Timeline; e.Timeline != want {
		e.Differs = append(e.Differs, fmt.Sprintf("the plan was to end on timeline %s", want))
	}
	if b := p.Before; b != nil && !e.LastFinish.Equal(b.Time) && !(toEnd && e.LSN > p.End) {
		e.Differs = append(e.Differs, "the last transaction was to be that of "+term.Exact(b.Time))
	}
}

// along is the timeline that was followed: of a live server that on which its
// new one is based. Before that, PostgreSQL keeps the segment that it read last
// under its name, which tells the timeline.
func (e *recoveryEnd) along(last recovery.Range, pgWAL string) (wal.Timeline, error) {
	if !e.Live {
		_, err := os.Stat(filepath.Join(pgWAL, last.Last))
		return last.Timeline, err
	}
	tli, err := segment.ParseHistoryName(e.history)
	if err != nil {
		return 0, err
	}
	body, err := os.ReadFile(filepath.Join(pgWAL, e.history))
	if err != nil {
		return 0, err
	}
	h, err := segment.ParseHistory(tli, body)
	if err == nil && len(h.Ancestors) == 0 {
		err = errors.New(e.history + " names none")
	}
	if err != nil {
		return 0, err
	}
	return h.Ancestors[len(h.Ancestors)-1].Timeline, nil
}

func quotedWords(words []string) string {
	for i, w := range words {
		words[i] = hint.Quote(w)
	}
	return strings.Join(words, " ")
}

// nextSteps tells how to look at the server, make it live, and open it.
func (s *restored) nextSteps(e *recoveryEnd) string {
	if e.Socket == "" {
		return fmt.Sprintf("it is shut down at the target; start it with PostgreSQL %d:  %s\n", s.major, quotedWords(s.pgCtl("start")))
	}
	psql := fmt.Sprintf("%s -h %s -U %s -d postgres", hint.Quote(filepath.Join(s.bin, "psql")), hint.Quote(s.side), hint.Quote(s.users[0]))
	var b strings.Builder
	fmt.Fprintf(&b, "it runs, closed to clients; look:  %s\n", psql)
	if e.Paused && len(e.Differs) == 0 {
		fmt.Fprintf(&b, "it is paused at the target; make it live:  %s -c 'SELECT pg_wal_replay_resume()'\n", psql)
	}
	fmt.Fprintf(&b, "open it to clients:  %s && %s\n", quotedWords(s.pgCtl("stop")), quotedWords(s.pgCtl("start")))
	b.WriteString(harmless)
	return b.String()
}
