package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"
	"github.com/rs/zerolog"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/unpack"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// ImportConfig says what [Import] works with.
type ImportConfig struct {
	Archive *Archive
	Level   zstd.EncoderLevel // zero means the fastest
	// Progress, if set, is told the size of each file that is done.
	Progress func(bytes int64)
	Log      zerolog.Logger
}

// Tally counts objects: those that were stored, and those that were in the
// archive already with the same contents.
type Tally struct {
	Stored int `json:"stored"`
	Had    int `json:"had"`
}

func (t *Tally) add(had bool) {
	if had {
		t.Had++
	} else {
		t.Stored++
	}
}

// Imported is what became of the files.
type Imported struct {
	Segments  Tally `json:"segments"`
	Tails     Tally `json:"tails"`
	Histories Tally `json:"histories"`
	// Needless counts unfinished segments that say nothing new: the complete
	// one begins with the same WAL, or they hold no record.
	Needless int `json:"needless"`
	// Failed is the files that were not imported.
	Failed []*FileError `json:"-"`
	// Holes is the segments that are missing between others, of the
	// timelines of the files.
	Holes []Range `json:"-"`
}

// Import stores WAL and timeline histories of other programs. Every segment is
// verified as the uploader does it: page headers, cluster, records, their
// chain across segments; of an unfinished one the valid records become a tail.
// A file that is damaged, foreign, or contradicts the archive is left out and
// listed in Failed. Nothing in the archive is changed or replaced, so Import
// may be repeated, and may run beside a receiver. An error means that the rest
// was not tried.
func Import(ctx context.Context, cfg ImportConfig, files []ImportFile) (*Imported, error) {
	if cfg.Progress == nil {
		cfg.Progress = func(int64) {}
	}
	i := &importer{cfg: cfg, a: cfg.Archive, known: map[wal.Timeline]map[segment.ID]stored{}, last: map[wal.Timeline]described{}, roller: roller{}}
	files = slices.Clone(files)
	slices.SortStableFunc(files, compareImports)
	for _, f := range files {
		if err := context.Cause(ctx); err != nil {
			return &i.done, err
		}
		err := i.file(ctx, f)
		var failed *FileError
		switch {
		case errors.As(err, &failed):
			i.done.Failed = append(i.done.Failed, failed)
		case err != nil:
			return &i.done, fmt.Errorf("import %s: %w", f.Path, err)
		}
		cfg.Progress(f.Size)
	}
	holes, err := i.holes(ctx)
	i.done.Holes = holes
	return &i.done, err
}

// compareImports puts histories before WAL, and the complete segment before
// its beginnings.
func compareImports(a, b ImportFile) int {
	if a.isHistory() != b.isHistory() {
		return cmp.Compare(len(a.Name), len(b.Name)) // a history's is shorter
	}
	if c := cmp.Compare(a.Name, b.Name); c != 0 || a.Partial == b.Partial {
		return c
	}
	if a.Partial {
		return 1
	}
	return -1
}

// importer is one run of Import.
type importer struct {
	cfg  ImportConfig
	a    *Archive
	done Imported

	known map[wal.Timeline]map[segment.ID]stored // what the archive holds of timelines whose turn has come
	last  map[wal.Timeline]described             // the newest complete segment of this run
	path  string                                 // of that segment's file

	roller roller
}

// stored is what an archive holds of a segment.
type stored struct{ whole, tail bool }

func (s stored) and(p Piece) stored { return stored{s.whole || !p.Tail, s.tail || p.Tail} }

func (i *importer) file(ctx context.Context, f ImportFile) error {
	if f.isHistory() {
		return i.history(ctx, f)
	}
	size := i.a.identity.SegmentSize
	id, err := segment.ParseName(f.Name, size)
	if err != nil {
		return &FileError{f.Path, fmt.Errorf("%w of a cluster with segments of %d bytes", err, size)}
	}
	if err := i.turnTo(ctx, id.Timeline); err != nil {
		return err
	}
	data, n, err := f.open(int64(size))
	if data != nil {
		defer data.Close() // only read
	}
	if data == nil || err != nil && !f.Partial {
		return &FileError{f.Path, err}
	}
	before, err := i.before(ctx, id)
	switch {
	case errors.Is(err, ErrNotExist):
		err = hint.Errorf(fmt.Sprintf("add %s from the server's pg_wal, then run the same command again", segment.HistoryName(id.Timeline)),
			"the history of timeline %s is missing", id.Timeline)
		return &FileError{f.Path, err}
	case err != nil:
		return err
	case f.Partial:
		return i.beginning(ctx, f, id, data, min(n, int64(size)), before)
	case n != int64(size):
		return &FileError{f.Path, fmt.Errorf("it has %s bytes, a segment has %d", atLeast(n, int64(size)), size)}
	}
	return i.store(ctx, f, Piece{ID: id, To: n}, data, before)
}

