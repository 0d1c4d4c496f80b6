package recovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// Source is where a recovery reads from.
type Source struct {
	Archive *archive.Archive
	// Spool is the directory of a receiver's spool, which may hold WAL that
	// is not archived yet. Empty means none. It is read without its lock.
	Spool string
}

// Plan lists what there is and plans a recovery to t, reading what the planner
// wants to know. Errors are those of [MakePlan], a [*Refusal] if something of
// the backup is missing, or failures to read.
func (s Source) Plan(ctx context.Context, t Target) (*Plan, error) {
	return whileMoving(ctx, func() (*Plan, error) { return s.plan(ctx, t) })
}

// whileMoving repeats f when what it had listed was gone: a spool file that
// was released, or a tail that was superseded, is somewhere else now.
func whileMoving[T any](ctx context.Context, f func() (T, error)) (T, error) {
	const attempts = 5
	for i := 1; ; i++ {
		v, err := f()
		gone := errors.Is(err, archive.ErrNotExist) || errors.Is(err, fs.ErrNotExist)
		if !gone || i == attempts || ctx.Err() != nil {
			return v, err
		}
	}
}

func (s Source) plan(ctx context.Context, t Target) (*Plan, error) {
	g, err := s.gather(ctx)
	if err != nil {
		return nil, err
	}
	p, err := g.plan(ctx, t)
	if err != nil {
		return nil, err
	}
	err = backup.Check(ctx, g.archive, &p.Backup)
	var broken *backup.UnusableError
	switch {
	case errors.As(err, &broken):
		return nil, g.instead(ctx, t, p.Backup.ID, broken)
	case err != nil:
		return nil, err
	}
	return p, nil
}

// instead refuses a backup of which something is missing, and names the newest
// other one that leads to the target and is whole.
func (g *gatherer) instead(ctx context.Context, t Target, id string, broken error) error {
	other := t
	other.Backup = ""
	for {
		g.facts.Backups = slices.DeleteFunc(g.facts.Backups, func(c backup.Commit) bool { return c.ID == id })
		p, err := g.plan(ctx, other)
		if err != nil {
			return refuse(t.String(), broken.Error(), "no other backup leads there; all there are: walstream list backups")
		}
		if id = p.Backup.ID; backup.Check(ctx, g.archive, &p.Backup) == nil {
			return refuse(t.String(), broken.Error(), "with another backup: walstream restore --backup "+id+" DIR")
		}
	}
}

// plan asks the planner, and answers what it wants to know.
func (g *gatherer) plan(ctx context.Context, t Target) (*Plan, error) {
	return settled(ctx, g, func() (*Plan, error) {
		p, wants, err := MakePlan(g.facts, t)
		return p, cmp.Or(err, lack(wants...))
	})
}

// settled answers what f wants to know until it has come to a result.
func settled[T any](ctx context.Context, g *gatherer, f func() (T, error)) (T, error) {
	for {
		v, err := f()
		wants := wanted(err)
		if wants == nil {
			return v, err
		}
		if err := g.answer(ctx, wants); err != nil {
			return v, err
		}
	}
}

// gatherer collects facts.
type gatherer struct {
	archive *archive.Archive
	spool   *segment.SpoolView // nil when there is none
	facts   Facts
	spooled map[segment.ID]segment.Sealed // the longest piece of each segment in the spool
	headers map[segment.ID]*archive.Header
	carries map[segment.ID]*wal.Carry  // at the end of segments that were scanned, or of which there is a header
	blocks  map[segment.ID]wal.Summary // what an index says of all its segments
	noted   map[string][]archive.RestorePoint
}

