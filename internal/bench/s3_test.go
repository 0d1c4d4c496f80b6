//go:build bench

package bench

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/wal"
)

const bucket = "bench"

// TestCatchUpIntoS3: WAL waits on the primary, and all of it is brought into
// an S3 server, compressed: by walstream over the replication protocol, by
// pgBackRest from the files.
func TestCatchUpIntoS3(t *testing.T) {
	s := newStand(t, "archive_mode = on", "archive_command = 'false'", "synchronous_commit = off")
	s.slot("base")
	start := s.lsn("pg_current_wal_flush_lsn()")
	s.pgbenchWAL(start)
	s.primary.Psql(t, "SELECT pg_switch_wal()")
	end := s.lsn("pg_current_wal_flush_lsn()")
	store := s.startS3()
	theirs := s.pgbackrest(store)

	fmt.Printf("\n### Catching up with %.1f GiB of WAL of pgbench, into S3\n\n%s; median of %d alternating pairs.\n\n",
		float64(end-start)/(1<<30), s.conditions(), s.plan.catchUpPairs)
	fmt.Println("| | MiB/s | CPU s/GiB | stored | MiB/s | CPU | stored |")
	fmt.Println("|---|---:|---:|---:|---:|---:|---:|")
	s.bring(s.intoS3(store, "ours", "fastest", "--once-until", end.String()), store, end-start) // warm
	for _, level := range []string{"fastest", "default"} {
		ours := s.intoS3(store, "ours", level, "--once-until", end.String())
		var a, b []stored
		for i := range s.plan.catchUpPairs {
			if i%2 == 0 {
				a = append(a, s.bring(ours, store, end-start))
			}
			b = append(b, s.bring(theirs, store, end-start))
			if i%2 == 1 {
				a = append(a, s.bring(ours, store, end-start))
			}
		}
		reportStored(theirs.name, b, b)
		reportStored(ours.name, a, b)
	}
}

func reportStored(name string, a, b []stored) {
	column := func(runs []stored, value func(stored) float64) (all []float64) {
		for _, r := range runs {
			all = append(all, value(r))
		}
		return all
	}
	rate, cpu, size := func(r stored) float64 { return r.rate }, func(r stored) float64 { return r.cpu }, func(r stored) float64 { return r.size }
	fmt.Printf("| %s | %.0f | %.2f | %.1f %% | %.2f× | %.2f× | %.2f× |\n", name,
		median(column(a, rate)), median(column(a, cpu)), 100*median(column(a, size)),
		ratio(column(a, rate), column(b, rate)), ratio(column(a, cpu), column(b, cpu)), ratio(column(a, size), column(b, size)))
}

// pgbenchWAL makes WAL as applications do: half of it loads tables, the rest
// is transactions.
func (s *stand) pgbenchWAL(start wal.LSN) {
	s.t.Helper()
	s.runPgbench("-i", "-q", "-s", strconv.Itoa(max(3, s.plan.walMiB/30)))
	for s.lsn("pg_current_wal_flush_lsn()") < start+wal.LSN(s.plan.walMiB)<<20 {
		s.primary.Psql(s.t, "CHECKPOINT") // the first change of each page logs all of it again
		s.runPgbench("-n", "-M", "prepared", "-c", "8", "-j", "2", "-T", "5")
	}
}

// s3 is a server with TLS, which pgBackRest wants.
type s3 struct {
	dir, address, ca string
}

func (s *stand) startS3() s3 {
	s.t.Helper()
	dir := testkit.Dir(s.t)
	store := s3{dir: filepath.Join(dir, "data"), ca: filepath.Join(dir, "cert.pem"), address: fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(s.t))}
	if err := os.MkdirAll(filepath.Join(store.dir, bucket), 0o755); err != nil {
		s.t.Fatal(err)
	}
	key := filepath.Join(dir, "key.pem")
	s.certificate(store.ca, key)
	testkit.Own(s.t, dir)
	cmd := testkit.Command(s.t, testkit.Tool(s.t, "versitygw"), "--quiet", "--keep-alive", "--port", store.address,
		"--cert", store.ca, "--key", key, "--access", testkit.S3Access, "--secret", testkit.S3Secret, "posix", store.dir)
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	testkit.Wait(s.t, "the S3 server", func() (bool, string) {
		conn, err := net.DialTimeout("tcp", store.address, time.Second)
		if err != nil {
			return false, err.Error()
		}
		return true, fmt.Sprint(conn.Close())
	})
	return store
}

