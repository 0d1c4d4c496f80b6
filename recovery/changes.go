package recovery

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/walstream/walstream/internal/controlfile"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/wal"
)

// answerChanges collects the changes on the way to an LSN. A header tells of
// those before it, so it reads back to the first one, mostly the first of all.
func (g *gatherer) answerChanges(ctx context.Context, w Want) error {
	size := uint64(g.facts.Identity.SegmentSize)
	h, _ := g.facts.history(w.Timeline)
	var all wal.Changes
	for no := uint64(w.LSN-1) / size; ; no-- {
		id := h.SegmentAt(wal.LSN(no*size), g.facts.Identity.SegmentSize)
		if err := g.settle(ctx, Want{Kind: WantSummary, Segment: id}); err != nil {
			return err
		}
		all = g.facts.Summaries[id].Newest(all, math.MaxInt)
		if header := g.headers[id]; header != nil {
			all = header.Earlier.Newest(all, math.MaxInt)
			no = min(no, uint64(header.RunningMaxSince)/size)
		}
		if no <= w.From {
			g.facts.Changes[w] = all
			return nil
		}
	}
}

// changes are those that a recovery to end replays.
func (r *route) changes(end wal.LSN) (c wal.Changes, err error) {
	want := Want{Kind: WantChanges, Timeline: r.history.Timeline, From: r.first, LSN: end}
	all, ok := r.facts.Changes[want]
	if !ok {
		return c, lack(want)
	}
	for _, t := range all.Tablespaces {
		if t.LSN >= r.backup.StartLSN && t.LSN < end && t.Path != "" {
			c.Tablespaces = append(c.Tablespaces, t)
		}
	}
	for _, s := range all.Settings {
		if s.LSN >= r.backup.StartLSN && s.LSN < end {
			c.Settings = append(c.Settings, s)
		}
	}
	return c, nil
}

// checkTablespaces looks after the directories that replay will need because a
// tablespace is created on the way, at the path that it had on the primary.
func (r *restore) checkTablespaces() error {
	uid := os.Geteuid()
	if r.owner != nil {
		uid = r.owner.UID
	}
	for _, t := range r.Changes.Tablespaces {
		what := fmt.Sprintf("the WAL creates a tablespace in %s at %s", t.Path, t.LSN)
		var st unix.Stat_t
		if err := unix.Stat(t.Path, &st); err != nil {
			return hint.With(fmt.Errorf("%s: %w", what, err), "make the directory: install -d -m 700 -o %d %s", uid, hint.Quote(t.Path))
		}
		used, err := filepath.Glob(filepath.Join(t.Path, "PG_*"))
		switch {
		case err != nil:
			return err
		case len(used) > 0:
			return hint.Errorf(fmt.Sprintf("restore on another machine, or to a target before it: --target-lsn %s --target-exclusive", t.LSN),
				"%s, and that holds %s, of another server or of a clone that is gone", what, filepath.Base(used[0]))
		case int(st.Uid) != uid:
			return hint.Errorf("chown "+strconv.Itoa(uid)+" "+hint.Quote(t.Path), "%s, which must belong to who runs PostgreSQL", what)
		}
	}
	return nil
}

// raised are the settings that replay needs larger than they were when the
// backup was taken.
func (p *Plan) raised(c controlfile.Control) (list []Setting) {
	for i, had := range limits(c.Settings) {
		most := had.value
		for _, change := range p.Changes.Settings {
			most = max(most, limits(change)[i].value)
		}
		if most > had.value {
			list = append(list, Setting{had.name, strconv.Itoa(int(most))})
		}
	}
	return list
}

// limit is a setting that must not be lower than it was on the primary.
type limit struct {
	name  string
	value int32
}

func limits(p wal.ParameterChange) []limit {
	return []limit{
		{"max_connections", p.MaxConnections},
		{"max_worker_processes", p.MaxWorkerProcesses},
		{"max_wal_senders", p.MaxWALSenders},
		{"max_prepared_transactions", p.MaxPreparedTransactions},
		{"max_locks_per_transaction", p.MaxLocksPerTransaction},
	}
}
