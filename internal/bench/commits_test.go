//go:build bench

package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/walstream/walstream/internal/testkit"
)

// round is what clients saw of one receiver.
type round struct {
	rate float64 // commits per second
	p99  float64 // of a commit, in ms
	cpu  float64 // of the receiver, in µs per commit
}

// TestCommits: clients commit, and each commit waits for the one receiver.
func TestCommits(t *testing.T) {
	s := newStand(t)
	s.primary.Psql(t, "CREATE TABLE bench (client int, n int)")
	s.primary.Configure("synchronous_standby_names = '*'")
	theirs := s.receivewal("pg_receivewal --synchronous", "--synchronous")
	fmt.Printf("\n### Synchronous commits\n\n%s; median of %d alternating pairs of %s each.\n\n",
		s.conditions(), s.plan.commitPairs, s.plan.round)
	fmt.Println("| receiver | clients | commits/s | p99 ms | CPU µs/commit | commits/s | p99 | CPU |")
	fmt.Println("|---|---:|---:|---:|---:|---:|---:|---:|")
	for _, clients := range s.plan.clients {
		for _, ours := range []contender{s.receiver(0), s.whole(s.primary.Conninfo())} {
			var a, b []round
			for i := range s.plan.commitPairs {
				if i%2 == 0 {
					a = append(a, s.commits(ours, clients))
				}
				b = append(b, s.commits(theirs, clients))
				if i%2 == 1 {
					a = append(a, s.commits(ours, clients))
				}
			}
			report(theirs.name, clients, b, b)
			report(ours.name, clients, a, b)
		}
	}
	s.standby(theirs)
}

// standby is the other reference: a hot standby, of which only the walreceiver
// is counted, not the replay.
func (s *stand) standby(theirs contender) {
	standby := s.primary.Standby()
	dir := testkit.Dir(s.t)
	for _, clients := range s.plan.clients {
		var a, b []round
		for range s.plan.standbyRuns {
			if !standby.Running() {
				standby.Start()
			}
			s.synchronous("a standby", &strings.Builder{})
			pid, err := strconv.Atoi(standby.Psql(s.t, "SELECT pid FROM pg_stat_wal_receiver"))
			if err != nil {
				s.t.Fatal(err)
			}
			a = append(a, s.measure(dir, clients, pid))
			standby.Stop(syscall.SIGINT)
			b = append(b, s.commits(theirs, clients))
		}
		report("hot standby", clients, a, b)
	}
}

// synchronous waits until the one receiver is, and is known to have flushed.
func (s *stand) synchronous(name string, said fmt.Stringer) {
	s.t.Helper()
	testkit.Wait(s.t, name+" to be synchronous", func() (bool, string) {
		s.primary.Reload()
		out, err := s.primary.Query("SELECT sync_state, flush_lsn FROM pg_stat_replication")
		return err == nil && strings.HasPrefix(out, "sync|") && !strings.HasSuffix(out, "|"), fmt.Sprint(out, err, said)
	})
}

func report(name string, clients int, a, b []round) {
	column := func(rounds []round, value func(round) float64) (all []float64) {
		for _, r := range rounds {
			all = append(all, value(r))
		}
		return all
	}
	rate, p99 := func(r round) float64 { return r.rate }, func(r round) float64 { return r.p99 }
	cpu := func(r round) float64 { return r.cpu }
	fmt.Printf("| %s | %d | %.0f | %.2f | %.1f | %.2f× | %.2f× | %.2f× |\n", name, clients,
		median(column(a, rate)), median(column(a, p99)), median(column(a, cpu)),
		ratio(column(a, rate), column(b, rate)), ratio(column(a, p99), column(b, p99)), ratio(column(a, cpu), column(b, cpu)))
}

// commits runs one round. Nobody but the contender is connected as a standby.
func (s *stand) commits(c contender, clients int) round {
	s.t.Helper()
	dir := testkit.Dir(s.t)
	defer os.RemoveAll(dir)
	s.slot("commits")
	p := s.launch(c, dir, "commits")
	s.synchronous(c.name, &p.out)
	r := s.measure(dir, clients, p.Process.Pid)
	s.interrupt(p)
	s.primary.Psql(s.t, "SET synchronous_commit = local; SELECT pg_drop_replication_slot('commits')")
	return r
}

// measure runs clients and looks at the process that receives their WAL.
func (s *stand) measure(dir string, clients, pid int) round {
	s.t.Helper()
	s.pgbench(dir, insert, clients, s.plan.round/5) // warm
	before := s.cpu(pid)
	latencies := s.pgbench(dir, insert, clients, s.plan.round)
	used := s.cpu(pid) - before
	n := len(latencies)
	return round{
		rate: float64(n) / s.plan.round.Seconds(),
		p99:  latencies[n*99/100] / 1000,
		cpu:  used.Seconds() * 1e6 / float64(n),
	}
}

// insert is what clients commit.
const insert = "INSERT INTO bench VALUES (:client_id, 1);\n"

// pgbench lets clients commit text for a while and returns how long each took,
// in µs, in order.
func (s *stand) pgbench(dir, text string, clients int, d time.Duration, args ...string) []float64 {
	s.t.Helper()
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
	prefix := filepath.Join(dir, "log")
	s.runPgbench(append(args, "-n", "-M", "prepared", "-f", script, "-c", strconv.Itoa(clients), "-T", strconv.Itoa(max(1, int(d.Seconds()))), "-l", "--log-prefix="+prefix)...)
	names, _ := filepath.Glob(prefix + ".*")
	var all []float64
	for _, name := range names {
		body, err := os.ReadFile(name)
		if err != nil {
			s.t.Fatal(err)
		}
		os.Remove(name)
		for line := range strings.Lines(string(body)) {
			us, err := strconv.ParseFloat(strings.Fields(line)[2], 64)
			if err != nil {
				s.t.Fatal(err)
			}
			all = append(all, us)
		}
	}
	if len(all) == 0 {
		s.t.Fatal("pgbench committed nothing")
	}
	slices.Sort(all)
	return all
}
