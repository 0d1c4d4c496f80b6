//go:build chaos

package chaos

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// A program that is built with the overlay is as wrong as it is told to be,
// and measures time rightly all the same.
func TestWrongClock(t *testing.T) {
	dir := t.TempDir()
	overlay, err := WrongClock(dir)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "main.go")
	source := `package main

import (
	"fmt"
	"os"
	"time"
)

func after(t time.Time) int64 { return (time.Now().Unix() - t.Unix()) / 80000 }

func main() {
	before := time.Now()
	os.WriteFile(os.Args[1], []byte(os.Args[2]), 0o600)
	for i := 0; i < 100 && after(before) == 0 && os.Args[2] != "0"; i++ {
		time.Sleep(20 * time.Millisecond) // a timer looks at the clock too
	}
	now := time.Now()
	fmt.Println(after(before) > 0, after(before) < 0, now.Sub(before) < time.Minute, time.Since(before) < time.Minute)
}
`
	if err := os.WriteFile(program, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	clock := filepath.Join(dir, "clock")
	for seconds, want := range map[int]string{0: "false false true true\n", 86400: "true false true true\n", -86400: "false true true true\n"} {
		os.Remove(clock)
		cmd := exec.Command("go", "run", "-overlay", overlay, program, clock, fmt.Sprint(seconds))
		cmd.Env = append(os.Environ(), ClockEnv+"="+clock)
		out, err := cmd.Output()
		if err != nil || string(out) != want {
			t.Errorf("%d seconds: %q, %v, want %q", seconds, out, err, want)
		}
	}
}