func atLeast(n, limit int64) string {
	if n > limit {
		return fmt.Sprintf("more than %d", limit)
	}
	return fmt.Sprint(n)
}

func (i *importer) history(ctx context.Context, f ImportFile) error {
	tli, err := segment.ParseHistoryName(f.Name)
	if err != nil {
		return &FileError{f.Path, err}
	}
	r, err := unpack.Open(f.Path)
	if err != nil {
		return &FileError{f.Path, err}
	}
	defer r.Close()
	body, err := io.ReadAll(io.LimitReader(r, maxSmall))
	if err == nil {
		_, err = segment.ParseHistory(tli, body)
	}
	if err != nil {
		return &FileError{f.Path, err}
	}
	_, err = i.a.store.Stat(ctx, HistoryName(tli))
	if err != nil && !errors.Is(err, ErrNotExist) {
		return err
	}
	had := err == nil
	err = i.a.PutHistory(ctx, tli, body)
	if err == nil {
		i.done.Histories.add(had)
	}
	return ofFile(f, err)
}

// ofFile tells what is wrong with a file from what is wrong with the archive.
func ofFile(f ImportFile, err error) error {
	if err != nil && permanent(err) {
		return &FileError{f.Path, err}
	}
	return err
}

// turnTo reads once what the archive holds of a timeline.
func (i *importer) turnTo(ctx context.Context, tli wal.Timeline) error {
	if i.known[tli] != nil {
		return nil
	}
	known := map[segment.ID]stored{}
	for p, err := range i.a.Pieces(ctx, tli, 0) {
		if err != nil {
			return err
		}
		known[p.ID] = known[p.ID].and(p)
	}
	i.known[tli] = known
	return nil
}

// before is the header of the segment before id; nil when the archive does not
// hold it.
func (i *importer) before(ctx context.Context, id segment.ID) (*Header, error) {
	if last := i.last[id.Timeline]; last.header != nil && last.id.Next() == id {
		return last.header, nil
	}
	return i.a.soundBefore(ctx, id, i.cfg.Log)
}

// store verifies a piece and puts it into the archive.
func (i *importer) store(ctx context.Context, f ImportFile, p Piece, data io.ReaderAt, before *Header) error {
	h, err := i.a.Describe(p, data, before)
	if err != nil {
		return &FileError{f.Path, err}
	}
	if err := i.a.putAndNote(ctx, p, h, data, i.cfg.Level); err != nil {
		return ofFile(f, err)
	}
	known := i.known[p.ID.Timeline][p.ID]
	i.known[p.ID.Timeline][p.ID] = known.and(p)
	if p.Tail {
		i.done.Tails.add(known.tail)
	} else {
		i.done.Segments.add(known.whole)
		i.last[p.ID.Timeline], i.path = described{p.ID, h}, f.Path
		if r, ok := i.roller.add(p.ID, h); ok {
			if err := i.a.rollUp(ctx, r); err != nil {
				i.cfg.Log.Warn().Err(err).Msg(noIndex)
			}
		}
	}
	if known.tail {
		return i.tidy(ctx, f, p, data)
	}
	return nil
}

// tidy removes tails that a stored piece made needless.
func (i *importer) tidy(ctx context.Context, f ImportFile, p Piece, data io.ReaderAt) error {
	err := i.a.dropTails(ctx, p, data)
	if err != nil && !permanent(err) {
		i.cfg.Log.Warn().Err(err).Msg("cannot remove needless tail objects")
		return nil
	}
	return ofFile(f, err)
}
