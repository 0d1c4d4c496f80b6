//go:build crashpoint

package crashpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// state is what the process knows of its points. There is one, because the
// product does not hand it around.
var state struct {
	mu    sync.Mutex
	setup sync.Once
	at    Name // where to die
	left  int  // hits until then
	log   *os.File
	watch func(Name)
}

func setup() {
	name, n, found := strings.Cut(os.Getenv("WALSTREAM_CRASH_AT"), ":")
	state.at, state.left = Name(name), 1
	var err error
	if found {
		state.left, err = strconv.Atoi(n)
	}
	if file := os.Getenv("WALSTREAM_CRASH_LOG"); file != "" && err == nil {
		state.log, err = os.OpenFile(file, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	}
	if err != nil {
		fail(err)
	}
}

// fail ends a process that cannot do what the test behind it wants.
func fail(err error) {
	fmt.Fprintln(os.Stderr, "crashpoint:", err)
	os.Exit(1)
}

// Hit is called when a point was just passed. It may not return.
func Hit(name Name) {
	state.mu.Lock()
	defer state.mu.Unlock()
	state.setup.Do(setup)
	if state.log != nil {
		if _, err := state.log.WriteString(string(name) + "\n"); err != nil {
			fail(err)
		}
	}
	if name == state.at {
		if state.left--; state.left == 0 {
			// The lock is kept, so that nothing else passes a point.
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	if state.watch != nil {
		state.watch(name)
	}
}

// Watch calls f at each hit, one at a time, until it is called with nil. The
// goroutine that passes the point waits for f, which must not pass one itself.
func Watch(f func(Name)) {
	state.mu.Lock()
	defer state.mu.Unlock()
	state.watch = f
}
