package recovery

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"time"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/segment"
)

// flight is the way of one segment into the directory.
type flight struct {
	id     segment.ID
	name   string // in the directory: of this flight only, until it is ready
	cancel context.CancelFunc
	done   chan struct{}
	err    error // once done

	begun, dropped bool // guarded by Prefetcher.mu
}

func (f *flight) isDone() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

var labelStart = regexp.MustCompile(`(?m)^START WAL LOCATION: .* \(file ([0-9A-F]{24})\)$`)

// firstWanted is the segment in which a backup began, if the recovery of one
// begins: PostgreSQL will ask for it, histories first.
func (p *Prefetcher) firstWanted() (id segment.ID, ok bool) {
	label, err := os.ReadFile(filepath.Join(p.cfg.Dir.path, "..", "..", "backup_label"))
	m := labelStart.FindSubmatch(label)
	if err != nil || m == nil { // there is nothing to hurry with
		return id, false
	}
	id, err = segment.ParseName(string(m[1]), p.size)
	return id, err == nil
}

// following is the segment that will be asked for after another, if that can
// be told: behind the end of a plan it cannot.
func (p *Prefetcher) following(id segment.ID) (next segment.ID, ok bool) {
	if p.plan == nil {
		return id.Next(), true
	}
	if required, _ := p.plan.Required(id); !required {
		return id.Next(), true
	}
	for i, r := range p.plan.WAL {
		if r.Last == id.Name(p.size) && r.Timeline == id.Timeline {
			if i+1 == len(p.plan.WAL) {
				return next, false
			}
			next, err := segment.ParseName(p.plan.WAL[i+1].First, p.size)
			return next, err == nil
		}
	}
	return id.Next(), true
}

// slide makes the window begin with a segment that was asked for, and returns its
// flight. An earlier one may be gone, or have failed.
func (p *Prefetcher) slide(id segment.ID) *flight {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.window = slices.DeleteFunc(p.window, func(f *flight) bool { return f.id == id && p.spent(f) })
	p.begin(id)
	return p.window[0]
}

// taken slides the window to the last of the segments that were taken without a
// question. PostgreSQL wants them in order.
func (p *Prefetcher) taken() {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := 0
	for last+1 < len(p.window) && p.window[last+1].isDone() && p.window[last+1].err == nil && p.spent(p.window[last+1]) {
		last++
	}
	if last > 0 {
		p.begin(p.window[last].id)
	}
}

// begin makes the window begin with a segment. Flights that are in it stay.
func (p *Prefetcher) begin(id segment.ID) {
	p.asked = time.Now()
	old := p.window
	p.window = nil
	ok := true
	for room := p.cfg.Room; ok && (room >= 0 || len(p.window) == 0); room -= int64(p.size) {
		if i := slices.IndexFunc(old, func(f *flight) bool { return f.id == id }); i >= 0 {
			p.window = append(p.window, old[i])
		} else {
			p.flights++
			f := &flight{id: id, name: fmt.Sprintf("ahead.%d", p.flights), done: make(chan struct{}), cancel: func() {}}
			p.window = append(p.window, f)
		}
		id, ok = p.following(id)
	}
	for _, f := range old {
		if !slices.Contains(p.window, f) {
			p.drop(f)
		}
	}
	p.changed.Broadcast()
}

func (p *Prefetcher) place(f *flight) string { return filepath.Join(p.cfg.Dir.path, f.name) }

// spent says whether a flight that is done has no file, but may have one if it
// is begun anew. What is not here is for [Prefetcher.say] to look at.
func (p *Prefetcher) spent(f *flight) bool {
	if !f.isDone() || errors.Is(f.err, errNotHere) {
		return false
	}
	_, err := os.Lstat(p.place(f))
	return err != nil
}

// drop ends a flight of which nobody wants to know any more.
func (p *Prefetcher) drop(f *flight) {
	f.dropped = true
	f.cancel()
	if !f.begun { // who waits for it shall not
		f.begun, f.err = true, errors.New("nobody has asked for it again")
		close(f.done)
	}
	if f.isDone() {
		_ = os.Remove(p.place(f)) // it is gone, mostly
	}
}

// work fetches one segment after the other.
func (p *Prefetcher) work(ctx context.Context) {
	for {
		ctx, f := p.take(ctx)
		if f == nil {
			return
		}
		f.err = p.fetch(ctx, f)
		p.mu.Lock()
		f.cancel()
		if f.err == nil && !f.dropped {
			f.err = p.makeReady(f)
		}
		close(f.done)
		if f.dropped {
			p.drop(f)
		}
		p.mu.Unlock()
	}
}

// makeReady gives a segment that is verified and synced the name by which it is
// taken.
func (p *Prefetcher) makeReady(f *flight) error {
	from := p.place(f)
	f.name = fmt.Sprintf("%s.%d", f.id.Name(p.size), p.cfg.Start)
	return os.Rename(from, p.place(f))
}

// take waits for the next flight that can begin; nil at the end. Behind a
// segment that cannot be had none begins: WAL may end there.
func (p *Prefetcher) take(ctx context.Context) (context.Context, *flight) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ctx.Err() == nil {
		for _, f := range p.window {
			if f.isDone() && f.err != nil {
				break
			}
			if !f.begun {
				f.begun = true
				ctx, f.cancel = context.WithCancel(ctx)
				return ctx, f
			}
		}
		p.changed.Wait()
	}
	return ctx, nil
}

// try is a request to [WalGet] for what is to be in the directory by a name.
func (p *Prefetcher) try(ctx context.Context, file, name string, cfg WalGetConfig, ahead bool) (out Outcome, err error) {
	defer func() {
		if r := recover(); r != nil {
			out, err = Trouble, fmt.Errorf("crashed: %v\n%s", r, debug.Stack())
		}
	}()
	dir := p.cfg.Dir.path
	g := walGet{cfg: cfg, file: file, path: filepath.Join(dir, name), wal: filepath.Dir(dir), ahead: ahead}
	return g.try(ctx)
}

// fetch gets a whole segment only.
func (p *Prefetcher) fetch(ctx context.Context, f *flight) error {
	file := f.id.Name(p.size)
	_, err := p.try(ctx, file, f.name, p.cfg.WalGetConfig, true)
	if err != nil && !errors.Is(err, errNotHere) && ctx.Err() == nil {
		p.cfg.Log.Warn().Err(err).Str("segment", file).Msg("not prefetched")
		p.opening.Lock()
		p.archive = nil
		p.opening.Unlock()
	}
	return err
}

// open keeps the archive until something goes wrong.
func (p *Prefetcher) open(ctx context.Context, open func(context.Context) (*archive.Archive, error)) (_ *archive.Archive, err error) {
	p.opening.Lock()
	defer p.opening.Unlock()
	if p.archive == nil {
		p.archive, err = open(ctx)
	}
	return p.archive, err
}

// again fails unless the archive can be opened, as if it had not been, over the
// connections that there are, and is the same.
func (p *Prefetcher) again(ctx context.Context) error {
	if p.cfg.From != nil {
		return nil
	}
	a, err := p.cfg.Open(ctx)
	if err != nil {
		return err
	}
	now, err := a.Again(ctx)
	if err != nil {
		return err
	}
	return now.Identity().Match("archive", a.Identity().Identity)
}
