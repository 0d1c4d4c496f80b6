package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/walstream/walstream/internal/testkit"
)

// TestMain lets the scripts run this very program as walstream.
func TestMain(m *testing.M) {
	testscript.Main(withBinary{m}, map[string]func(){"walstream": main})
}

// withBinary gives the tests a directory for the binary that they share.
type withBinary struct{ *testing.M }

var binaryDir string

func (m withBinary) Run() int {
	dir, err := os.MkdirTemp("", "ws")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binaryDir = dir
	return m.M.Run()
}

// binary is the walstream that users run, without the race detector. The first
// test that needs it builds it.
var binary = sync.OnceValues(func() (string, error) { return testkit.Build(binaryDir) })

// TestScripts runs everything of the command line that needs no PostgreSQL.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join(repository, "testdata/script"),
		Setup: func(env *testscript.Env) error {
			env.Vars = append(env.Vars, "TZ=UTC")
			return nil
		},
		RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
		},
	})
}

// exits CODE PROGRAM ARGS... expects exactly this exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS...")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := "0"
	if err != nil {
		code = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if code != args[0] {
		ts.Fatalf("exit code %s, want %s", code, args[0])
	}
}
