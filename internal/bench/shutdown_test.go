//go:build bench

package bench

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/walstream/walstream/internal/testkit"
)

// roundTrip is what lies between the receiver and the server that shuts down.
const roundTrip = 30 * time.Millisecond

// TestShutdown: a fast shutdown of the server waits until the receiver, which
// is far away, has all WAL.
func TestShutdown(t *testing.T) {
	s := newStand(t)
	s.primary.Psql(t, "CREATE TABLE bench (client int, n int)")
	s.primary.Configure("synchronous_standby_names = '*'")
	s.slot("shutdown")
	var alone, attached []float64
	for range 2*s.plan.standbyRuns - 1 {
		alone = append(alone, s.shutdown())
		dir := testkit.Dir(t)
		p := s.launch(s.whole(s.far()), dir, "shutdown")
		s.synchronous("walstream", &p.out)
		s.pgbench(dir, insert, 8, time.Second)
		attached = append(attached, s.shutdown())
		s.interrupt(p)
	}
	fmt.Printf("\n### Fast shutdown of the primary\n\n%s; medians of %d.\n\n", s.conditions(), len(alone))
	fmt.Printf("%.2f s alone, %.2f s with walstream as its synchronous standby %s away.\n", median(alone), median(attached), roundTrip)
}

// shutdown stops the server, which has something to checkpoint, starts it
// again, and returns how many seconds the stop took.
func (s *stand) shutdown() float64 {
	s.primary.Psql(s.t, "SET synchronous_commit = local; INSERT INTO bench SELECT i, i FROM generate_series(1, 1000) i")
	began := time.Now()
	s.primary.Stop(syscall.SIGINT)
	took := time.Since(began).Seconds()
	s.primary.Start()
	return took
}

// far leads to the primary through a proxy that holds everything up.
func (s *stand) far() (conninfo string) {
	dir := testkit.Dir(s.t)
	ln, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	if err != nil {
		s.t.Fatal(err)
	}
	testkit.Own(s.t, dir)
	s.t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", filepath.Join(s.primary.SocketDir, ".s.PGSQL.5432"))
			if err != nil {
				near.Close()
				continue
			}
			go delay(server, near)
			go delay(near, server)
		}
	}()
	return strings.Replace(s.primary.Conninfo(), s.primary.SocketDir, dir, 1)
}

// delay copies from src to dst, half a round trip later.
func delay(dst io.WriteCloser, src io.Reader) {
	type part struct {
		data []byte
		due  time.Time
	}
	parts := make(chan part, 10_000)
	go func() {
		defer dst.Close()
		for p := range parts {
			time.Sleep(time.Until(p.due))
			if _, err := dst.Write(p.data); err != nil {
				return
			}
		}
	}()
	defer close(parts)
	for {
		buf := make([]byte, 32<<10)
		n, err := src.Read(buf)
		if err != nil {
			return
		}
		parts <- part{buf[:n], time.Now().Add(roundTrip / 2)}
	}
}
