package recovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/ready"
	"github.com/walstream/walstream/internal/testkit/memstore"
	"github.com/walstream/walstream/segment"
)

// testStart is when the server was started, by its postmaster.pid.
const testStart = 1700000000

// ahead is a prefetching server of a getter's archive, which counts how often
// each object is read.
type ahead struct {
	*getter
	mu     sync.Mutex
	reads  map[string]int
	hold   chan struct{} // reads of segments wait for it, if there is one
	gone   error         // what Check says
	dir    *PrefetchDir
	server *Prefetcher
	end    context.CancelFunc
	ended  chan error
}

func (g *getter) prefetch(t *testing.T, after string, room int64, change func(*ahead)) *ahead {
	t.Helper()
	a := &ahead{getter: g, reads: map[string]int{}, ended: make(chan error, 1)}
	if change != nil {
		change(a)
	}
	counting := faulty{Store: g.store, get: func(name string) error {
		a.mu.Lock()
		a.reads[strings.TrimSuffix(filepath.Base(name), ".zst")]++
		hold := a.hold
		a.mu.Unlock()
		if hold != nil && strings.HasPrefix(name, "wal/") {
			<-hold
		}
		return nil
	}}
	var err error
	if a.dir, err = ClaimPrefetchDir(g.dir); err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, a.end = context.WithCancel(t.Context())
	p, err := NewPrefetcher(ctx, PrefetchConfig{
		WalGetConfig: WalGetConfig{Open: func(ctx context.Context) (*archive.Archive, error) { return archive.Open(ctx, counting) }, Spool: g.spool},
		Dir:          a.dir, Key: "key", Room: room, Start: testStart,
		Check: func() error { a.mu.Lock(); defer a.mu.Unlock(); return a.gone },
	})
	if err != nil {
		t.Fatal(err)
	}
	if after != "" {
		id, err := segment.ParseName(after, testSize)
		if err != nil {
			t.Fatal(err)
		}
		id, _ = p.following(id)
		p.slide(id)
	}
	a.server = p
	go func() { a.ended <- p.Run(ctx) }()
	t.Cleanup(a.stop)
	return a
}

func (a *ahead) stop() {
	a.end()
	if err := <-a.ended; err != nil {
		panic(err)
	}
	a.ended <- nil // again
}

// served is the answer of a server: Trouble when it has none.
func (g *getter) served(key, file string, silence time.Duration) (Outcome, error) {
	absent, err := ready.Request{File: file, Dir: g.dir, Path: g.target(), Key: key}.Ask(silence)
	switch {
	case err != nil:
		return Trouble, err
	case absent != "":
		return Absent, errors.New(absent)
	}
	return Delivered, nil
}

// takes asks for a segment, which must be delivered unless body is nil.
func (a *ahead) takes(t *testing.T, file string, body []byte) {
	t.Helper()
	os.Remove(a.target())
	out, err := a.served("key", file, ready.Silence)
	have, _ := os.ReadFile(a.target())
	if (out == Delivered) != (body != nil) || !bytes.Equal(have, body) {
		t.Errorf("%s: %d with %d bytes, %v", file, out.ExitCode(), len(have), err)
	}
}

// takesReady takes a segment as the restore_command does.
func (a *ahead) takesReady(t *testing.T, id segment.ID, body []byte) {
	t.Helper()
	name := fmt.Sprintf("%s.%d", id.Name(testSize), testStart)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if err := os.Rename(filepath.Join(a.dir.path, name), a.target()); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if have, err := os.ReadFile(a.target()); !bytes.Equal(have, body) {
		t.Errorf("%s: %d bytes, %v", name, len(have), err)
	}
}

// ready waits until these segments, and no others, wait in the directory.
func (a *ahead) ready(t *testing.T, names ...string) {
	t.Helper()
	want := strings.Join(names, " ")
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		paths, _ := filepath.Glob(a.dir.path + "/0*")
		var have []string
		for _, p := range paths {
			have = append(have, strings.SplitN(filepath.Base(p), ".", 2)[0])
		}
		if got := strings.Join(have, " "); got == want {
			return
		} else if time.Now().After(deadline) {
			t.Fatalf("%q wait in the directory, want %q", got, want)
		}
	}
}

func (a *ahead) count(file string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.reads[file]
}

// waits until the server has ended, by itself.
func (a *ahead) waitEnd(t *testing.T) {
	t.Helper()
	select {
	case err := <-a.ended:
		a.ended <- err
	case <-time.After(10 * time.Second):
		t.Fatal("the server goes on")
	}
	if _, err := os.Stat(a.dir.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its directory: %v", err)
	}
}

