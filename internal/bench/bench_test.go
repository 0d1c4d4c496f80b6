//go:build bench

package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/wal"
)

// plan is how much is measured: a run that means something, or one that only
// shows that all of it works.
type plan struct {
	catchUpPairs, commitPairs, standbyRuns int
	walMiB                                 int
	clients                                []int
	round                                  time.Duration // of pgbench
	clusterMiB                             int           // to be restored
	outage                                 time.Duration // of the store
}

func newPlan() plan {
	if os.Getenv("BENCH") == "short" {
		return plan{1, 1, 1, 96, []int{8}, time.Second, 128, 15 * time.Second}
	}
	if os.Getenv("BENCH") == "medium" { // for a busy machine, to see a trend
		return plan{3, 5, 1, 1024, []int{1, 8, 32}, 2 * time.Second, 1024, time.Minute}
	}
	return plan{5, 15, 3, 2048, []int{1, 8, 32}, 2 * time.Second, 3072, time.Minute}
}

// contender is one receiver of WAL: how to start it, streaming into dir.
type contender struct {
	name    string
	command func(dir, slot string) *exec.Cmd
}

// stand is the place where contenders meet: one primary, for all of them.
type stand struct {
	t       *testing.T
	plan    plan
	primary *testkit.Cluster
	self    string // this program, where the unprivileged user can read it
	product string // the walstream program
}

func newStand(t *testing.T, settings ...string) *stand {
	s := &stand{t: t, plan: newPlan()}
	s.primary = testkit.Start(t, testkit.Config{Durable: true, Settings: append([]string{
		"max_wal_size = 16GB", "checkpoint_timeout = 1h", "shared_buffers = 256MB", "max_connections = 60",
		"wal_keep_size = 8GB", "autovacuum = off",
	}, settings...)})
	dir := testkit.Dir(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	s.self = filepath.Join(dir, "receiver")
	if err := os.WriteFile(s.self, program, 0o755); err != nil {
		t.Fatal(err)
	}
	if s.product, err = testkit.Build(dir); err != nil {
		t.Fatal(err)
	}
	return s
}

// receivewal is Debian's program.
func (s *stand) receivewal(name string, args ...string) contender {
	return contender{name, func(dir, slot string) *exec.Cmd {
		args := append([]string{"-D", dir, "-S", slot, "-d", s.primary.Conninfo() + " application_name=bench"}, args...)
		return testkit.Command(s.t, filepath.Join(testkit.BinDir(s.t), "pg_receivewal"), args...)
	}}
}

// receiver is receiver and spool alone, see receive; end may be 0.
func (s *stand) receiver(end wal.LSN) contender {
	return contender{"walstream, archiving off", func(dir, slot string) *exec.Cmd {
		return testkit.Command(s.t, s.self, "receive", s.primary.Conninfo(), dir, slot, end.String())
	}}
}

// whole is the product, archiving to a directory.
func (s *stand) whole(conninfo string) contender {
	return contender{"walstream receive", func(dir, slot string) *exec.Cmd {
		return testkit.Command(s.t, s.product, "receive", "-q", "--slot", slot, "-d", conninfo+" application_name=bench",
			"--spool", filepath.Join(dir, "spool"), "--archive", filepath.Join(dir, "archive"))
	}}
}

// process is a contender at work.
type process struct {
	*exec.Cmd
	out strings.Builder
}

func (s *stand) launch(c contender, dir, slot string) *process {
	s.t.Helper()
	p := &process{Cmd: c.command(dir, slot)}
	p.Stderr = &p.out
	if err := p.Start(); err != nil {
		s.t.Fatal(err)
	}
	return p
}

// wait waits for its end by itself.
func (s *stand) wait(p *process) {
	s.t.Helper()
	if err := p.Wait(); err != nil {
		s.t.Fatalf("%s: %v\n%s", p, err, &p.out)
	}
}

// interrupt ends it by a signal.
func (s *stand) interrupt(p *process) {
	s.t.Helper()
	if err := p.Process.Signal(syscall.SIGINT); err != nil {
		s.t.Error(err)
	}
	s.wait(p)
}

// cpu is what a process has used so far.
func (s *stand) cpu(pid int) time.Duration {
	s.t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		s.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	var user, system int64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		s.t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100 everywhere
}

// peak is the most memory that receive has had, in MiB.
func (s *stand) peak(p *process) float64 {
	var kib float64
	if _, err := fmt.Sscan(p.out.String(), &kib); err != nil {
		return 0 // another program
	}
	return kib / 1024
}

func (s *stand) pgbenchCommand(args ...string) *exec.Cmd {
	return testkit.Command(s.t, filepath.Join(testkit.BinDir(s.t), "pgbench"), append(args, "-h", s.primary.SocketDir, "-p", "5432", "-U", "postgres", "postgres")...)
}

func (s *stand) runPgbench(args ...string) {
	s.t.Helper()
	cmd := s.pgbenchCommand(args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("pgbench: %v\n%s", err, out)
	}
}

func (s *stand) slot(name string) {
	s.t.Helper()
	s.primary.Psql(s.t, "SELECT pg_create_physical_replication_slot('"+name+"', true)")
}

func (s *stand) lsn(expr string) wal.LSN {
	s.t.Helper()
	lsn, err := wal.ParseLSN(s.primary.Psql(s.t, "SELECT "+expr))
	if err != nil {
		s.t.Fatal(err)
	}
	return lsn
}

// median is that of values; they are sorted by it.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// ratio is the median of the pairs' ratios.
func ratio(a, b []float64) float64 {
	all := make([]float64, len(a))
	for i := range a {
		all[i] = a[i] / b[i]
	}
	return median(all)
}

// conditions are what the numbers were measured under.
func (s *stand) conditions() string {
	uname, _ := exec.Command("uname", "-sr").Output()
	load, _ := os.ReadFile("/proc/loadavg")
	version, _ := exec.Command(filepath.Join(testkit.BinDir(s.t), "pg_receivewal"), "--version").Output()
	return fmt.Sprintf("%s, %d cores, %s, %s, unix socket, load at the start %s",
		strings.TrimSpace(string(uname)), runtime.NumCPU(), runtime.Version(), strings.TrimSpace(string(version)),
		strings.Join(strings.Fields(string(load))[:3], " "))
}
