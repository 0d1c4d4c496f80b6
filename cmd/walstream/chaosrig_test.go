//go:build chaos

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
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

// toxiproxy is a running proxy server.
type toxiproxy struct {
	t   *testing.T
	api string
}

func startToxiproxy(t *testing.T) *toxiproxy {
	t.Helper()
	bin := filepath.Join(repository, ".bin/toxiproxy")
	if !exists(bin) {
		t.Fatal(".bin/toxiproxy is not there: make chaos builds it")
	}
	program := filepath.Join(testkit.Dir(t), "toxiproxy") // where everyone can read it
	body, err := os.ReadFile(bin)
	if err == nil {
		err = os.WriteFile(program, body, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	port := fmt.Sprint(testkit.FreePort(t))
	cmd := testkit.Command(t, program, "-host", "127.0.0.1", "-port", port)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	p := &toxiproxy{t, "http://127.0.0.1:" + port}
	testkit.Wait(t, "toxiproxy", func() (bool, string) {
		resp, err := http.Get(p.api + "/version")
		if err != nil {
			return false, err.Error()
		}
		resp.Body.Close()
		return true, ""
	})
	return p
}

// wire is what the receiver reaches the primary through.
type wire struct {
	*toxiproxy
	name   string
	port   int
	toxics int
}

func (p *toxiproxy) wire(t *testing.T, name string, to *testkit.Cluster) *wire {
	t.Helper()
	w := &wire{toxiproxy: &toxiproxy{t, p.api}, name: name, port: testkit.FreePort(t)}
	w.call("POST", "/proxies", map[string]any{"name": name, "listen": fmt.Sprintf("127.0.0.1:%d", w.port), "upstream": address(to), "enabled": true})
	t.Cleanup(func() { w.call("DELETE", "/proxies/"+name, nil) })
	return w
}

func address(c *testkit.Cluster) string { return fmt.Sprintf("127.0.0.1:%d", c.Port) }

func (w *wire) call(method, path string, body any) {
	w.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		w.t.Fatal(err)
	}
	req, err := http.NewRequest(method, w.api+path, bytes.NewReader(text))
	if err != nil {
		w.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, _ := io.ReadAll(resp.Body); resp.StatusCode >= 300 {
		w.t.Fatalf("toxiproxy %s %s %s: %s: %s", method, path, text, resp.Status, answer)
	}
}

func (w *wire) set(settings map[string]any) {
	w.t.Helper()
	w.call("POST", "/proxies/"+w.name, settings)
}

// point leads to another server from now on; connections are closed.
func (w *wire) point(to *testkit.Cluster) {
	w.t.Helper()
	w.set(map[string]any{"upstream": address(to)})
}

// toxic spoils one direction, "upstream" is to the server, and returns what
// mends it.
func (w *wire) toxic(kind, stream string, attributes map[string]any) (mend func()) {
	w.t.Helper()
	w.toxics++
	name := fmt.Sprintf("%s-%d", kind, w.toxics)
	w.call("POST", "/proxies/"+w.name+"/toxics", map[string]any{"name": name, "type": kind, "stream": stream, "attributes": attributes})
	return func() { w.t.Helper(); w.call("DELETE", "/proxies/"+w.name+"/toxics/"+name, nil) }
}

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
