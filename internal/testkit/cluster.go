package testkit

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Config describes a server to start.
type Config struct {
	// Major is the PostgreSQL version to run; 0 means the machine's own. Of
	// any other there are only the server programs.
	Major int
	// SegmentSizeMB is the wal_segment_size; 0 means PostgreSQL's 16 MiB.
	SegmentSizeMB int
	// Settings are lines for postgresql.conf, "name = value".
	Settings []string
	// Checksums turns page checksums on.
	Checksums bool
	// Durable leaves fsync on. Tests that do not cut the power need none.
	Durable bool
	// TCP is [Cluster.ListenTCP] before the start.
	TCP bool
}

// Cluster is a running PostgreSQL server on a unix socket of its own. It is
// stopped when the test ends.
type Cluster struct {
	DataDir   string
	SocketDir string
	Bin       string // directory of the server programs
	Major     int    // PostgreSQL's major version
	Port      int    // of the socket, and with ListenTCP on 127.0.0.1

	t    testing.TB
	cmd  *exec.Cmd
	exit chan struct{}
	log  string
	tcp  bool
}

// Start makes a cluster with initdb and starts it.
func Start(t testing.TB, cfg Config) *Cluster {
	t.Helper()
	dir := Dir(t)
	c := newCluster(t, dir, filepath.Join(dir, "data"), binDir(t, cfg.Major))
	args := []string{"-D", c.DataDir, "-U", "postgres", "-A", "trust", "-N", "--locale=C", "-E", "UTF8"}
	if cfg.SegmentSizeMB > 0 {
		args = append(args, fmt.Sprintf("--wal-segsize=%d", cfg.SegmentSizeMB))
	}
	if cfg.Checksums {
		args = append(args, "-k")
	} else if c.Major >= 18 {
		args = append(args, "--no-data-checksums")
	}
	Run(t, filepath.Join(c.Bin, "initdb"), args...)
	settings := []string{
		"listen_addresses = ''", "unix_socket_directories = '" + dir + "'", "port = 5432",
		"shared_buffers = 32MB", "max_wal_size = 256MB", "min_wal_size = " + fmt.Sprint(2*max(cfg.SegmentSizeMB, 16)) + "MB",
		"log_line_prefix = '%m [%p] '", "max_prepared_transactions = 10",
	}
	if !cfg.Durable {
		settings = append(settings, "fsync = off")
	}
	c.Configure(append(settings, cfg.Settings...)...)
	if cfg.TCP {
		c.ListenTCP()
	}
	c.Start()
	return c
}

// Adopt takes over a data directory that something else made, for instance a
// restore, and gives it a socket of its own. The server is not started yet; it
// will be of the major version that the directory is of.
func Adopt(t testing.TB, dataDir string) *Cluster {
	t.Helper()
	version, err := os.ReadFile(filepath.Join(dataDir, "PG_VERSION"))
	if err != nil {
		t.Fatal(err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(version)))
	if err != nil {
		t.Fatal(err)
	}
	return newCluster(t, Dir(t), dataDir, binDir(t, major))
}

func newCluster(t testing.TB, dir, dataDir, bin string) *Cluster {
	t.Helper()
	major, err := majorOf(bin)
	if err != nil {
		t.Fatal(err)
	}
	return &Cluster{DataDir: dataDir, SocketDir: dir, Bin: bin, Major: major, Port: 5432, t: t, log: filepath.Join(dir, "log")}
}

// ListenTCP makes the server listen on a free port of 127.0.0.1 too, from its
// next start on.
func (c *Cluster) ListenTCP() { c.tcp, c.Port = true, FreePort(c.t) }

// Configure appends lines to postgresql.conf; a restart or [Cluster.Reload]
// makes them count.
func (c *Cluster) Configure(lines ...string) {
	c.t.Helper()
	name := filepath.Join(c.DataDir, "postgresql.conf")
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(strings.Join(lines, "\n") + "\n"); err != nil {
		c.t.Fatal(err)
	}
}

// Reload makes the server read its configuration again.
func (c *Cluster) Reload() { c.Signal(syscall.SIGHUP) }

// Allow replaces pg_hba.conf and waits until the server goes by it.
func (c *Cluster) Allow(lines ...string) {
	c.t.Helper()
	name := filepath.Join(c.DataDir, "pg_hba.conf")
	if err := os.WriteFile(name, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		c.t.Fatal(err)
	}
	const loaded = "reloading configuration files"
	before := strings.Count(c.Log(), loaded)
	c.Reload()
	Wait(c.t, "the reload", func() (bool, string) { return strings.Count(c.Log(), loaded) > before, c.Log() })
}

