package recovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// verifySample is of how many stored bytes Verify reads the contents unless it
// is to read all: so much of the newest WAL, and so much of the newest backups.
const verifySample = 512 << 20

// VerifyConfig says what [Verify] looks at.
type VerifyConfig struct {
	Archive *archive.Archive
	// Since leaves out what only restores to earlier moments need. The newest
	// backup before it belongs to what is looked at.
	Since time.Time
	// Backup is the ID of the only backup to look at, with the WAL that it
	// needs itself; empty means all.
	Backup string
	// Full reads the contents of everything.
	Full bool
	// Progress is told the stored bytes that are read, from several goroutines.
	Progress func(done, total int64)
}

// Verification is what [Verify] found.
type Verification struct {
	Backups  int `json:"backups"`
	Segments int `json:"segments"`
	// StoredBytes is the size of all that was looked at, ReadBytes of that of
	// which the contents were read.
	StoredBytes int64 `json:"stored_bytes"`
	ReadBytes   int64 `json:"read_bytes"`
	// Problems is what was found, the consequences in it.
	Problems []Finding `json:"problems"`
	// Gaps are holes that were recorded, with a backup behind them.
	Gaps  []Finding `json:"gaps"`
	Notes []string  `json:"notes"`
}

// Finding is something that is missing or damaged.
type Finding struct {
	// Object is a backup, a run of WAL segments, or the history of a timeline.
	Object  string `json:"object"`
	Problem string `json:"problem"`
	// Backup is the one that cannot be restored.
	Backup   string       `json:"backup,omitempty"`
	Timeline wal.Timeline `json:"timeline,omitempty"`
	// Of WAL: after From, the last commit before it, nothing can be reached on
	// Timeline up to To, when the next backup was finished. Zero is the
	// beginning and the end.
	From   time.Time `json:"unreachable_from,omitzero"`
	To     time.Time `json:"unreachable_to,omitzero"`
	Behind string    `json:"next_backup,omitempty"` // the one finished at To
}

// verifier is one run of [Verify].
type verifier struct {
	VerifyConfig
	Verification
	readable  bool
	size      segment.Size
	histories map[wal.Timeline]segment.History
	backups   []*backup.Commit // all that can be used
	scope     []*backup.Commit // of those, what is looked at; the newest last
	whole     []*backup.Commit // of those, in which nothing is missing
	segments  []stored
	bad       []badRun
	last      map[segment.ID]*wal.Finish // last commit in a segment
	total     int64
	done      atomic.Int64
}

// Verify looks whether all is there that restores need: the backups with all
// their parts, and from the oldest on the WAL of each timeline without a hole, in
// objects that are what their names say. It changes nothing. An error means
// that something is not known; what is wrong is in the result.
func Verify(ctx context.Context, cfg VerifyConfig) (*Verification, error) {
	v := &verifier{VerifyConfig: cfg, size: cfg.Archive.Identity().SegmentSize, last: map[segment.ID]*wal.Finish{}}
	v.Problems, v.Gaps, v.Notes = []Finding{}, []Finding{}, []string{}
	err := cfg.Archive.Readable()
	if v.readable = err == nil; err != nil && !cfg.Full {
		v.Notes = append(v.Notes, fmt.Sprintf("contents of WAL and manifests are not read: %v", err))
		err = nil
	}
	for _, step := range []func(context.Context) error{v.listBackups, v.listTimelines, v.checkBackups, v.listWAL, v.readAll, v.judge} {
		if err == nil {
			err = step(ctx)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	return &v.Verification, nil
}

// listBackups finds the backups to look at.
func (v *verifier) listBackups(ctx context.Context) error {
	for c, err := range backup.List(ctx, v.Archive) {
		var unusable *backup.UnusableError
		switch {
		case errors.As(err, &unusable):
			v.Problems = append(v.Problems, Finding{Object: unusable.Object, Problem: unusable.Err.Error(), Backup: unusable.Object})
		case err != nil:
			return err
		default:
			v.backups = append(v.backups, c)
		}
	}
	slices.SortStableFunc(v.backups, func(a, b *backup.Commit) int { return a.Finished.Compare(b.Finished) })
	v.scope = v.backups
	if v.Backup != "" {
		c, err := backup.Load(ctx, v.Archive, v.Backup)
		if err != nil {
			return err
		}
		v.scope = []*backup.Commit{c}
	} else if first := v.firstSince(); first > 0 {
		v.scope = v.scope[first:]
	}
	if len(v.backups) == 0 {
		v.Problems = append(v.Problems, Finding{Object: "backups", Problem: "there is none that can be restored"})
	}
	return nil
}

func (v *verifier) listTimelines(ctx context.Context) error {
	var timelines []wal.Timeline
	for _, c := range v.backups {
		timelines = append(timelines, c.Timeline)
	}
	known, unknown, err := v.Archive.Histories(ctx, timelines...)
	v.histories = known
	for _, tli := range slices.Sorted(maps.Keys(unknown)) {
		v.Problems = append(v.Problems, Finding{Object: "timeline " + tli.String(), Problem: unknown[tli].Error(), Timeline: tli})
	}
	return err
}

// checkBackups looks whether the backups in scope are there as a whole.
func (v *verifier) checkBackups(ctx context.Context) error {
	for _, c := range v.scope {
		if v.histories[c.Timeline].Timeline == 0 {
			continue // that is a problem already
		}
		v.Backups++
		v.StoredBytes += c.StoredBytes
		err := backup.Whole(ctx, v.Archive, c, v.histories[c.Timeline])
		if err == nil && v.readable {
			_, err = backup.LoadManifest(ctx, v.Archive, c)
		}
		if err == nil {
			v.whole = append(v.whole, c)
		}
		if err = v.unusable(c, err); err != nil {
			return err
		}
	}
	return nil
}

// firstSince is the index of the newest backup that was finished before Since.
func (v *verifier) firstSince() int {
	i := slices.IndexFunc(v.backups, func(c *backup.Commit) bool { return c.Finished.After(v.Since) })
	if i < 0 {
		i = len(v.backups)
	}
	return i - 1
}

// unusable notes what is wrong with a backup; another failure it returns.
func (v *verifier) unusable(c *backup.Commit, err error) error {
	var unusable *backup.UnusableError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &unusable):
		err = unusable.Err
	case !isDamage(err) && !errors.Is(err, archive.ErrNotExist):
		return err
	}
	v.Problems = append(v.Problems, Finding{Object: "backup " + c.ID, Problem: err.Error(), Backup: c.ID})
	return nil
}

