//go:build mutants

package mutant_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// suite is a fast part of the tests of a package.
type suite struct {
	dir   string // below the root of the module
	tests []string
}

// Each suite has to fail with the tag and to pass without it.
func TestMutantsAreCaught(t *testing.T) {
	for _, m := range []struct {
		tag    string
		suites []suite
	}{
		{"mutant_ack_before_fsync", []suite{
			{"receiver", []string{"TestNothingAcknowledgedBeforeSync"}},
		}},
		{"mutant_no_dirsync", []suite{
			{"segment", []string{"TestPowerCutAnywhere"}},
			{"archive", []string{"TestDirPowerCut", "TestPowerCutSpoolAndArchive"}},
		}},
		{"mutant_walget_absent", []suite{
			{"recovery", []string{"TestWalGetTrouble"}},
		}},
		{"mutant_slot_early", []suite{
			{"archive", []string{"TestUploaderRetries"}},
		}},
	} {
		t.Run(m.tag, func(t *testing.T) {
			for _, s := range m.suites {
				if passed, failed := s.run(t, ""); len(failed) > 0 || !slices.Equal(passed, s.tests) {
					t.Errorf("%s as it is: passed %v, failed %v, want all of %v passed", s.dir, passed, failed, s.tests)
				}
				passed, failed := s.run(t, m.tag)
				if !slices.Equal(failed, s.tests) {
					t.Errorf("%s with the mutant: passed %v, failed %v, want all of %v failed", s.dir, passed, failed, s.tests)
				}
				t.Logf("caught by %s of %s", strings.Join(failed, ", "), s.dir)
			}
		})
	}
}

// run runs the tests and says which of them passed and which failed. One that
// took the process down with it has failed too; a package that cannot be
// built has none.
func (s suite) run(t *testing.T, tag string) (passed, failed []string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "test", "-json", "-count=1", "-tags", tag, "-run", "^("+strings.Join(s.tests, "|")+")$", "./"+s.dir)
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	for line := range bytes.Lines(out) {
		var event struct{ Action, Test string }
		if err := json.Unmarshal(line, &event); err != nil {
			t.Fatalf("go test: %v: %s", err, line)
		}
		switch {
		case !slices.Contains(s.tests, event.Test):
		case event.Action == "pass":
			passed = append(passed, event.Test)
		case event.Action == "fail":
			failed = append(failed, event.Test)
		}
	}
	slices.Sort(passed)
	slices.Sort(failed)
	return passed, failed
}
