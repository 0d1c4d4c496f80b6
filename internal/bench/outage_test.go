//go:build bench

package bench

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// transfer is what clients commit while the store is away: the first change of
// a page after a checkpoint logs all of the page.
const transfer = "\\set aid random(1, 1000000)\nUPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;\n"

// transferRate is how many of them a second: less than the machine can do.
const transferRate = 300

// TestOutage: the store is away for a while under load. Commits go on; once it
// is back the tail is there at once, and what was held back is brought into it
// while more comes, about as fast as a receiver of its own brings the same WAL
// into it from the server. Nothing is missing.
func TestOutage(t *testing.T) {
	s := newStand(t, "checkpoint_timeout = 1min")
	away := s.plan.outage
	if d, err := time.ParseDuration(os.Getenv("OUTAGE")); err == nil {
		away = d
	}
	s.runPgbench("-i", "-q", "-s", "10")
	store := s.startS3()
	wire := testkit.StartToxiproxy(t).Wire(t, "store", store.address)
	through := store
	through.address = fmt.Sprintf("127.0.0.1:%d", wire.Port)
	dir := testkit.Dir(t)
	s.slot("outage")
	p := s.launch(s.intoS3(through, "outage", "fastest"), dir, "outage")
	s.primary.Configure("synchronous_standby_names = 'outage'")
	s.synchronous("walstream", &p.out)

	s.slot("base")
	wire.Set(map[string]any{"enabled": false})
	from := s.switchWAL()
	s.primary.Psql(t, "CHECKPOINT") // so that there is a backlog soon
	latencies := s.pgbench(dir, transfer, 4, away, "-R", fmt.Sprint(transferRate))
	if want := transferRate * away.Seconds() / 2; float64(len(latencies)) < want {
		t.Errorf("%d commits in %s, want at least %.0f", len(latencies), away, want)
	}
	more := s.pgbenchCommand("-n", "-M", "prepared", "-f", filepath.Join(dir, "script"), "-c", "4", "-T", "3600", "-R", fmt.Sprint(transferRate))
	if err := more.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { more.Process.Kill(); more.Wait() })
	to := s.switchWAL()
	backlog := float64(to-from) / (1 << 20)
	wire.Set(map[string]any{"enabled": true})
	back := time.Now()
	a := s.stored(store, "outage")
	testkit.Wait(t, "the tail", func() (bool, string) { return a.newest(t) >= to, p.out.String() })
	tail := time.Since(back)
	testkit.Wait(t, "the backlog to be stored", func() (bool, string) { return len(a.missing(t, from, to)) == 0, p.out.String() })
	drain := time.Since(back)
	var behind []float64
	for range 20 {
		end, began := s.lsn("pg_current_wal_flush_lsn()"), time.Now()
		testkit.Wait(t, "the tail", func() (bool, string) { return a.newest(t) >= end, p.out.String() })
		behind = append(behind, time.Since(began).Seconds())
	}

	again := testkit.Dir(t)
	s.primary.Psql(t, "SELECT pg_copy_physical_replication_slot('base', 'again')")
	began := time.Now()
	s.wait(s.launch(s.intoS3(store, "again", "fastest", "--once-until", to.String()), again, "again"))
	catchUp := time.Since(began)
	more.Process.Signal(os.Interrupt)
	more.Wait()
	end := s.switchWAL()
	testkit.Wait(t, "all of it to be stored", func() (bool, string) { return len(a.missing(t, from, end)) == 0, p.out.String() })
	s.interrupt(p)
	a.compare(t, s.primary, from, end)
	n := len(latencies)
	fmt.Printf("\n### %s without the store, %d commits a second\n\n%s.\n\n", away, transferRate, s.conditions())
	fmt.Println("| commits meanwhile | p99 ms | longest ms | held back MiB | tail there after | all there after | MiB/s | of catching up | tail behind then, median and most |")
	fmt.Println("|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
	fmt.Printf("| %d | %.1f | %.1f | %.0f | %.1f s | %.1f s | %.0f | %.2f× | %.1f s, %.1f s |\n", n, latencies[n*99/100]/1000, latencies[n-1]/1000,
		backlog, tail.Seconds(), drain.Seconds(), backlog/drain.Seconds(), catchUp.Seconds()/drain.Seconds(), median(behind), slices.Max(behind))
}

// switchWAL is the start of the next segment, up to which the server has
// written now.
func (s *stand) switchWAL() wal.LSN {
	s.t.Helper()
	return segment.Size(16 << 20).Floor(s.lsn("pg_switch_wal()") + 16<<20 - 1)
}

// archived is an archive in the S3 server, read without that: its objects are files.
type archived struct{ *archive.Archive }

func (s *stand) stored(store s3, name string) archived {
	s.t.Helper()
	dir, err := archive.OpenDir(archive.DirConfig{Path: filepath.Join(store.dir, bucket, name)})
	if err != nil {
		s.t.Fatal(err)
	}
	a, err := archive.Open(s.t.Context(), dir)
	if err != nil {
		s.t.Fatal(err)
	}
	return archived{a}
}

// newest is the end of the newest WAL that is stored, as a tail or whole.
func (a archived) newest(t *testing.T) (end wal.LSN) {
	for p, err := range a.Pieces(t.Context(), 1, 0) {
		if err != nil {
			t.Fatal(err)
		}
		end = max(end, p.ID.Start(16<<20)+wal.LSN(p.To))
	}
	return end
}

// missing are the segments that are not stored whole.
func (a archived) missing(t *testing.T, from, to wal.LSN) map[segment.ID]bool {
	want := map[segment.ID]bool{}
	for lsn := from; lsn < to; lsn += 16 << 20 {
		want[segment.At(1, lsn, 16<<20)] = true
	}
	for p, err := range a.Pieces(t.Context(), 1, segment.At(1, from, 16<<20).No) {
		if err != nil {
			t.Fatal(err)
		}
		maps.DeleteFunc(want, func(id segment.ID, _ bool) bool { return id == p.ID && !p.Tail })
	}
	return want
}

// compare wants what is stored to be what the server has.
func (a archived) compare(t *testing.T, primary *testkit.Cluster, from, to wal.LSN) {
	t.Helper()
	for lsn := from; lsn < to; lsn += 16 << 20 {
		id := segment.At(1, lsn, 16<<20)
		want, err := os.ReadFile(filepath.Join(primary.DataDir, "pg_wal", id.Name(16<<20)))
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if _, err := a.Fetch(t.Context(), id, &got); err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s: %d of %d bytes, %v", id.Name(16<<20), got.Len(), len(want), err)
		}
	}
}