// readAll reads the headers of all segments, and the contents as far as is
// wanted: the newest first.
func (v *verifier) readAll(ctx context.Context) error {
	left := int64(verifySample)
	if v.Full {
		left = 1 << 62
	}
	parts := map[*backup.Commit]int{} // how many of each are read
	for budget, i := left, len(v.whole)-1; i >= 0; i-- {
		for _, p := range v.whole[i].Parts {
			if budget -= p.StoredSize; budget >= 0 {
				parts[v.whole[i]]++
				v.total += p.StoredSize
			}
		}
	}
	for i := len(v.segments) - 1; i >= 0; i-- {
		s := &v.segments[i]
		if left -= s.bytes; left >= 0 && v.readable {
			s.read = true
			v.total += s.bytes
		}
	}
	v.Progress(0, v.total)
	if err := v.readWAL(ctx); err != nil {
		return err
	}
	for _, c := range v.whole {
		results := make([]error, parts[c])
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(4)
		for i := range results {
			g.Go(func() error {
				results[i] = backup.CheckPart(ctx, v.Archive, c.Parts[i])
				v.advance(c.Parts[i].StoredSize)
				return context.Cause(ctx)
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		for _, err := range results {
			if err := v.unusable(c, err); err != nil {
				return err
			}
		}
	}
	v.ReadBytes = v.total
	return nil
}

func (v *verifier) advance(n int64) { v.Progress(v.done.Add(n), v.total) }

// judge says what the bad runs of WAL cost.
func (v *verifier) judge(ctx context.Context) error {
	gaps, err := v.Archive.Gaps(ctx)
	if err != nil {
		return err
	}
	if len(v.bad) > 0 { // and so there is a backup
		if _, err := v.Archive.Store().Stat(ctx, v.scope[0].CommitName()); err != nil {
			return fmt.Errorf("look again at the oldest backup: %w", err) // pruned meanwhile
		}
	}
	slices.SortStableFunc(v.bad, func(a, b badRun) int { return cmp.Compare(a.first.No, b.first.No) })
	for _, run := range v.bad {
		if run.damage == nil { // uploads overtake each other, and listings take time
			missing, err := v.Archive.Missing(ctx, run.first.Timeline, run.first.No, run.last.No)
			if err != nil {
				return err
			}
			if len(missing) == 0 {
				continue
			}
		}
		f := v.finding(run)
		gap := slices.IndexFunc(gaps, func(g archive.Gap) bool {
			return run.damage == nil && g.Overlaps(run.first.Timeline, run.first.Start(v.size), run.last.End(v.size))
		})
		if gap >= 0 {
			f.Problem += ", recorded as a gap"
		}
		if gap >= 0 && f.Behind != "" {
			v.Gaps = append(v.Gaps, f)
			continue
		}
		v.Problems = append(v.Problems, f)
	}
	for _, c := range v.scope {
		for _, run := range v.bad {
			if run.damage != nil && slices.ContainsFunc(c.WAL(v.histories[c.Timeline]), run.within) {
				v.Problems = append(v.Problems, Finding{Object: "backup " + c.ID, Backup: c.ID,
					Problem: fmt.Sprintf("segment %s, which it needs, is damaged", run.first.Name(v.size))})
			}
		}
	}
	return nil
}
