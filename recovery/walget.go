package recovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/rs/zerolog"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/crashpoint"
	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/mutant"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// Outcome is the answer to PostgreSQL's question for a file.
type Outcome int

// The outcomes, and what PostgreSQL makes of them.
const (
	// Trouble stops the server: whether the file exists is not known, or it
	// is known to be needed and cannot be had.
	Trouble Outcome = iota
	// Delivered means that the whole, verified file is in place.
	Delivered
	// Absent means that there is no such file and that nothing needs it. In
	// plain recovery the server takes that for the end of WAL.
	Absent
)

// ExitCode is the exit status that tells PostgreSQL the outcome.
func (o Outcome) ExitCode() int {
	switch o {
	case Delivered:
		return 0
	case Absent:
		return 1
	}
	return 200
}

const (
	// DefaultRetry is how long trouble is retried before the server is
	// stopped.
	DefaultRetry = 15 * time.Minute
	// standbyRetry is how long a standby waits at most: in the meantime it
	// does not stream.
	standbyRetry = 30 * time.Second
)

// WalGetConfig says where WAL comes from.
type WalGetConfig struct {
	// Open opens the archive. It is called again after each failure.
	Open func(ctx context.Context) (*archive.Archive, error)
	// Spool is a spool directory, or the [SideDir] of a restored data
	// directory, without whose plan nothing is answered. Empty means none.
	Spool string
	// RetryFor is how long trouble is retried; 0 means [DefaultRetry],
	// negative not at all.
	RetryFor time.Duration
	// From is asked instead of the archive. Of Spool only the plan counts then.
	From *Remote
	// Standby says that the server is one that asks again and streams in the
	// meantime, and does not take Absent for the end of WAL, unless it is
	// being promoted. Then it gets that answer for Trouble too, after 30 s at
	// the latest, instead of being stopped.
	Standby bool
	Log     zerolog.Logger
}

// WalGet gives PostgreSQL the file it asks for: a segment or a history, which
// is put at path. Answering wrongly that there is none would make a server go
// live in the middle of its WAL, so every doubt, and even a crash in here, is
// [Trouble] (P5 in docs/guarantees.md). The error says why it is not
// [Delivered].
func WalGet(ctx context.Context, cfg WalGetConfig, file, path string) (out Outcome, err error) {
	defer func() {
		if p := recover(); p != nil {
			out, err = Trouble, fmt.Errorf("wal-get %s: crashed: %v\n%s", file, p, debug.Stack())
		}
	}()
	if file == segment.HistoryName(1) {
		return Absent, fmt.Errorf("wal-get %s: %w", file, errNoFirst)
	}
	if cfg.RetryFor == 0 {
		cfg.RetryFor = DefaultRetry
	}
	if cfg.Standby {
		cfg.RetryFor = min(cfg.RetryFor, standbyRetry)
	}
	g := &walGet{cfg: cfg, file: file, path: path, wal: filepath.Dir(path)}
	try := func() (Outcome, error) {
		out, err := g.try(ctx)
		if mutant.WalGetAbsent && err != nil {
			out = Absent
		}
		if err != nil && out == Trouble && (cfg.RetryFor < 0 || !mayPass(err)) {
			return out, backoff.Permanent(err)
		}
		if out == Absent {
			g.why, err = err, nil
		}
		return out, err
	}
	wait := backoff.NewExponentialBackOff()
	wait.MaxInterval = 10 * time.Second
	out, err = backoff.Retry(ctx, try, backoff.WithBackOff(wait), backoff.WithMaxElapsedTime(max(cfg.RetryFor, 0)),
		backoff.WithNotify(func(err error, next time.Duration) {
			cfg.Log.Warn().Err(err).Str("file", file).Stringer("retry_in", next.Round(time.Millisecond)).Msg("cannot get WAL yet")
		}))
	if err != nil {
		out = Trouble
		if cfg.Standby && !errors.Is(err, errNoWALFile) {
			out = Absent
		}
		return out, fmt.Errorf("wal-get %s: %w", file, err)
	}
	if out == Absent {
		return out, fmt.Errorf("wal-get %s: %w", file, g.why)
	}
	return out, nil
}

