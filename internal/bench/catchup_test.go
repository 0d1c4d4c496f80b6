//go:build bench

package bench

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// run is how one receiver caught up.
type run struct {
	rate float64 // MiB per second
	cpu  float64 // seconds per GiB
	peak float64 // MiB of memory
}

// TestCatchUp: WAL waits behind a slot, and all of it is fetched.
func TestCatchUp(t *testing.T) {
	s := newStand(t)
	s.slot("base")
	start := s.lsn("pg_current_wal_flush_lsn()")
	for s.lsn("pg_current_wal_flush_lsn()") < start+wal.LSN(s.plan.walMiB)<<20 {
		s.primary.Psql(t, "SELECT count(pg_logical_emit_message(true, 'bench', repeat(md5(i::text), 2000))) FROM generate_series(1, 1000) i")
	}
	s.primary.Psql(t, "SELECT pg_switch_wal()")
	end := s.lsn("pg_current_wal_flush_lsn()")
	until := "--endpos=" + end.String()
	ours := s.receiver(end)
	others := []contender{
		s.receivewal("pg_receivewal --no-sync", "--no-sync", until), s.receivewal("pg_receivewal", until),
		s.receivewal("pg_receivewal --synchronous", "--synchronous", until),
	}
	fmt.Printf("\n### Catching up with %.1f GiB of WAL\n\n%s; median of %d alternating pairs.\n\n",
		float64(end-start)/(1<<30), s.conditions(), s.plan.catchUpPairs)
	fmt.Println("| receiver | MiB/s | CPU s/GiB | MiB/s of walstream | CPU of walstream |")
	fmt.Println("|---|---:|---:|---:|---:|")
	for _, c := range []contender{others[0], ours} { // warm
		s.catchUp(c, start, end)
	}
	var all []run
	for _, other := range others {
		var a, b []run
		for i := range s.plan.catchUpPairs {
			if i%2 == 0 {
				a = append(a, s.catchUp(ours, start, end))
			}
			b = append(b, s.catchUp(other, start, end))
			if i%2 == 1 {
				a = append(a, s.catchUp(ours, start, end))
			}
		}
		all = append(all, a...)
		fmt.Printf("| %s | %.0f | %.2f | %.2f× | %.2f× |\n", other.name, median(rates(b)), median(cpus(b)),
			ratio(rates(a), rates(b)), ratio(cpus(a), cpus(b)))
	}
	fmt.Printf("| %s | %.0f | %.2f | | |\n\nwalstream's memory was %.0f MiB at most (VmHWM).\n", ours.name, median(rates(all)), median(cpus(all)), peaks(all))
}

func rates(runs []run) (all []float64) {
	for _, r := range runs {
		all = append(all, r.rate)
	}
	return all
}

func cpus(runs []run) (all []float64) {
	for _, r := range runs {
		all = append(all, r.cpu)
	}
	return all
}

func peaks(runs []run) (most float64) {
	for _, r := range runs {
		most = max(most, r.peak)
	}
	return most
}

// catchUp fetches everything from a slot of its own that holds it all.
func (s *stand) catchUp(c contender, start, end wal.LSN) run {
	s.t.Helper()
	dir := testkit.Dir(s.t)
	defer os.RemoveAll(dir)
	s.primary.Psql(s.t, "SELECT pg_copy_physical_replication_slot('base', 'catchup')")
	began := time.Now()
	p := s.launch(c, dir, "catchup")
	s.wait(p)
	took := time.Since(began)
	s.compare(dir, end)
	s.primary.Psql(s.t, "SELECT pg_drop_replication_slot('catchup')")
	gib := float64(end-start) / (1 << 30)
	cpu := p.ProcessState.UserTime() + p.ProcessState.SystemTime()
	return run{rate: 1024 * gib / took.Seconds(), cpu: cpu.Seconds() / gib, peak: s.peak(p)}
}

// compare wants the last complete segment to be the server's.
func (s *stand) compare(dir string, end wal.LSN) {
	s.t.Helper()
	name := segment.At(1, end-1-16<<20, 16<<20).Name(16 << 20)
	want, err := os.ReadFile(filepath.Join(s.primary.DataDir, "pg_wal", name))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, name), filepath.Join(dir, "spool", name)} {
		if got, err := os.ReadFile(path); err == nil && bytes.Equal(got, want) {
			return
		}
	}
	entries, _ := os.ReadDir(dir)
	s.t.Fatalf("%s is not what the server has: %v", name, entries)
}
