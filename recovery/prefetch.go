package recovery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/ready"
	"github.com/walstream/walstream/segment"
)

const (
	// prefetchJobs is how many segments are fetched at the same time.
	prefetchJobs = 4
	// prefetchIdle is after how long without a request a server ends.
	prefetchIdle = time.Minute
	// prefetchBeat is how often a server sees whether it is still wanted, and
	// tells those who wait that it lives.
	prefetchBeat = time.Second
)

// PrefetchConfig says what a [Prefetcher] fetches.
type PrefetchConfig struct {
	// WalGetConfig is that of the requests. Nothing is retried: who gets no
	// answer does that himself.
	WalGetConfig
	// Dir is where segments wait. Run removes it.
	Dir *PrefetchDir
	// Key is that of the requests that are answered.
	Key string
	// Room is how many bytes of segments may wait.
	Room int64
	// Start is [ServerStart].
	Start int64
	// Check is called each second and before each answer. Its error ends the
	// server: nobody wants it, or it is not what it was when it was started.
	Check func() error
}

// Prefetcher is a server that fetches segments before PostgreSQL asks for
// them: those of the plan in its order, without one those that follow on the
// timeline. Those are whole segments only. What it means that there is none, and
// whether a history exists, it finds out at the moment of the question, as
// [WalGet] does; of trouble it says nothing. Segments that are ready are taken
// by the restore_command without a question (see [RestoreCommand]).
type Prefetcher struct {
	cfg  PrefetchConfig
	plan *Plan // nil when there is none
	size segment.Size
	end  context.CancelCauseFunc

	opening sync.Mutex
	archive *archive.Archive // nil after a failure

	mu      sync.Mutex
	changed sync.Cond // window, or Run ends
	window  []*flight // what was asked for last, and what follows it
	flights int       // so far
	asked   time.Time // last, or taken
}

// NewPrefetcher opens the archive, or asks the server of From. On an error the
// directory is given up.
func NewPrefetcher(ctx context.Context, cfg PrefetchConfig) (*Prefetcher, error) {
	p := &Prefetcher{cfg: cfg, asked: time.Now()}
	p.changed.L = &p.mu
	p.cfg.Open = func(ctx context.Context) (*archive.Archive, error) { return p.open(ctx, cfg.Open) }
	first := walGet{cfg: p.cfg.WalGetConfig, file: segment.HistoryName(1), wal: filepath.Dir(cfg.Dir.path)}
	out, err := first.try(ctx)
	if out == Trouble {
		return nil, errors.Join(fmt.Errorf("prefetch: %w", err), cfg.Dir.remove())
	}
	p.plan, p.size = first.plan, first.size
	return p, nil
}

// Run serves until nobody has asked for a minute, or ctx or Check end it.
func (p *Prefetcher) Run(ctx context.Context) error {
	ctx, p.end = context.WithCancelCause(ctx)
	defer p.end(nil)
	var group errgroup.Group
	group.Go(func() error {
		<-ctx.Done()
		p.mu.Lock()
		p.changed.Broadcast()
		p.mu.Unlock()
		return p.cfg.Dir.listener.Close() // ends Accept
	})
	if id, ok := p.firstWanted(); ok {
		p.mu.Lock()
		p.begin(id)
		p.mu.Unlock()
	}
	for range prefetchJobs {
		group.Go(func() error { p.work(ctx); return nil })
	}
	group.Go(func() error { p.watch(ctx); return nil })
	if moves, err := p.cfg.Dir.moves(); err != nil { // this user has too many
		p.cfg.Log.Warn().Err(err).Msg("what is taken is seen each second only")
	} else {
		group.Go(func() error { p.notice(moves); return nil })
		group.Go(func() error { <-ctx.Done(); return moves.Close() }) // ends Read
	}
	for {
		conn, err := p.cfg.Dir.listener.Accept()
		if err != nil {
			p.end(err)
			break
		}
		group.Go(func() error { p.answer(ctx, conn); return nil })
	}
	err := group.Wait()
	p.cfg.Log.Info().AnErr("reason", context.Cause(ctx)).Int("segments", p.flights).Msg("prefetching ends")
	return errors.Join(err, p.cfg.Dir.remove())
}

// notice sees at once what is taken, until moves is closed.
func (p *Prefetcher) notice(moves *os.File) {
	for events := make([]byte, 4096); ; p.taken() {
		if _, err := moves.Read(events); err != nil {
			return
		}
	}
}

// watch ends the server when it is not wanted any more.
func (p *Prefetcher) watch(ctx context.Context) {
	tick := time.NewTicker(prefetchBeat)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			p.taken()
			p.mu.Lock()
			idle := time.Since(p.asked) > prefetchIdle
			p.mu.Unlock()
			if idle {
				p.end(fmt.Errorf("nobody has asked for %s", prefetchIdle))
			}
			p.wanted()
		}
	}
}

// wanted ends the server if it is not.
func (p *Prefetcher) wanted() bool {
	err := p.cfg.Dir.stands()
	if err == nil {
		err = p.cfg.Check()
	}
	if err != nil {
		p.end(err)
	}
	return err == nil
}

var errOtherKey = errors.New("a request was made with other settings, or by another version")

// answer answers one request. A connection that is closed without answer means
// that there is none.
func (p *Prefetcher) answer(ctx context.Context, conn net.Conn) {
	defer func() { _ = conn.Close() }() // all is said, or nothing can be
	if conn.SetReadDeadline(time.Now().Add(ready.Silence)) != nil {
		return
	}
	request, err := io.ReadAll(io.LimitReader(conn, ready.MaxRequest))
	if err != nil || !p.wanted() {
		return
	}
	file, key, _ := strings.Cut(string(request), "\n")
	if key != p.cfg.Key {
		p.end(errOtherKey)
		return
	}
	said := make(chan string, 1)
	var group errgroup.Group
	defer func() { _ = group.Wait() }() // it has no error
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group.Go(func() error { said <- p.say(ctx, file); return nil })
	tick := time.NewTicker(prefetchBeat)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if _, err := conn.Write([]byte("\n")); err != nil { // white space
				return
			}
		case answer := <-said:
			_, _ = conn.Write([]byte(answer)) // who is gone asks again
			return
		}
	}
}

// say is the answer for a file, empty if there is none.
func (p *Prefetcher) say(ctx context.Context, file string) string {
	if id, err := segment.ParseName(file, p.size); err == nil {
		f := p.slide(id)
		select {
		case <-f.done:
		case <-ctx.Done():
			return ""
		}
		switch {
		case f.err == nil:
			return ready.Delivered + f.name + "\n"
		case !errors.Is(f.err, errNotHere):
			return ""
		}
	}
	// What it means that there is no whole segment is found out anew, as by a
	// process of its own.
	p.mu.Lock()
	p.asked = time.Now()
	p.flights++
	name := fmt.Sprintf("asked.%d", p.flights)
	p.mu.Unlock()
	opened := beside(func() error { return p.again(ctx) })
	out, err := p.try(ctx, file, name, p.cfg.WalGetConfig, false)
	switch gone := opened(); {
	case gone != nil:
		p.cfg.Log.Warn().Err(gone).Str("file", file).Msg("not answered")
	case out == Delivered:
		return ready.Delivered + name + "\n"
	case out == Absent && err != nil:
		return fmt.Sprintf("%swal-get %s: %v\n", ready.Absent, file, err)
	}
	return ""
}
