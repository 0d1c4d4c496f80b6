package main

import (
	"fmt"
	"strings"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/term"
	"github.com/walstream/walstream/segment"
)

// importView is the result of import as --json prints it.
type importView struct {
	Archive string `json:"archive"`
	DryRun  bool   `json:"dry_run"`
	segment.Identity
	*archive.Imported
	Backups []importedBackup `json:"backups"`
	Failed  []importFailure  `json:"failed"`
	Holes   []walHole        `json:"holes"`
}

type importFailure struct {
	Path  string   `json:"path"`
	Error string   `json:"error"`
	Hints []string `json:"hints,omitempty"`
}

// walHole is a run of missing segments.
type walHole struct {
	First    string `json:"first"`
	Last     string `json:"last"`
	Segments uint64 `json:"segments"`
}

func (t *takeover) view() importView {
	v := importView{
		Archive: t.location, DryRun: t.dryRun, Identity: t.arch.Identity().Identity,
		Imported: t.wal, Backups: t.backups, Failed: []importFailure{}, Holes: []walHole{},
	}
	if v.Backups == nil {
		v.Backups = []importedBackup{}
	}
	for _, f := range append(t.found.Failed, t.wal.Failed...) {
		v.Failed = append(v.Failed, importFailure{f.Path, f.Error(), hint.Of(f)})
	}
	for _, r := range t.wal.Holes {
		m := missingRun(r.Timeline, r.First, r.Last, v.SegmentSize)
		v.Holes = append(v.Holes, walHole{m.First, m.Last, m.Segments})
	}
	return v
}

func (a *app) printImport(t *takeover) error {
	v := t.view()
	var err error
	if a.json {
		err = term.JSON(a.stdout, v)
	} else {
		err = a.printImportText(v)
	}
	if err != nil {
		return err
	}
	return v.problems()
}

func (a *app) printImportText(v importView) error {
	what := "imported into"
	if v.DryRun {
		what = "dry run, nothing was stored; would be imported into"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s (PostgreSQL %d, system identifier %d):\n", what, v.Archive, v.MajorVersion, v.SystemIdentifier)
	for _, row := range []struct {
		name string
		n    archive.Tally
	}{{"segments", v.Segments}, {"tails", v.Tails}, {"histories", v.Histories}} {
		fmt.Fprintf(&b, "  %-10s %d new, %d already there\n", row.name, row.n.Stored, row.n.Had)
	}
	for _, c := range v.Backups {
		state := "new"
		if c.Had {
			state = "already there"
		}
		fmt.Fprintf(&b, "  %-10s %s from %s, %s\n", "backup", c.ID, c.From, state)
	}
	for _, f := range v.Failed {
		fmt.Fprintf(&b, "not imported: %s\n", f.Error)
		for _, h := range f.Hints {
			fmt.Fprintf(&b, "  hint: %s\n", h)
		}
	}
	for _, h := range v.Holes {
		fmt.Fprintf(&b, "missing: %s .. %s (%s)\n", h.First, h.Last, term.Count(h.Segments, "segment"))
	}
	_, err := fmt.Fprint(a.stdout, b.String())
	return err
}

// problems is nil when everything was imported and nothing is missing.
func (v importView) problems() error {
	var missing uint64
	for _, h := range v.Holes {
		missing += h.Segments
	}
	var parts []string
	if n := len(v.Failed); n > 0 {
		parts = append(parts, fmt.Sprintf("%d not imported", n))
	}
	if missing > 0 {
		parts = append(parts, term.Count(missing, "segment")+" missing between others")
	}
	if len(parts) == 0 {
		return nil
	}
	err := error(&problemsError{strings.Join(parts, ", ")})
	if missing > 0 {
		err = hint.With(err, "no restore leads across missing WAL; a new beginning behind it: walstream backup")
	}
	return hint.With(err, "what is good is in the archive: add good copies of the rest to the directory, then run the same command again")
}
