//go:build bench

package bench

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/recovery"
	"github.com/walstream/walstream/wal"
)

// source is where a recovering server gets its WAL from.
type source struct {
	name    string
	command string // its restore_command
	inPlace bool   // all WAL is in its pg_wal
}

// TestReplay: a server recovers from a base backup to the end of its WAL. The
// other programs are gone by then.
func TestReplay(t *testing.T) {
	s := newStand(t)
	dir := testkit.Dir(t)
	base, segments := filepath.Join(dir, "base"), filepath.Join(dir, "segments")
	s.slot("base")
	testkit.Run(t, filepath.Join(testkit.BinDir(t), "pg_basebackup"), "-d", s.primary.Conninfo(), "-D", base, "-X", "none", "-c", "fast")
	start := s.lsn("pg_current_wal_flush_lsn()")
	s.pgbenchWAL(start)
	s.primary.Psql(t, "SELECT pg_switch_wal()")
	end := s.lsn("pg_current_wal_flush_lsn()")
	store := s.startS3()
	archive := filepath.Join(dir, "archive")
	for _, c := range []contender{s.intoS3(store, "ours", "fastest", "--once-until", end.String()), s.into(archive, end)} {
		s.primary.Psql(t, "SELECT pg_copy_physical_replication_slot('base', 'replay')")
		scratch := testkit.Dir(t)
		s.wait(s.launch(c, scratch, "replay"))
		os.RemoveAll(scratch)
		s.primary.Psql(t, "SELECT pg_drop_replication_slot('replay')")
	}
	s.primary.Stop(syscall.SIGINT)
	testkit.Run(t, "mkdir", segments)
	testkit.Run(t, "sh", "-c", fmt.Sprintf("cp %s/pg_wal/00000001* %s", s.primary.DataDir, segments))
	os.RemoveAll(s.primary.DataDir)

	near := []string{s.product, "wal-get", "--archive", archive}
	far := []string{"env", "AWS_ACCESS_KEY_ID=" + testkit.S3Access, "AWS_SECRET_ACCESS_KEY=" + testkit.S3Secret, "WALSTREAM_S3_ENDPOINT=https://" + s.away(store.address),
		"WALSTREAM_S3_PATH_STYLE=true", "WALSTREAM_S3_CA_FILE=" + store.ca, s.product, "wal-get", "--archive", "s3://" + bucket + "/ours"}
	sources := []source{
		{name: "`cp` from a directory", command: "cp " + segments + "/%f %p"},
		{name: "pg_wal, all of it is there", command: "false", inPlace: true},
		{name: "`wal-get`, archive in a directory", command: recovery.RestoreCommand(near)},
		{name: fmt.Sprintf("`wal-get`, archive in S3, %s away", storeTrip), command: recovery.RestoreCommand(far)},
	}
	rounds := min(s.plan.catchUpPairs, 3)
	fmt.Printf("\n### Recovery along %d segments of WAL of pgbench\n\n%s; median of %d alternating rounds.\n\n", (end-start)>>24, s.conditions(), rounds)
	fmt.Println("| WAL from | seconds | of `cp` |")
	fmt.Println("|---|---:|---:|")
	took := make([][]float64, len(sources))
	for round := range rounds {
		order := []int{0, 1, 2, 3}
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, i := range order {
			took[i] = append(took[i], s.recover(sources[i], base, segments, filepath.Join(dir, "data")))
		}
	}
	for i, src := range sources {
		fmt.Printf("| %s | %.2f | %.2f× |\n", src.name, median(took[i]), ratio(took[i], took[0]))
	}
}

// recover lets a server in a copy of base recover, and returns the seconds from
// its start to the end of the recovery.
func (s *stand) recover(src source, base, segments, data string) float64 {
	s.t.Helper()
	testkit.Run(s.t, "cp", "-a", base, data)
	defer os.RemoveAll(data)
	if src.inPlace {
		testkit.Run(s.t, "sh", "-c", "cp "+segments+"/0* "+data+"/pg_wal")
	}
	c := testkit.Adopt(s.t, data)
	c.Configure(recovery.Setting{Name: "restore_command", Value: src.command}.String(), "hot_standby = off")
	if err := os.WriteFile(data+"/recovery.signal", nil, 0o600); err != nil {
		s.t.Fatal(err)
	}
	testkit.Own(s.t, data+"/recovery.signal")
	testkit.Run(s.t, "sync")
	began := time.Now()
	c.Launch()
	for !strings.Contains(c.Log(), "archive recovery complete") {
		if !c.Running() || time.Since(began) > 10*time.Minute {
			s.t.Fatalf("%s: no recovery:\n%s", src.name, c.Log())
		}
		time.Sleep(5 * time.Millisecond)
	}
	took := time.Since(began)
	c.Stop(syscall.SIGQUIT)
	return took.Seconds()
}

// into is the product, archiving to a directory all before end.
func (s *stand) into(archive string, end wal.LSN) contender {
	return contender{"walstream receive", func(dir, slot string) *exec.Cmd {
		return testkit.Command(s.t, s.product, "receive", "-q", "--slot", slot, "-d", s.primary.Conninfo()+" application_name=bench",
			"--spool", filepath.Join(dir, "spool"), "--archive", archive, "--once-until", end.String())
	}}
}

// away makes an address for a server that is storeTrip away: what a client says
// arrives that much later, its first words one trip more.
func (s *stand) away(address string) string {
	s.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", address)
			if err != nil {
				client.Close()
				continue
			}
			go func() {
				io.Copy(client, server)
				client.Close()
			}()
			type word struct {
				due  time.Time
				text []byte
			}
			words := make(chan word, 1<<10)
			go func() {
				defer close(words)
				time.Sleep(storeTrip)
				for {
					text := make([]byte, 64<<10)
					n, err := client.Read(text)
					words <- word{time.Now().Add(storeTrip), text[:n]}
					if err != nil {
						return
					}
				}
			}()
			go func() {
				defer server.Close()
				for w := range words {
					time.Sleep(time.Until(w.due))
					server.Write(w.text) // if it is gone, so is the client soon
				}
			}()
		}
	}()
	return l.Addr().String()
}
