//go:build crashpoint

package crashpoint

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// passing is the environment variable that makes this program pass points.
const passing = "CRASHPOINT_TEST_PASSING"

func TestMain(m *testing.M) {
	if names := os.Getenv(passing); names != "" {
		for name := range strings.FieldsSeq(names) {
			Hit(Name(name))
		}
		return
	}
	os.Exit(m.Run())
}

// pass runs this program, which passes the points of names, and returns what
// it logged.
func pass(t *testing.T, names, at string) (logged string, state *os.ProcessState) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), passing+"="+names, "WALSTREAM_CRASH_AT="+at, "WALSTREAM_CRASH_LOG="+log)
	_ = cmd.Run() // its state says more
	body, err := os.ReadFile(log)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(body)), cmd.ProcessState
}

func TestKill(t *testing.T) {
	for at, want := range map[string]string{
		"a":    "b\na",
		"a:2":  "b\na\nb\na",
		"b:2":  "b\na\nb",
		"a:3":  "",
		"c":    "",
		"":     "",
		"a:0":  "",
		"a:-1": "",
	} {
		got, state := pass(t, "b a b a b", at)
		killed := state.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
		if want == "" && (!state.Success() || got != "b\na\nb\na\nb") || want != "" && (!killed || got != want) {
			t.Errorf("%q: %v behind %q, want %q", at, state, got, want)
		}
	}
	if got, state := pass(t, "a", "a:two"); state.ExitCode() != 1 {
		t.Errorf("a number that is none: %v behind %q", state, got)
	}
}

func TestWatch(t *testing.T) {
	var seen []Name
	Watch(func(n Name) { seen = append(seen, n) })
	Hit(SpoolWritten)
	Hit(AckSent)
	Watch(nil)
	Hit(SealNamed)
	if len(seen) != 2 || seen[0] != SpoolWritten || seen[1] != AckSent {
		t.Errorf("saw %v", seen)
	}
}
