//go:build chaos

package chaos

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ClockEnv names the environment variable with the file that holds by how
// many seconds the clock of a program is wrong, see [WrongClock].
const ClockEnv = "CHAOS_CLOCK"

const (
	realNow = "func Now() Time {\n"
	// The monotonic clock stays right, as it does in a real system.
	wrongNow = `func Now() Time {
	t := chaosNow()
	t.addSec(chaosOffset)
	return t
}

func chaosNow() Time {
`
	// Now is called where no system call is allowed: timers do.
	offset = `package time

import "syscall"

var chaosOffset int64

func init() {
	path, ok := syscall.Getenv("` + ClockEnv + `")
	if !ok {
		return
	}
	chaosOffset = chaosRead(path)
	go func() {
		for {
			Sleep(10 * Millisecond)
			chaosOffset = chaosRead(path)
		}
	}()
}

func chaosRead(path string) (seconds int64) {
	fd, err := open(path)
	if err != nil {
		return 0
	}
	defer closefd(fd)
	buf := make([]byte, 32)
	n, _ := read(fd, buf)
	sign := int64(1)
	for _, c := range buf[:max(n, 0)] {
		switch {
		case c == '-':
			sign = -1
		case c >= '0' && c <= '9':
			seconds = seconds*10 + int64(c-'0')
		}
	}
	return sign * seconds
}
`
)

// WrongClock writes to dir what `go build -overlay` takes to build programs
// whose time.Now can be made wrong while they run, and returns the overlay's
// path. A static binary knows no other way.
func WrongClock(dir string) (string, error) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", err
	}
	std := filepath.Join(strings.TrimSpace(string(out)), "src/time")
	body, err := os.ReadFile(filepath.Join(std, "time.go"))
	if err != nil {
		return "", err
	}
	if strings.Count(string(body), realNow) != 1 {
		return "", errors.New("time.Now of this Go is not as expected")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	replace := map[string]string{}
	for name, text := range map[string]string{"time.go": strings.Replace(string(body), realNow, wrongNow, 1), "chaos.go": offset} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return "", err
		}
		replace[filepath.Join(std, name)] = path
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, overlay, 0o644)
}
