package ready

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// One package more, even one of the standard library, and Go may initialise
// half of the program before this one.
func TestInitialisedEarly(t *testing.T) {
	deps := func(pkg string) []string {
		out, err := exec.Command("go", "list", "-deps", pkg).Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(string(out))
	}
	early := deps("os")
	for _, pkg := range deps(".") {
		if !slices.Contains(early, pkg) && !strings.HasSuffix(pkg, "/internal/ready") {
			t.Errorf("%s is imported, which package os does without", pkg)
		}
	}
}

func TestParse(t *testing.T) {
	const file, path = "000000010000000000000003", "pg_wal/RECOVERYXLOG"
	environ := []string{"PATH=/bin", "WALSTREAM_ARCHIVE=/a", "AWS_REGION=x"}
	r, ok := Parse([]string{"-q", "wal-get", "--spool", "s", file, path, "--json"}, environ)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	key := strings.Join([]string{program, "-q", "wal-get", "--spool", "s", "--json", "WALSTREAM_ARCHIVE=/a", "AWS_REGION=x"}, "\x00")
	if diff := cmp.Diff(Request{File: file, Dir: "pg_wal", Path: path, Key: key}, r); diff != "" || !ok {
		t.Errorf("%v %s", ok, diff)
	}
	history, ok := Parse([]string{"-q", "wal-get", "--spool", "s", "00000002.history", "pg_wal/RECOVERYHISTORY", "--json"}, environ)
	if !ok || history.Key != key || history.File != "00000002.history" {
		t.Errorf("%v, %+v", ok, history)
	}
	for _, line := range []string{"", "wal-get", "wal-get " + file + " /tmp/x", path, file + " " + path, "wal-get " + path, "serve " + file + " " + path, ServerArg + " wal-get " + file + " " + path} {
		if r, ok := Parse(strings.Fields(line), environ); ok {
			t.Errorf("%q is %+v", line, r)
		}
	}
}

// An answer that is cut off, or none that is known, is no answer: what is
// absent may end a recovery.
func TestAnswers(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, Name), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, Name, Socket))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, c := range []struct {
		says, absent string
		ok           bool
	}{
		{"", "", false},
		{"\n\n", "", false},
		{"-", "", false},
		{"-\n", "", false},
		{"\n-not the", "", false},
		{"\n\n-not there\n", "not there", true},
		{"not there\n", "", false},
		{"+file", "", false},
		{"+gone\n", "", false},
		{"\n+file\n", "", true},
	} {
		if err := os.WriteFile(filepath.Join(dir, Name, "file"), []byte(c.says), 0o600); err != nil {
			t.Fatal(err)
		}
		go func() {
			if conn, err := l.Accept(); err == nil {
				io.ReadAll(conn)
				conn.Write([]byte(c.says))
				conn.Close()
			}
		}()
		target := filepath.Join(dir, "target")
		os.Remove(target)
		absent, err := Request{File: "f", Dir: dir, Path: target, Key: "k"}.Ask(Silence)
		body, _ := os.ReadFile(target)
		delivered := c.ok && c.absent == ""
		if (err == nil) != c.ok || absent != c.absent || (string(body) == c.says) != (delivered || c.says == "") {
			t.Errorf("%q: %q, %v, and %q is there", c.says, absent, err, body)
		}
	}
}
