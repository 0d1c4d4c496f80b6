package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/walstream/walstream/internal/crashpoint"
	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/segment"
)

// crashBinary is walstream with its crash points, see internal/crashpoint.
var crashBinary = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(binaryDir, "crashpoint")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.Chmod(binaryDir, 0o755)); err != nil {
		return "", err
	}
	return testkit.Build(dir, "-tags=crashpoint")
})

// crashes is a world whose walstream can be told where to kill itself.
type crashes struct {
	*world
	points string // the file that names the points as they are passed
	count  *killCount
}

// killCount counts kills by the point that was passed last: those at that very
// point, and those from outside at any moment behind it.
type killCount struct{ at, behind map[crashpoint.Name]int }

func newKillCount() *killCount {
	return &killCount{at: map[crashpoint.Name]int{}, behind: map[crashpoint.Name]int{}}
}

func newCrashes(t *testing.T, count *killCount) *crashes {
	t.Helper()
	c := &crashes{world: newWorld(t, testkit.Config{SegmentSizeMB: 1}), count: count}
	var err error
	if c.bin, err = crashBinary(); err != nil {
		t.Fatal(err)
	}
	c.points = filepath.Join(c.dir, "points")
	c.env = append(c.env, "WALSTREAM_TAIL_INTERVAL=100ms") // the flood fills a segment in half a second
	return c
}

// told is the world in which walstream kills itself at the n-th hit of name,
// or, without a name, only writes down what it passes.
func (c *crashes) told(name crashpoint.Name, n int) *world {
	w := *c.world
	w.env = append(slices.Clone(c.env), "WALSTREAM_CRASH_LOG="+c.points)
	if name != "" {
		w.env = append(w.env, fmt.Sprintf("WALSTREAM_CRASH_AT=%s:%d", name, n))
	}
	return &w
}

// last is the point that was passed last, "start" when there is none since
// forget.
func (c *crashes) last() crashpoint.Name {
	b, _ := os.ReadFile(c.points)
	lines := strings.Fields(string(b))
	if len(lines) == 0 {
		return "start"
	}
	return crashpoint.Name(lines[len(lines)-1])
}

func (c *crashes) forget() { os.Remove(c.points) }

// killAt runs walstream and expects that it is killed at the n-th hit of name.
func (c *crashes) killAt(name crashpoint.Name, n int, args ...string) {
	c.t.Helper()
	c.forget()
	r := c.told(name, n).start(args...)
	select {
	case <-r.done:
	case <-time.After(2 * time.Minute):
		c.t.Fatalf("walstream %s did not come to %s %d times\n%s", args[0], name, n, r.output())
	}
	status, ok := r.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || status.Signal() != syscall.SIGKILL || c.last() != name {
		c.t.Fatalf("walstream %s ended behind %s, not killed at %s: %v\n%s", args[0], c.last(), name, r.cmd.ProcessState, r.output())
	}
	c.count.at[name]++
}

// killOutside starts the receiver and kills it at some moment.
func (c *crashes) killOutside() {
	c.t.Helper()
	c.forget()
	r := c.told("", 0).start("receive")
	time.Sleep(rand.N(600 * time.Millisecond))
	r.kill()
	c.count.behind[c.last()]++
}

// flood makes the server write about 2 MiB of WAL a second until the returned
// function is called. It waits for nobody's acknowledgement.
func (c *crashes) flood() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	server, ended := c.primary, make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			// An error is the end of the server, which the test brings about.
			_, _ = server.Query("SELECT pg_logical_emit_message(false, 'flood', repeat('x', 100000))")
			time.Sleep(50 * time.Millisecond)
		}
	}()
	stop = func() { cancel(); <-ended }
	c.t.Cleanup(stop)
	return stop
}

// cleanArchive expects all WAL in the archive without a hole.
func (c *crashes) cleanArchive() {
	c.t.Helper()
	var list struct{ WAL []walRun }
	decode(c.t, c.must("list", "wal", "--json"), &list)
	runs := map[string]int{}
	for _, run := range list.WAL {
		runs[run.Timeline.String()+" "+run.State]++
		if run.State == "missing" || runs[run.Timeline.String()+" complete"] > 1 {
			c.t.Errorf("there is a hole in the archive: %+v", list.WAL)
		}
	}
	if len(list.WAL) == 0 {
		c.t.Error("there is no WAL in the archive")
	}
}

// cleanSpool expects nothing in the spool that a crash left behind, and of
// what is archived only the segments with which a reader has to begin.
func (c *crashes) cleanSpool() {
	c.t.Helper()
	entries, err := os.ReadDir(c.spool)
	if err != nil {
		c.t.Fatal(err)
	}
	segments := 0
	for _, e := range entries {
		if strings.Contains(e.Name(), ".bad-") || strings.HasSuffix(e.Name(), ".tmp") {
			c.t.Errorf("left in the spool: %s", e.Name())
		}
		if len(e.Name()) >= 24 {
			segments++
		}
	}
	if segments > 3 {
		c.t.Errorf("%d segments are left in the spool: %v", segments, entries)
	}
}

// withinSegment says whether the spool has an unfinished segment with WAL in
// it, of which the next timeline will make a remainder.
func (c *crashes) withinSegment() bool {
	c.t.Helper()
	view, err := segment.ReadSpool(fsx.OS{}, c.spool)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, p := range view.Partials {
		valid, err := view.Valid(p)
		if err != nil {
			c.t.Fatal(err)
		}
		if valid.To > 0 && valid.To < int64(mib) {
			return true
		}
	}
	return false
}

// dead expects that no server starts in dir.
func (c *crashes) dead(dir string) {
	c.t.Helper()
	cmd := testkit.Command(c.t, filepath.Join(c.primary.Bin, "postgres"), "-D", dir, "-c", "listen_addresses=", "-c", "unix_socket_directories="+c.dir)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exists(filepath.Join(dir, "global/pg_control")) {
		c.t.Fatalf("a server started in %s: %v\n%s", dir, err, out)
	}
}

// table prints which phase each kill hit.
func (k *killCount) table() string {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PHASE\tKILLED AT\tKILLED BEHIND, FROM OUTSIDE")
	names := append([]crashpoint.Name{"start"}, crashpoint.Names()...)
	at, behind := 0, 0
	for _, name := range names {
		fmt.Fprintf(t, "%s\t%d\t%d\n", name, k.at[name], k.behind[name])
		at, behind = at+k.at[name], behind+k.behind[name]
	}
	for _, name := range slices.Sorted(maps.Keys(k.behind)) {
		if !slices.Contains(names, name) {
			fmt.Fprintf(t, "%s, which is no point\n", name)
		}
	}
	fmt.Fprintf(t, "all\t%d\t%d\n", at, behind)
	t.Flush()
	return b.String()
}