// walGet is one request.
type walGet struct {
	cfg        WalGetConfig
	file, path string
	wal        string // pg_wal, with what the server has itself
	why        error  // of Absent
	ahead      bool   // nobody has asked yet: whole segments only

	archive *archive.Archive
	size    segment.Size       // of the cluster's segments
	view    *segment.SpoolView // nil without a spool
	plan    *Plan              // nil when there is none

	passing bool  // what is delivered is passed on and need not be durable
	padded  int64 // up to where a segment is WAL that was filled up with zeros
}

// mayPass says whether trouble can go away by itself. Damage does not.
func mayPass(err error) bool {
	var foreign *segment.ForeignError
	return !isDamage(err) && !errors.As(err, &foreign) && !errors.Is(err, errNoWALFile) && !errors.Is(err, errNoSpool)
}

var errNoSpool = errors.New("there is no spool, nor what a restore left")

// errNoFirst needs no archive: PostgreSQL asks when a timeline begins, and the
// recovery is over by then.
var errNoFirst = errors.New("timeline 1 has no history file")

var errNoWALFile = errors.New("it is neither a WAL segment nor a timeline history")

// otherFile matches the names of WAL files that recovery never needs.
var otherFile = regexp.MustCompile(`^[0-9A-F]{24}(\.partial|\.[0-9A-F]{8}\.backup)$`)

// try answers once. Absent comes with an error that says what is not there.
func (g *walGet) try(ctx context.Context) (Outcome, error) {
	if otherFile.MatchString(g.file) {
		return Absent, errors.New("recovery needs no such file")
	}
	tli, notHistory := segment.ParseHistoryName(g.file)
	if notHistory != nil && len(g.file) != 24 {
		return Trouble, hint.With(errNoWALFile, "this is a restore_command: PostgreSQL calls it as wal-get %%f %%p")
	}
	if g.cfg.From != nil {
		return g.remote(ctx)
	}
	if err := g.open(ctx); err != nil {
		return Trouble, err
	}
	if notHistory == nil {
		return g.history(ctx, tli)
	}
	id, err := segment.ParseName(g.file, g.size)
	if err != nil {
		return Trouble, errors.Join(errNoWALFile, err)
	}
	return g.segment(ctx, id)
}

// open opens archive, spool and plan, which must be of one cluster.
func (g *walGet) open(ctx context.Context) (err error) {
	if g.archive, err = g.cfg.Open(ctx); err != nil {
		return err
	}
	return g.openSpool(g.archive.Identity().Identity)
}

// openSpool opens spool and plan, if there are any, of the cluster identity.
func (g *walGet) openSpool(identity segment.Identity) (err error) {
	g.size = identity.SegmentSize
	if g.cfg.Spool == "" {
		return nil
	}
	if g.view, err = segment.ReadSpool(fsx.OS{}, g.cfg.Spool); errors.Is(err, fs.ErrNotExist) {
		err = hint.With(errors.Join(errNoSpool, err), "is it the right place, and mounted? %s", hint.Mount(g.cfg.Spool))
	}
	if err != nil {
		return err
	}
	if err := g.view.Identity.Match("spool "+g.cfg.Spool, identity); err != nil {
		return err
	}
	g.plan, err = ReadPlan(g.cfg.Spool)
	if errors.Is(err, fs.ErrNotExist) && !strings.HasSuffix(filepath.Clean(g.cfg.Spool), sideSuffix) {
		return nil // a receiver's spool
	}
	if err == nil {
		err = g.plan.Identity.Match("the plan in "+g.cfg.Spool, identity)
	}
	return err
}

// ReadPlan reads the plan that a restore left in a side directory (see
// [SideDir]); fs.ErrNotExist when there is none.
func ReadPlan(dir string) (*Plan, error) {
	body, err := os.ReadFile(filepath.Join(dir, planFile))
	if err != nil {
		return nil, err
	}
	p := &Plan{}
	if err := json.Unmarshal(body, p); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, planFile), err)
	}
	return p, nil
}

