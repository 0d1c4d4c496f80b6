package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/recovery"
)

// restored is a cluster that was restored, to be started closed to clients: its
// only socket lies in the side directory, which is its owner's, and there
// everybody is let in. So no port, no pg_hba.conf and no client is in the way.
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
	// pg_ctl, which may be a child of runuser, is to end with this; the server
	// has a session of its own.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = time.Second
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
	f, err := os.OpenFile(hba, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString("local all all trust\n")
	if err := errors.Join(err, f.Chown(int(st.Uid), int(st.Gid)), f.Close()); err != nil {
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

// tell logs what wal-get finds wrong, until ctx ends: recovery waits for it, and
// its words are in the server's log only.
func (s *restored) tell(ctx context.Context, log zerolog.Logger) {
	var r *bufio.Reader
	var line string
	for tick := time.Tick(time.Second); ; {
		if r == nil {
			if f, err := os.Open(s.log()); err == nil { // there is none before the server starts
				defer f.Close() // read only
				r = bufio.NewReader(f)
			}
		}
		for r != nil {
			part, err := r.ReadString('\n')
			line += part
			if err != nil {
				break
			}
			if strings.Contains(line, " WRN ") || strings.Contains(line, " ERR ") {
				log.Warn().Str("said", strings.TrimSpace(line)).Msg("recovery has trouble to get WAL")
			}
			line = ""
		}
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
	}
}

// failed completes an error with the end of the server's log.
func (s *restored) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return hint.With(context.Cause(ctx), "recovery goes on; end it: %s", quotedWords(s.pgCtl("stop")))
	}
	log, _ := os.ReadFile(s.log()) // which the hint names
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	return hint.With(fmt.Errorf("%w\n%s", err, strings.Join(lines[max(0, len(lines)-5):], "\n")), "all that the server said: less %s", hint.Quote(s.log()))
}

// connect tries the names that the superuser usually has.
func (s *restored) connect(ctx context.Context) (conn *pg.Conn, err error) {
	for i, name := range s.users {
		conn, err = pg.ConnectSQL(ctx, pg.Options{AllowStandby: true, Conninfo: conninfoOf(s.side, name)})
		if err == nil {
			s.users = s.users[i : i+1]
			return conn, nil
		} else if !errors.As(err, new(*pgconn.PgError)) {
			break
		}
	}
	return nil, hint.With(err, "the superuser has another name: PGUSER=NAME")
}

func conninfoOf(dir, name string) string {
	value := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	return fmt.Sprintf("host='%s' port=%d user='%s' dbname=postgres sslmode=disable", value.Replace(dir), socketPort, value.Replace(name))
}

func quotedWords(words []string) string {
	for i, w := range words {
		words[i] = hint.Quote(w)
	}
	return strings.Join(words, " ")
}