func (s *stand) certificate(cert, key string) {
	s.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"127.0.0.1"}, IsCA: true, BasicConstraintsValid: true}
	public, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		s.t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		s.t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: public}, key: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
}

// intoS3 is the product.
func (s *stand) intoS3(store s3, archive, level string, args ...string) contender {
	return contender{"walstream receive, " + level, func(dir, slot string) *exec.Cmd {
		cmd := testkit.Command(s.t, s.product, append([]string{"receive", "-q", "--slot", slot, "-d", s.primary.Conninfo() + " application_name=" + slot,
			"--spool", filepath.Join(dir, "spool"), "--archive", "s3://" + bucket + "/" + archive}, args...)...)
		cmd.Env = append(cmd.Env, "WALSTREAM_COMPRESSION_LEVEL="+level, "AWS_ACCESS_KEY_ID="+testkit.S3Access, "AWS_SECRET_ACCESS_KEY="+testkit.S3Secret,
			"WALSTREAM_S3_ENDPOINT=https://"+store.address, "WALSTREAM_S3_PATH_STYLE=true", "WALSTREAM_S3_CA_FILE="+store.ca)
		return cmd
	}}
}

// pgbackrest is its asynchronous archive-push, with two processes: what its
// archive_command starts in the background.
func (s *stand) pgbackrest(store s3) contender {
	return contender{"pgBackRest archive-push, zst 3", func(dir, _ string) *exec.Cmd {
		config := filepath.Join(dir, "pgbackrest.conf")
		host, port, _ := strings.Cut(store.address, ":")
		text := fmt.Sprintf(`[global]
repo1-type=s3
repo1-path=/theirs
repo1-s3-endpoint=%[1]s
repo1-s3-bucket=%[2]s
repo1-s3-region=us-east-1
repo1-s3-key=%[3]s
repo1-s3-key-secret=%[4]s
repo1-s3-uri-style=path
repo1-storage-host=%[1]s
repo1-storage-port=%[5]s
repo1-storage-ca-file=%[6]s
archive-async=y
process-max=2
compress-type=zst
compress-level=3
spool-path=%[7]s
lock-path=%[7]s
log-path=%[7]s
[bench]
pg1-path=%[8]s
pg1-socket-path=%[9]s
pg1-user=postgres
`, host, bucket, testkit.S3Access, testkit.S3Secret, port, store.ca, dir, s.primary.DataDir, s.primary.SocketDir)
		if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
			s.t.Fatal(err)
		}
		testkit.Run(s.t, "pgbackrest", "--config="+config, "--stanza=bench", "stanza-create")
		return testkit.Command(s.t, "pgbackrest", "--config="+config, "--stanza=bench", "archive-push:async", filepath.Join(s.primary.DataDir, "pg_wal"))
	}}
}

// stored is how WAL came into the store.
type stored struct {
	rate float64 // MiB of WAL per second
	cpu  float64 // seconds per GiB of WAL
	size float64 // part of it
}

// bring empties the bucket and lets c fill it.
func (s *stand) bring(c contender, store s3, amount wal.LSN) stored {
	s.t.Helper()
	objects := filepath.Join(store.dir, bucket)
	names, err := filepath.Glob(filepath.Join(objects, "*"))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, name := range names {
		if err := os.RemoveAll(name); err != nil {
			s.t.Fatal(err)
		}
	}
	dir := testkit.Dir(s.t)
	defer os.RemoveAll(dir)
	s.primary.Psql(s.t, "SELECT pg_copy_physical_replication_slot('base', 'catchup')")
	p := &process{Cmd: c.command(dir, "catchup")}
	p.Stderr = &p.out
	began := time.Now()
	if err := p.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.wait(p)
	took := time.Since(began)
	s.primary.Psql(s.t, "SELECT pg_drop_replication_slot('catchup')")
	var bytes, segments int64
	err = filepath.WalkDir(objects, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if strings.HasSuffix(d.Name(), ".zst") {
			segments++
		}
		info, err := d.Info()
		if err == nil {
			bytes += info.Size()
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	if want := int64(amount >> 24); segments < want {
		s.t.Fatalf("%s stored %d segments, want %d: %s", c.name, segments, want, &p.out)
	}
	gib := float64(amount) / (1 << 30)
	cpu := p.ProcessState.UserTime() + p.ProcessState.SystemTime()
	return stored{rate: 1024 * gib / took.Seconds(), cpu: cpu.Seconds() / gib, size: float64(bytes) / float64(amount)}
}