// behindServer asks a server, which must say what WalGet says, and nothing where
// that is trouble.
func (g *getter) behindServer(t *testing.T, conf WalGetConfig, file string, want Outcome, body []byte) {
	t.Helper()
	os.Remove(g.target())
	dir, err := ClaimPrefetchDir(g.dir)
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewPrefetcher(t.Context(), PrefetchConfig{
		WalGetConfig: conf, Dir: dir, Key: "key", Check: func() error { return nil },
	})
	if err != nil && want != Trouble {
		t.Errorf("%s: no server: %v", file, err)
	}
	if err != nil {
		return
	}
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	for range 2 {
		got, err := g.served("key", file, ready.Silence)
		have, _ := os.ReadFile(g.target())
		if got != want || got == Delivered && !bytes.Equal(have, body) {
			t.Errorf("%s: a server says %d, %v, with %d bytes; want %d", file, got.ExitCode(), err, len(have), want.ExitCode())
		}
	}
	end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	os.Remove(g.target())
}

// longGetter has segments 1 to 9 of timeline 1, and the rest of newGetter.
func longGetter(t *testing.T) *getter {
	g := newGetter(t)
	g.wal = generateWAL(1, 1, 9)
	g.store = memstore.New()
	a, err := archive.Pin(t.Context(), g.store, testCluster)
	if err != nil {
		t.Fatal(err)
	}
	for no := range uint64(9) {
		store(t, a, segment.ID{Timeline: 1, No: no + 1}, nth(g.wal, int(no)), int64(testSize))
	}
	store(t, a, segment.ID{Timeline: 2, No: 4}, generateWAL(2, 4, 1), int64(testSize))
	return g
}

func TestPrefetch(t *testing.T) {
	g := longGetter(t)
	a := g.prefetch(t, seg(1, 1), 2*int64(testSize), nil)
	a.ready(t, seg(1, 2), seg(1, 3), seg(1, 4)) // the next, and two ahead of it
	for no := uint64(2); no <= 9; no++ {
		a.takes(t, seg(1, no), nth(g.wal, int(no)-1))
	}
	a.ready(t)
	for no := uint64(2); no <= 9; no++ {
		if n := a.count(seg(1, no)); n != 1 {
			t.Errorf("segment %d was fetched %d times", no, n)
		}
	}
	a.takes(t, seg(1, 10), nil)
	a.takes(t, seg(1, 9), nth(g.wal, 8)) // again
	a.takes(t, seg(1, 4), nth(g.wal, 3)) // back
	a.ready(t, seg(1, 5), seg(1, 6))
	a.takes(t, seg(2, 4), generateWAL(2, 4, 1))
	a.ready(t)
	for _, file := range []string{"00000002.history", "", "../socket", seg(1, 2) + ".partial", seg(1, 0)} {
		a.takes(t, file, nil)
	}
	if a.count(seg(1, 10)) == 0 {
		t.Error("segment 10 was not asked for: nothing was counted")
	}
}

// The recovery of a backup begins with the segment in its label.
func TestPrefetchOfBackup(t *testing.T) {
	g := longGetter(t)
	label := "START WAL LOCATION: 0/200028 (file " + seg(1, 2) + ")\nCHECKPOINT LOCATION: 0/200060\n"
	if err := os.WriteFile(filepath.Join(filepath.Dir(g.dir), "backup_label"), []byte(label), 0o600); err != nil {
		t.Fatal(err)
	}
	a := g.prefetch(t, "", 2*int64(testSize), nil)
	a.ready(t, seg(1, 2), seg(1, 3), seg(1, 4))
	for no := uint64(2); no <= 9; no++ {
		a.takesReady(t, segment.ID{Timeline: 1, No: no}, nth(g.wal, int(no)-1))
	}
	if n := a.count(seg(1, 1)); n > 0 {
		t.Errorf("the one before it was fetched %d times", n)
	}
}