// Launch starts the server without waiting for it.
func (c *Cluster) Launch() {
	c.t.Helper()
	log, err := os.OpenFile(c.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	addresses := ""
	if c.tcp {
		addresses = "127.0.0.1"
	}
	c.cmd = Command(c.t, filepath.Join(c.Bin, "postgres"), "-D", c.DataDir,
		"-c", "unix_socket_directories="+c.SocketDir, "-c", "listen_addresses="+addresses, "-c", fmt.Sprintf("port=%d", c.Port))
	c.cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT // immediate shutdown takes the children along
	c.cmd.Stdout, c.cmd.Stderr = log, log
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	exit := make(chan struct{})
	c.exit = exit
	cmd := c.cmd
	go func() { cmd.Wait(); close(exit) }()
	c.t.Cleanup(func() {
		if c.cmd == cmd {
			c.Stop(syscall.SIGQUIT)
		}
	})
}

// Start starts the server and waits until it answers queries, in recovery or
// not.
func (c *Cluster) Start() {
	c.t.Helper()
	c.Launch()
	Wait(c.t, "PostgreSQL to answer", func() (bool, string) {
		select {
		case <-c.exit:
			c.t.Fatalf("PostgreSQL ended while starting:\n%s", c.Log())
		default:
		}
		_, err := c.Query("SELECT 1")
		return err == nil, fmt.Sprintf("%v\n%s", err, c.Log())
	})
}

// Signal sends a signal to the postmaster.
func (c *Cluster) Signal(sig syscall.Signal) {
	c.t.Helper()
	if err := c.cmd.Process.Signal(sig); err != nil {
		c.t.Logf("signal postmaster: %v", err)
	}
}

// Exited is closed when the postmaster has ended.
func (c *Cluster) Exited() <-chan struct{} { return c.exit }

// Running says whether the postmaster lives.
func (c *Cluster) Running() bool {
	if c.cmd == nil {
		return false
	}
	select {
	case <-c.exit:
		return false
	default:
		return true
	}
}

// Stop ends the server: SIGINT is a fast shutdown, SIGTERM a smart one,
// SIGQUIT immediate, SIGKILL a crash.
func (c *Cluster) Stop(sig syscall.Signal) {
	c.t.Helper()
	if !c.Running() {
		return
	}
	if sig == syscall.SIGKILL {
		c.kill()
		return
	}
	c.Signal(sig)
	select {
	case <-c.exit:
	case <-time.After(time.Minute):
		c.cmd.Process.Kill()
		<-c.exit
		c.t.Errorf("PostgreSQL did not stop within a minute of %v:\n%s", sig, c.Log())
	}
}

// kill ends all processes of the server at once, and waits for them: orphans
// would hold shared memory and the socket.
func (c *Cluster) kill() {
	c.t.Helper()
	c.Signal(syscall.SIGSTOP) // it forks no more
	children := c.children()
	c.Signal(syscall.SIGKILL)
	for _, pid := range children {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	<-c.exit
	for _, pid := range children {
		Wait(c.t, "the server's processes to end", func() (bool, string) {
			stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return len(stat) == 0 || strings.Contains(string(stat), ") Z "), string(stat)
		})
	}
}

func (c *Cluster) children() []int {
	out, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", c.cmd.Process.Pid, c.cmd.Process.Pid))
	var pids []int
	for _, f := range strings.Fields(string(out)) {
		var pid int
		if _, err := fmt.Sscan(f, &pid); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Log is what the server has logged so far.
func (c *Cluster) Log() string {
	b, _ := os.ReadFile(c.log)
	return string(b)
}

// Conninfo leads to the server, as superuser.
func (c *Cluster) Conninfo() string {
	return fmt.Sprintf("host=%s port=%d user=postgres", c.SocketDir, c.Port)
}

// Query runs SQL by the simple protocol in database postgres and returns the
// rows of the last statement, columns separated by "|", one row a line.
func (c *Cluster) Query(sql string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgconn.Connect(ctx, c.Conninfo()+" dbname=postgres application_name=testkit")
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil || len(results) == 0 {
		return "", err
	}
	var lines []string
	for _, row := range results[len(results)-1].Rows {
		cols := make([]string, len(row))
		for i, v := range row {
			cols[i] = string(v)
		}
		lines = append(lines, strings.Join(cols, "|"))
	}
	return strings.Join(lines, "\n"), nil
}

// Psql is [Cluster.Query] for a test: an error ends it.
func (c *Cluster) Psql(t testing.TB, sql string) string {
	t.Helper()
	out, err := c.Query(sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return out
}
