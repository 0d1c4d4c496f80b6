//go:build chaos

package main

import (
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/walstream/walstream/internal/crashpoint"
)

// crashPoint lets walstream kill itself between two durable steps, at a point
// that receiving and archiving pass. The power may be gone at that moment.
func (r *chaosRound) crashPoint() {
	r.t.Helper()
	var points []crashpoint.Name
	for _, name := range crashpoint.Names() {
		switch step, _, _ := strings.Cut(string(name), "-"); step {
		case "spool", "ack", "seal", "upload", "tail", "store", "slot":
			points = append(points, name)
		}
	}
	at := fmt.Sprintf("%s:%d", points[r.rnd.IntN(len(points))], 1+r.rnd.IntN(3))
	power, survivors := r.rnd.IntN(2) == 0, r.survivors()
	r.event("%s, power lost: %v", at, power)
	r.clear()
	r.service.stop(syscall.SIGKILL)
	if power {
		r.service.atDeath = func() { r.losePower(survivors) }
	}
	r.service.once = []string{"WALSTREAM_CRASH_AT=" + at}
	before := r.service.started()
	r.service.up()
	for range 50 { // not every process comes by every point
		if r.service.started() > before+1 {
			return
		}
		_, _ = r.primary.Query("SELECT pg_switch_wal()")
		time.Sleep(100 * time.Millisecond)
	}
	r.event("it did not come by")
	r.service.signal(syscall.SIGKILL)
}