// What is taken without a question counts as one. The last segment that was
// taken may be asked for again.
func TestPrefetchTaken(t *testing.T) {
	g := longGetter(t)
	a := g.prefetch(t, "", 2*int64(testSize), nil)
	a.takes(t, seg(1, 1), nth(g.wal, 0))
	for no := uint64(2); no <= 8; no++ {
		a.takesReady(t, segment.ID{Timeline: 1, No: no}, nth(g.wal, int(no)-1))
	}
	a.ready(t, seg(1, 9))
	a.server.mu.Lock()
	a.server.asked = time.Time{}
	a.server.mu.Unlock()
	a.takesReady(t, segment.ID{Timeline: 1, No: 9}, nth(g.wal, 8))
	a.ready(t)
	for asked := (time.Time{}); asked.IsZero(); time.Sleep(time.Millisecond) {
		a.server.mu.Lock()
		asked = a.server.asked
		a.server.mu.Unlock()
	}
	for no := uint64(1); no <= 9; no++ {
		if n := a.count(seg(1, no)); n != 1 {
			t.Errorf("segment %d was fetched %d times", no, n)
		}
	}
	a.takes(t, seg(1, 9), nth(g.wal, 8))
	a.takes(t, seg(1, 10), nil)
	a.takes(t, seg(1, 3), nth(g.wal, 2))
	a.takesReady(t, segment.ID{Timeline: 1, No: 4}, nth(g.wal, 3))
}

// Of a segment that is not whole only the moment of the question can tell how
// much there is of it.
func TestPrefetchWholeSegmentsOnly(t *testing.T) {
	g := newGetter(t) // of segment 5 there is a beginning
	g.withPlan(t, nil, map[string][]byte{seg(1, 3): nth(g.wal, 2)})
	a := g.prefetch(t, seg(1, 1), 1<<30, nil)
	a.ready(t, seg(1, 2), seg(1, 3), seg(1, 4))
	a.takes(t, seg(1, 5), padded(g.wal[4*int(testSize):], 0x50000))
	a.takes(t, seg(1, 6), nil)
	arch, err := archive.Open(t.Context(), g.store)
	if err != nil {
		t.Fatal(err)
	}
	store(t, arch, segment.ID{Timeline: 1, No: 5}, nth(g.wal, 4), int64(testSize)) // it is, now
	a.takes(t, seg(1, 5), nth(g.wal, 4))
}

func TestPrefetchFollowsPlan(t *testing.T) {
	g := longGetter(t)
	g.withPlan(t, &Plan{Timeline: 2, Need: 0x480000, End: 0x480000, WAL: []Range{
		{Timeline: 1, First: seg(1, 2), Last: seg(1, 3)}, {Timeline: 2, First: seg(2, 4), Last: seg(2, 4)},
	}}, nil)
	a := g.prefetch(t, seg(1, 1), 1<<30, nil)
	a.ready(t, seg(1, 2), seg(1, 3), seg(2, 4))
	a.takes(t, seg(1, 3), nth(g.wal, 2))
	a.ready(t, seg(2, 4))
	if n := a.count(seg(1, 4)) + a.count(seg(2, 5)); n > 0 {
		t.Errorf("%d segments were fetched that are not in the plan", n)
	}
}

