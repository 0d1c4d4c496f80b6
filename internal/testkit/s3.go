package testkit

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/gofrs/flock"
)

// What the S3 server of [StartS3] lets in.
const (
	S3Access = "walstream"
	S3Secret = "secret of the tests"
)

// Tool is a program of another project that "make" builds in .bin, at a place
// where everyone may run it.
func Tool(t testing.TB, name string) string {
	t.Helper()
	_, file, _, _ := runtime.Caller(0)
	root := filepath.Join(filepath.Dir(file), "../..")
	bin := filepath.Join(root, ".bin", name)
	lock := flock.New(filepath.Join(root, "internal/tools", name, "go.mod")) // packages are tested beside each other
	if err := lock.Lock(); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("make", "-C", root, ".bin/"+name).CombinedOutput()
	lock.Close()
	if err != nil {
		t.Fatalf("make .bin/%s: %v\n%s", name, err, out)
	}
	program := filepath.Join(Dir(t), name)
	if err := os.Link(bin, program); err == nil {
		return program
	}
	body, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, body, 0o755); err != nil {
		t.Fatal(err)
	}
	return program
}

// S3 is a running S3 server.
type S3 struct {
	URL string // of the server
	Dir string // holds a directory for each bucket
}

// StartS3 starts an S3 server, which stops with the test. Its objects are files.
func StartS3(t testing.TB, buckets ...string) *S3 {
	t.Helper()
	s := &S3{Dir: Dir(t)}
	for _, bucket := range buckets {
		s.MakeBucket(t, bucket)
	}
	address := fmt.Sprintf("127.0.0.1:%d", FreePort(t))
	s.URL = "http://" + address
	cmd := Command(t, Tool(t, "versitygw"), "--quiet", "--keep-alive", "--port", address, "--access", S3Access, "--secret", S3Secret, "posix", s.Dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	Wait(t, "the S3 server", func() (bool, string) {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			return false, err.Error()
		}
		conn.Close()
		return true, ""
	})
	return s
}

// MakeBucket makes an empty bucket.
func (s *S3) MakeBucket(t testing.TB, name string) {
	t.Helper()
	dir := filepath.Join(s.Dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	Own(t, dir)
}
