//go:build bench

package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/walstream/walstream/internal/testkit"
)

// TestRestore: a base backup is laid down in an empty directory and made
// durable, by walstream, by zstd and tar, and by pgBackRest.
func TestRestore(t *testing.T) {
	s := newStand(t, "archive_mode = on", "archive_command = 'true'")
	s.fill(s.plan.clusterMiB)
	dir := testkit.Dir(t)
	ours := s.backUp(filepath.Join(dir, "ours"))
	others := []restorer{s.tarball(filepath.Join(dir, "tar")), s.pgbackrestRepo(filepath.Join(dir, "theirs"))}
	fmt.Printf("\n### Restoring a cluster of %d MiB\n\n%s; with a sync at the end; median of %d alternating pairs.\n\n",
		s.plan.clusterMiB, s.conditions(), s.plan.catchUpPairs)
	fmt.Println("| | seconds | CPU s | seconds of walstream | CPU of walstream |")
	fmt.Println("|---|---:|---:|---:|---:|")
	s.restore(ours, dir) // warm
	var all []laid
	for _, other := range others {
		var a, b []laid
		for i := range s.plan.catchUpPairs {
			if i%2 == 0 {
				a = append(a, s.restore(ours, dir))
			}
			b = append(b, s.restore(other, dir))
			if i%2 == 1 {
				a = append(a, s.restore(ours, dir))
			}
		}
		all = append(all, a...)
		wallA, cpuA := columns(a)
		wallB, cpuB := columns(b)
		fmt.Printf("| %s | %.2f | %.2f | %.2f× | %.2f× |\n", other.name, median(wallB), median(cpuB), ratio(wallA, wallB), ratio(cpuA, cpuB))
	}
	wall, cpu := columns(all)
	fmt.Printf("| %s | %.2f | %.2f | | |\n", ours.name, median(wall), median(cpu))
}

// restorer lays a backup down in a directory that does not exist.
type restorer struct {
	name    string
	command func(dir string) []string
}

// laid is what one restore took, in seconds.
type laid struct{ wall, cpu float64 }

func columns(runs []laid) (wall, cpu []float64) {
	for _, r := range runs {
		wall, cpu = append(wall, r.wall), append(cpu, r.cpu)
	}
	return wall, cpu
}

// fill makes a table of rows that compress to a quarter or so.
func (s *stand) fill(mib int) {
	s.t.Helper()
	s.primary.Psql(s.t, `CREATE TABLE filled (id bigint, key text, note text)`)
	for n := 0; n < mib; n += 64 {
		s.primary.Psql(s.t, fmt.Sprintf(`INSERT INTO filled SELECT i, md5(i::text), 'order of customer ' || i %% 9973 || ', shipped, paid, no remarks so far; see the invoice'
			FROM generate_series(1 + %d * 393216::bigint, (%d + 1) * 393216::bigint) i`, n/64, n/64))
	}
	s.primary.Psql(s.t, "CHECKPOINT")
}

// backUp is a base backup of the product, in an archive in dir.
func (s *stand) backUp(dir string) restorer {
	s.t.Helper()
	settings := []string{"-q", "-d", s.primary.Conninfo(), "--slot", "restore", "--spool", filepath.Join(dir, "spool"), "--archive", filepath.Join(dir, "archive")}
	p := &process{Cmd: testkit.Command(s.t, s.product, append([]string{"receive", "--create-slot"}, settings...)...)}
	p.Stderr = &p.out
	if err := p.Start(); err != nil {
		s.t.Fatal(err)
	}
	testkit.Wait(s.t, "the archive", func() (bool, string) {
		_, err := os.Stat(filepath.Join(dir, "archive", "walstream.json"))
		return err == nil, p.out.String()
	})
	testkit.Run(s.t, s.product, append([]string{"backup"}, settings...)...)
	s.interrupt(p)
	return restorer{"walstream restore", func(to string) []string {
		return append([]string{s.product, "restore", to, "--target-immediate"}, settings[5:]...)
	}}
}

// tarball is a backup in one compressed tar.
func (s *stand) tarball(dir string) restorer {
	testkit.Run(s.t, filepath.Join(testkit.BinDir(s.t), "pg_basebackup"), "-d", s.primary.Conninfo(), "-D", dir,
		"-Ft", "-X", "none", "-c", "fast", "--compress=client-zstd:3")
	return restorer{"zstd -dc, tar x", func(to string) []string {
		return []string{"sh", "-c", fmt.Sprintf("mkdir -m 700 %s && zstd -qdc %s/base.tar.zst | tar -xC %s", to, dir, to)}
	}}
}

func (s *stand) pgbackrestRepo(dir string) restorer {
	s.t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	testkit.Own(s.t, dir)
	config := filepath.Join(dir, "pgbackrest.conf")
	text := fmt.Sprintf(`[global]
repo1-path=%[1]s
archive-check=n
process-max=2
compress-type=zst
compress-level=3
lock-path=%[1]s
log-path=%[1]s
start-fast=y
[bench]
pg1-path=%[2]s
pg1-socket-path=%[3]s
pg1-user=postgres
`, dir, s.primary.DataDir, s.primary.SocketDir)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
	base := []string{"pgbackrest", "--config=" + config, "--stanza=bench", "--log-level-console=off"}
	testkit.Run(s.t, base[0], append(base[1:], "stanza-create")...)
	testkit.Run(s.t, base[0], append(base[1:], "backup", "--type=full")...)
	return restorer{"pgBackRest restore", func(to string) []string {
		return append(base[:len(base):len(base)], "restore", "--pg1-path="+to)
	}}
}

// restore runs one, and removes what it made.
func (s *stand) restore(r restorer, dir string) laid {
	s.t.Helper()
	to := filepath.Join(dir, "restored")
	defer os.RemoveAll(to)
	defer os.RemoveAll(to + ".walstream")
	testkit.Run(s.t, "sync")
	words := r.command(to)
	p := &process{Cmd: testkit.Command(s.t, words[0], words[1:]...)}
	p.Stderr = &p.out
	began := time.Now()
	if err := p.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.wait(p)
	testkit.Run(s.t, "sync", "-f", to)
	took := time.Since(began)
	if version, err := os.ReadFile(filepath.Join(to, "PG_VERSION")); err != nil || len(strings.TrimSpace(string(version))) == 0 {
		s.t.Fatalf("%s restored nothing: %v\n%s", r.name, err, &p.out)
	}
	cpu := p.ProcessState.UserTime() + p.ProcessState.SystemTime()
	return laid{took.Seconds(), cpu.Seconds()}
}