// findHistory reads a history from the archive or else from the spool.
func (g *walGet) findHistory(ctx context.Context, tli wal.Timeline) (h segment.History, body []byte, err error) {
	h, body, err = g.archive.History(ctx, tli)
	if errors.Is(err, archive.ErrNotExist) && g.view != nil {
		if held, ok := g.view.Histories[tli]; ok {
			body = held
			h, err = segment.ParseHistory(tli, held)
		}
	}
	return h, body, err
}

func (g *walGet) history(ctx context.Context, tli wal.Timeline) (Outcome, error) {
	if tli == 1 {
		return Absent, errNoFirst
	}
	var later string
	listed := beside(func() (err error) {
		later, err = g.exists(ctx, tli, 0)
		return err
	})
	h, body, err := g.findHistory(ctx, tli)
	listErr := listed()
	if err == nil {
		err = g.checkHistory(ctx, h)
	}
	switch {
	case err == nil:
		return g.deliver(func(f *os.File) error {
			_, err := f.Write(body)
			return err
		})
	case !errors.Is(err, archive.ErrNotExist):
		return Trouble, err
	case g.plan != nil && g.plan.Timeline == tli:
		return Trouble, fmt.Errorf("the plan needs it: %w", err)
	}
	switch {
	case listErr != nil:
		return Trouble, listErr
	case later != "":
		return Trouble, fmt.Errorf("it is missing, but WAL of its timeline exists: %s", later)
	}
	return Absent, err
}

// beside makes a request at the same time as others, since the store may be far
// away, and returns what waits for its error. A crash is one, too.
func beside(request func() error) (wait func() error) {
	done := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- fmt.Errorf("crashed: %v\n%s", p, debug.Stack())
			}
		}()
		done <- request()
	}()
	return func() error { return <-done }
}

// checkHistory compares a history with the WAL there is, and with the plan: it
// may have been damaged since.
func (g *walGet) checkHistory(ctx context.Context, h segment.History) error {
	if g.plan != nil && g.plan.Timeline == h.Timeline {
		for i, before := range g.plan.WAL[:max(len(g.plan.WAL)-1, 0)] {
			next := g.plan.WAL[i+1].Timeline
			if start, _ := h.StartOf(next); start != before.Switch {
				return &archive.CorruptError{Object: archive.HistoryName(h.Timeline), What: "start of timeline " + next.String(), Have: start.String(), Want: before.Switch.String()}
			}
		}
	}
	return g.archive.CheckHistory(ctx, h)
}

// exists looks for WAL of a timeline from segment number from on, in spool and
// archive, and names the first.
func (g *walGet) exists(ctx context.Context, tli wal.Timeline, from uint64) (string, error) {
	if g.view != nil {
		for _, p := range append(g.view.Sealed[:len(g.view.Sealed):len(g.view.Sealed)], g.view.Partials...) {
			if p.ID.Timeline == tli && p.ID.No >= from {
				return p.ID.Name(g.size) + " in the spool", nil
			}
		}
	}
	for p, err := range g.archive.Pieces(ctx, tli, from) {
		return p.ID.Name(g.size), err
	}
	return "", nil
}

// deliver puts a file into place, all at once: PostgreSQL must never find half
// of one, not even when this process is killed. Errors of fill are returned as
// they are. A failure on this side of it never looks like an absent object.
func (g *walGet) deliver(fill func(*os.File) error) (Outcome, error) {
	tmp := g.path + ".walstream"
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return Trouble, errors.New("write: " + err.Error())
	}
	defer func() { // to no effect when all went well
		f.Close()
		os.Remove(tmp)
	}()
	if err := fill(f); err != nil {
		return Trouble, err
	}
	if !g.passing {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		crashpoint.Hit(crashpoint.WALGetWritten)
		err = os.Rename(tmp, g.path)
	}
	if err == nil && !g.ahead { // nobody trusts that name after a crash
		crashpoint.Hit(crashpoint.WALGetNamed)
		if !g.passing {
			err = syncPath(filepath.Dir(g.path))
		}
	}
	if err != nil {
		return Trouble, errors.New("write: " + err.Error())
	}
	return Delivered, nil
}
