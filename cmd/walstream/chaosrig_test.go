//go:build chaos

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walstream/walstream/internal/testkit"
)

// wire is what the receiver reaches the primary through.
type wire struct{ *testkit.Wire }

func newWire(t *testing.T, proxy *testkit.Toxiproxy, name string, to *testkit.Cluster) *wire {
	t.Helper()
	return &wire{proxy.Wire(t, name, address(to))}
}

func address(c *testkit.Cluster) string { return fmt.Sprintf("127.0.0.1:%d", c.Port) }

// point leads to another server from now on; connections are closed.
func (w *wire) point(to *testkit.Cluster) { w.Set(map[string]any{"upstream": address(to)}) }

// clients commit numbered rows. Each writes the number of a row to a file of
// its own, and fsyncs it, when the server has acknowledged the commit.
type clients struct {
	dir    string
	server atomic.Pointer[string] // conninfo
	next   atomic.Int64
	acked  atomic.Int64
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func startClients(t *testing.T, dir string, server *testkit.Cluster, n int) *clients {
	t.Helper()
	server.Psql(t, "CREATE TABLE acked (n int PRIMARY KEY, filling text NOT NULL)")
	ctx, cancel := context.WithCancel(context.Background())
	cs := &clients{dir: dir, cancel: cancel}
	cs.point(server)
	t.Cleanup(cs.stop)
	for i := range n {
		log, err := os.Create(filepath.Join(dir, fmt.Sprintf("acked-%d", i)))
		if err != nil {
			t.Fatal(err)
		}
		cs.wg.Add(1)
		go func() {
			defer cs.wg.Done()
			defer log.Close()
			for ctx.Err() == nil {
				if err := cs.session(ctx, log); err != nil {
					time.Sleep(20 * time.Millisecond)
				}
			}
		}()
	}
	return cs
}

func (cs *clients) point(server *testkit.Cluster) {
	conninfo := server.Conninfo() + " dbname=postgres application_name=client connect_timeout=5 options='-c synchronous_commit=on'"
	cs.server.Store(&conninfo)
}

// session commits until something goes wrong. A number whose fate is unknown
// is never tried again.
func (cs *clients) session(ctx context.Context, log *os.File) error {
	server := cs.server.Load()
	conn, err := pgconn.Connect(ctx, *server)
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	for cs.server.Load() == server {
		n := cs.next.Add(1)
		if _, err := conn.Exec(ctx, fmt.Sprintf("INSERT INTO acked VALUES (%d, repeat(md5('%d'), %d))", n, n, rand.IntN(60))).ReadAll(); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(log, n); err != nil {
			return err
		}
		if err := log.Sync(); err != nil {
			return err
		}
		cs.acked.Add(1)
		time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
	}
	return nil
}

func (cs *clients) stop() {
	cs.cancel()
	cs.wg.Wait()
}

// logged is the numbers in the files.
func (cs *clients) logged(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(cs.dir, "acked-*"))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, name := range files {
		body, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, strings.Fields(string(body))...)
	}
	return all
}

// service keeps `walstream receive` running as deploy/walstream.service does:
// whatever ends it but wrong settings, it is started again.
type service struct {
	w     *world
	ended func() // is called between two processes

	// Set while it is down.
	once    []string // environment of the next process alone
	atDeath func()   // what happens when that has died

	mu      sync.Mutex
	current *receiving
	down    bool
	done    chan struct{}
	starts  int
}

// up starts the service.
func (s *service) up() {
	s.down, s.done = false, make(chan struct{})
	s.start()
	go func() {
		defer close(s.done)
		for up := true; up; up = s.start() {
			err := <-s.current.done
			s.ended()
			if s.atDeath != nil {
				s.atDeath()
				s.atDeath = nil
			}
			if code := s.current.cmd.ProcessState.ExitCode(); code == exitUsage {
				s.w.t.Errorf("walstream receive stays down: %v\n%s", err, s.current.output())
				return
			}
			time.Sleep(200 * time.Millisecond)
		}
	}()
}

func (s *service) start() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return false
	}
	w := *s.w
	w.env = append(slices.Clip(w.env), s.once...)
	s.once = nil
	s.current = w.launch("--create-slot")
	s.starts++
	return true
}

// signal reaches the process that runs now, if one does.
func (s *service) signal(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current.cmd.Process.Signal(sig)
}

// started is how many processes there have been.
func (s *service) started() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.starts
}

// output is what the newest process has logged.
func (s *service) output() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current.output()
}

// stop ends the service with a signal and waits for it.
func (s *service) stop(sig syscall.Signal) {
	s.mu.Lock()
	s.down = true
	s.current.cmd.Process.Signal(sig)
	s.mu.Unlock()
	select {
	case <-s.done:
	case <-time.After(time.Minute):
		s.signal(syscall.SIGKILL)
		<-s.done
		s.w.t.Errorf("walstream receive does not end within a minute of %v\n%s", sig, s.current.output())
	}
}

// running says whether the service is up.
func (s *service) running() bool {
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}