// Who asks for what is on its way waits for it.
func TestPrefetchSingleFlight(t *testing.T) {
	g := longGetter(t)
	hold := make(chan struct{})
	a := g.prefetch(t, seg(1, 1), 0, func(a *ahead) { a.hold = hold })
	go func() {
		for a.count(seg(1, 2)) == 0 {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(prefetchBeat + 200*time.Millisecond) // a sign of life
		close(hold)
	}()
	out, err := g.served("key", seg(1, 2), prefetchBeat+prefetchBeat/2)
	if n := a.count(seg(1, 2)); out != Delivered || n != 1 {
		t.Errorf("%d after %d fetches, %v", out.ExitCode(), n, err)
	}
}

// Nobody waits for a segment that will not be fetched any more.
func TestPrefetchForgotten(t *testing.T) {
	g := longGetter(t)
	hold := make(chan struct{})
	a := g.prefetch(t, seg(1, 1), (prefetchJobs-1)*int64(testSize), func(a *ahead) { a.hold = hold })
	defer close(hold) // before the server is stopped
	for a.count(seg(1, 2))+a.count(seg(1, 3))+a.count(seg(1, 4))+a.count(seg(1, 5)) < prefetchJobs {
		time.Sleep(time.Millisecond)
	}
	a.ready(t) // what is under way has another name
	asked := make(chan bool)
	go func() {
		out, _ := g.served("key", seg(1, 9), ready.Silence)
		asked <- out == Delivered
	}()
	for head := ""; head != seg(1, 9); time.Sleep(time.Millisecond) {
		a.server.mu.Lock()
		head = a.server.window[0].id.Name(testSize)
		a.server.mu.Unlock()
	}
	a.server.slide(segment.ID{Timeline: 1, No: 2})
	if <-asked {
		t.Error("it was taken")
	}
}

// Damage and trouble are left to the one who can say what they mean.
func TestPrefetchTrouble(t *testing.T) {
	g := longGetter(t)
	broken := faulty{Store: g.store, mangle: func(name string, body []byte) []byte {
		if strings.Contains(name, seg(1, 3)) {
			body[len(body)/2] ^= 1
		}
		if strings.Contains(name, seg(1, 5)) {
			panic("bug")
		}
		return body
	}}
	g.store = broken
	a := g.prefetch(t, seg(1, 1), 1<<30, nil)
	a.takes(t, seg(1, 2), nth(g.wal, 1))
	a.takes(t, seg(1, 3), nil)
	a.takes(t, seg(1, 4), nth(g.wal, 3))
	a.takes(t, seg(1, 5), nil)
	a.takes(t, seg(1, 6), nth(g.wal, 5))
	a.ready(t, seg(1, 7), seg(1, 8), seg(1, 9))
}

// A server that has the archive open does not say what is absent when the
// archive itself is gone: a directory that is not mounted any more has nothing.
func TestPrefetchUnmounted(t *testing.T) {
	g := longGetter(t)
	var away atomic.Bool
	g.store = faulty{Store: g.store, get: func(string) error {
		if away.Load() {
			return archive.ErrNotExist
		}
		return nil
	}}
	g.prefetch(t, "", 0, nil)
	for _, want := range []Outcome{Absent, Trouble} {
		for _, file := range []string{seg(1, 10), "00000007.history"} {
			if got, err := g.served("key", file, ready.Silence); got != want {
				t.Errorf("%s: %d, %v; want %d", file, got.ExitCode(), err, want.ExitCode())
			}
		}
		away.Store(true)
	}
}

// A server ends when it is not wanted, or not what was asked for, and takes
// its directory along.
func TestPrefetchEnds(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, a *ahead){
		"stopped":      func(_ *testing.T, a *ahead) { a.end() },
		"not wanted":   func(_ *testing.T, a *ahead) { a.mu.Lock(); a.gone = errors.New("recovery has ended"); a.mu.Unlock() },
		"socket taken": func(_ *testing.T, a *ahead) { os.Remove(filepath.Join(a.dir.path, ready.Socket)) },
		"all taken":    func(_ *testing.T, a *ahead) { os.RemoveAll(a.dir.path) },
		"other key": func(t *testing.T, a *ahead) {
			if out, _ := a.served("other", seg(1, 3), ready.Silence); out != Trouble {
				t.Error("answered with another key")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := longGetter(t).prefetch(t, seg(1, 1), 1<<30, nil)
			a.takes(t, seg(1, 2), nth(a.wal, 1))
			if _, err := ClaimPrefetchDir(a.getter.dir); err == nil {
				t.Fatal("two servers have the directory")
			}
			end(t, a)
			a.waitEnd(t)
			a.takes(t, seg(1, 3), nil)
		})
	}
}

// A server that hangs delays one request only.
func TestPrefetchHangs(t *testing.T) {
	g := longGetter(t)
	dir, err := ClaimPrefetchDir(g.dir)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := g.served("key", seg(1, 2), 20*time.Millisecond); out != Trouble || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d, %v", out.ExitCode(), err)
	}
	if _, err := g.served("key", seg(1, 2), time.Hour); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the next request: %v", err)
	}
	if err := dir.Close(); err != nil {
		t.Fatal(err)
	}
	// One that answered too late, or lies, has no file.
	if dir, err = ClaimPrefetchDir(g.dir); err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	go func() {
		conn, err := dir.listener.Accept()
		if err == nil {
			conn.Read(make([]byte, 100))
			conn.Write([]byte("+../../gone\n"))
			conn.Close()
		}
	}()
	var gone *os.LinkError
	if out, err := g.served("key", seg(1, 2), ready.Silence); out != Trouble || !errors.As(err, &gone) {
		t.Errorf("%d, %v", out.ExitCode(), err)
	}
}

// What a server that was killed left behind is not trusted.
func TestPrefetchAfterCrash(t *testing.T) {
	g := longGetter(t)
	left, err := ClaimPrefetchDir(g.dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(left.path, fmt.Sprintf("%s.%d", seg(1, 2), testStart)), []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	left.Close() // the process is gone
	var refused *os.PathError
	if out, err := g.served("key", seg(1, 2), ready.Silence); out != Trouble || !errors.As(err, &refused) {
		t.Errorf("%d, %v", out.ExitCode(), err)
	}
	a := g.prefetch(t, seg(1, 1), 0, nil)
	a.takes(t, seg(1, 2), nth(g.wal, 1))
}