func (s Source) gather(ctx context.Context) (*gatherer, error) {
	g := &gatherer{
		archive: s.Archive,
		facts: Facts{
			Identity: s.Archive.Identity().Identity, Span: archive.IndexSpan,
			Histories: map[wal.Timeline]segment.History{}, Unknown: map[wal.Timeline]string{},
			Segments: map[segment.ID]Segment{}, Listed: map[segment.ID]bool{}, End: map[wal.Timeline]uint64{},
			Summaries: map[segment.ID]wal.Summary{}, Points: map[segment.ID]wal.Points{}, RecordAt: map[Want]Span{}, First: map[Want]uint64{}, Changes: map[Want]wal.Changes{},
		},
		spooled: map[segment.ID]segment.Sealed{}, headers: map[segment.ID]*archive.Header{}, carries: map[segment.ID]*wal.Carry{},
		blocks: map[segment.ID]wal.Summary{}, noted: map[string][]archive.RestorePoint{},
	}
	// The spool first: what is released before the archive is listed is there
	// by then.
	if s.Spool != "" {
		view, err := segment.ReadSpool(fsx.OS{}, s.Spool)
		if err != nil {
			return nil, err
		}
		if err := view.Identity.Match("spool "+s.Spool, g.facts.Identity); err != nil {
			return nil, err
		}
		if err := g.listSpool(view); err != nil {
			return nil, err
		}
	}
	if err := g.listArchive(ctx); err != nil {
		return nil, err
	}
	return g, g.listBackups(ctx)
}

func (g *gatherer) listSpool(view *segment.SpoolView) error {
	g.spool = view
	for tli, body := range view.Histories {
		h, err := segment.ParseHistory(tli, body)
		if err != nil {
			return fmt.Errorf("spool: %w", err)
		}
		g.facts.Histories[tli] = h
	}
	for _, p := range slices.Concat(view.Sealed, view.Partials) {
		p, err := spoolPiece(view, p.ID)
		if errors.Is(err, errNotHere) {
			continue
		}
		if err != nil {
			return err
		}
		g.spooled[p.ID] = p
		fact := Segment{Spooled: p.Complete}
		if !p.Complete {
			fact.Partial = p.ID.Start(g.facts.Identity.SegmentSize) + wal.LSN(p.To)
		}
		g.facts.Segments[p.ID] = fact
	}
	return nil
}

func (g *gatherer) listArchive(ctx context.Context) error {
	known, unknown, err := g.archive.Histories(ctx)
	if err != nil {
		return fmt.Errorf("read histories: %w", err)
	}
	for tli, why := range unknown {
		_, spooled := g.facts.Histories[tli]
		switch {
		case spooled:
		case isDamage(why):
			g.facts.Unknown[tli] = "cannot be used: " + why.Error()
		default:
			g.facts.Unknown[tli] = "is missing"
		}
	}
	maps.Copy(g.facts.Histories, known)
	if g.facts.Indexed, err = g.archive.Indexed(ctx); err != nil {
		return err
	}
	if g.facts.Heartbeats, err = g.archive.Heartbeats(ctx); err != nil {
		return err
	}
	g.facts.Gaps, err = g.archive.Gaps(ctx)
	return err
}

// addPiece counts an object of the archive. Tails come in the order of their
// start; only what joins on to the ones before counts.
func (g *gatherer) addPiece(p archive.Piece) {
	s := g.facts.Segments[p.ID]
	start := p.ID.Start(g.facts.Identity.SegmentSize)
	switch {
	case !p.Tail:
		s.Archived = true
	case start+wal.LSN(p.From) <= max(s.Tail, start):
		s.Tail = max(s.Tail, start+wal.LSN(p.To))
		s.Tailed = s.Tail == p.ID.End(g.facts.Identity.SegmentSize)
	}
	s.Stored += p.StoredSize
	g.facts.Segments[p.ID] = s
}

func (g *gatherer) listBackups(ctx context.Context) error {
	for c, err := range backup.Names(ctx, g.archive) {
		var unusable *backup.UnusableError
		switch {
		case errors.As(err, &unusable):
			g.facts.Notes = append(g.facts.Notes, unusable.Error())
		case err != nil:
			return err
		default:
			g.facts.Backups = append(g.facts.Backups, *c)
		}
	}
	return nil
}
