package archive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"sync"
	"testing"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/testkit/memfs"
	"github.com/walstream/walstream/internal/testkit/walgen"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// machine is a spool and an archive on one file system that forgets what was
// not synced, with an uploader between them.
type machine struct {
	fsys  fsx.FS
	spool *segment.Spool
	a     *archive.Archive
	up    *archive.Uploader
}

func boot(fsys fsx.FS, confirmed func(wal.Timeline, wal.LSN)) (*machine, error) {
	spool, err := segment.OpenSpool(segment.SpoolConfig{Dir: "/spool", FS: fsys, Identity: testCluster})
	if err != nil {
		return nil, err
	}
	store, err := archive.OpenDir(archive.DirConfig{Path: crashRoot, FS: fsys, Create: true})
	if err != nil {
		return nil, err
	}
	a, err := archive.Pin(context.Background(), store, testCluster)
	if err != nil {
		return nil, err
	}
	up := archive.NewUploader(archive.UploaderConfig{Archive: a, Source: spool, OnConfirmed: confirmed})
	return &machine{fsys: fsys, spool: spool, a: a, up: up}, nil
}

// drain uploads until the spool has nothing left to archive.
func (m *machine) drain() error {
	ctx, cancel := context.WithCancelCause(context.Background())
	drained := errors.New("drained")
	src := &drainingSource{Source: m.spool, left: m.spool.Usage().Waiting, drained: func() { cancel(drained) }}
	if src.left == 0 {
		return nil
	}
	up := archive.NewUploader(archive.UploaderConfig{Archive: m.a, Source: src})
	if err := up.Run(ctx); !errors.Is(err, drained) {
		return err
	}
	for tli, err := range up.Status().Stopped {
		return fmt.Errorf("timeline %s stopped: %w", tli, err)
	}
	return nil
}

type drainingSource struct {
	archive.Source
	left    int
	drained func()
}

func (d *drainingSource) Release(s segment.Sealed) error {
	err := d.Source.Release(s)
	if d.left--; d.left == 0 {
		d.drained()
	}
	return err
}

// promises is what was told to the primary: it must survive.
type promises struct {
	mu        sync.Mutex
	acked     map[wal.Timeline]wal.LSN
	confirmed map[wal.Timeline]wal.LSN
}

func (p *promises) set(which map[wal.Timeline]wal.LSN, tli wal.Timeline, lsn wal.LSN) {
	p.mu.Lock()
	defer p.mu.Unlock()
	which[tli] = max(which[tli], lsn)
}

func (p *promises) copy() *promises {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := &promises{acked: map[wal.Timeline]wal.LSN{}, confirmed: map[wal.Timeline]wal.LSN{}}
	for tli, lsn := range p.acked {
		c.acked[tli] = lsn
	}
	for tli, lsn := range p.confirmed {
		c.confirmed[tli] = lsn
	}
	return c
}

// story is the WAL that flows: two timelines with a fork within a segment.
type story struct {
	parent, child *walgen.WAL
	fork          wal.LSN
	cuts          []wal.LSN // ends of records, between which the WAL arrives
}

func newStory() *story {
	g := newWAL(1, 1, 1)
	s := &story{parent: g}
	s.arrive(g, 1)
	s.fork = g.End()
	s.child = g.Fork(2)
	s.arrive(s.child, 1)
	return s
}

// arrive fills n segments and begins another.
func (s *story) arrive(g *walgen.WAL, n int) {
	for len(g.Bytes) < n*int(testSize)+100_000 {
		g.Noise(300_000)
		g.Commit(g.Now)
		s.cuts = append(s.cuts, g.End())
	}
}

func (s *story) of(tli wal.Timeline) *walgen.WAL {
	if tli == 1 {
		return s.parent
	}
	return s.child
}

// tell lets the story happen on a machine.
func (s *story) tell(m *machine, p *promises) error {
	for _, g := range []*walgen.WAL{s.parent, s.child} {
		if g.Config.Timeline == 2 {
			history := fmt.Appendf(nil, "1\t%s\tpromoted\n", s.fork)
			if _, err := m.spool.EndTimeline(1, s.fork); err != nil {
				return err
			}
			if err := m.spool.SaveHistory(2, history); err != nil {
				return err
			}
		}
		if err := m.spool.Begin(g.Config.Timeline, g.Config.Start); err != nil {
			return err
		}
		at := g.Config.Start
		for _, cut := range s.cuts {
			if cut <= at || cut > g.End() {
				continue
			}
			if err := m.spool.Append(g.Config.Timeline, at, g.At(at, cut)); err != nil {
				return err
			}
			lsn, err := m.spool.Sync()
			if err != nil {
				return err
			}
			p.set(p.acked, g.Config.Timeline, lsn)
			at = cut
		}
	}
	if open, ok := m.spool.OpenSegment(); ok {
		return m.up.StoreTail(context.Background(), open)
	}
	return nil
}

// survived checks a file system after a power cut against the promises made
// before it, then lets a new process finish the work.
func (s *story) survived(fsys fsx.FS, p *promises, resume bool) error {
	m, err := boot(fsys, nil)
	if err != nil {
		return err
	}
	for tli, end := range p.confirmed {
		for lsn := s.of(tli).Config.Start; lsn < end; lsn += wal.LSN(testSize) {
			if err := s.inArchive(m.a, segment.At(tli, lsn, testSize)); err != nil {
				return fmt.Errorf("confirmed segment at %s of timeline %s: %w", lsn, tli, err)
			}
		}
	}
	if err := s.acked(m, p.acked); err != nil || !resume {
		return err
	}
	if err := m.drain(); err != nil {
		return err
	}
	return s.acked(m, p.acked)
}

func (s *story) inArchive(a *archive.Archive, id segment.ID) error {
	g := s.of(id.Timeline)
	var got bytes.Buffer
	if _, err := a.Fetch(context.Background(), id, &got); err != nil {
		return err
	}
	if !bytes.Equal(got.Bytes(), g.At(id.Start(testSize), id.End(testSize))) {
		return errors.New("other bytes")
	}
	return nil
}

// acked checks that every acknowledged byte is in the spool or in the archive.
func (s *story) acked(m *machine, acked map[wal.Timeline]wal.LSN) error {
	view, err := segment.ReadSpool(m.fsys, "/spool")
	if err != nil {
		return err
	}
	for tli, end := range acked {
		g := s.of(tli)
		for lsn := g.Config.Start; lsn < end; lsn += wal.LSN(testSize) {
			id := segment.At(tli, lsn, testSize)
			want := g.At(lsn, min(end, id.End(testSize)))
			if s.inArchive(m.a, id) == nil || s.inTail(m.a, id, want) || inSpool(view, id, want) {
				continue
			}
			return fmt.Errorf("acknowledged WAL at %s of timeline %s is neither in the spool nor in the archive", lsn, tli)
		}
	}
	return nil
}

func (s *story) inTail(a *archive.Archive, id segment.ID, want []byte) bool {
	var got writerAt
	n, err := a.FetchTail(context.Background(), id, &got)
	return err == nil && n >= int64(len(want)) && bytes.Equal(got[:len(want)], want)
}

func inSpool(view *segment.SpoolView, id segment.ID, want []byte) bool {
	pieces := view.Sealed
	for _, p := range view.Partials {
		if valid, err := view.Valid(p); err == nil {
			pieces = append(pieces, valid)
		}
	}
	for _, p := range pieces {
		if p.ID != id || p.To < int64(len(want)) {
			continue
		}
		f, err := p.Open()
		if err != nil {
			continue
		}
		got := make([]byte, len(want))
		_, err = io.ReadFull(io.NewSectionReader(f, 0, int64(len(want))), got)
		f.Close()
		if err == nil && bytes.Equal(got, want) {
			return true
		}
	}
	return false
}

// writerAt is a file in memory.
type writerAt []byte

func (w *writerAt) WriteAt(p []byte, off int64) (int, error) {
	if end := off + int64(len(p)); end > int64(len(*w)) {
		*w = append(*w, make([]byte, end-int64(len(*w)))...)
	}
	return copy((*w)[off:], p), nil
}

// powerCuts tells the story once, and looks at what a power cut would leave
// whenever that has changed. It returns the first broken promise.
func powerCuts(wrap func(fsx.FS) fsx.FS) (cuts int, err error) {
	s := newStory()
	p := (&promises{}).copy()
	mem := memfs.New()
	var (
		mu     sync.Mutex
		last   fsx.OpKind
		owed   = &promises{}
		broken error
	)
	mem.OnOp = func(op fsx.Op) error {
		mu.Lock()
		defer mu.Unlock()
		told := p.copy() // before the clone: what is promised later is not owed
		synced := last == fsx.OpSync || last == fsx.OpDatasync || last == fsx.OpSyncDir
		last = op.Kind
		if !synced && reflect.DeepEqual(told.acked, owed.acked) && reflect.DeepEqual(told.confirmed, owed.confirmed) {
			return nil // a power cut leaves the same as one operation ago
		}
		owed = told
		clone := mem.CrashClone()
		if cuts++; broken == nil {
			if err := s.survived(clone, told, cuts%12 == 0); err != nil {
				broken = fmt.Errorf("power cut before operation %d (%s %s): %w", cuts, op.Kind, op.Path, err)
			}
		}
		return nil
	}
	if err = s.happen(wrap(mem), p); err == nil {
		err = broken
	}
	if err == nil {
		err = s.survived(mem.CrashClone(), p, true)
	}
	return cuts, err
}

// happen tells the story on a new machine, while the uploader runs.
func (s *story) happen(fsys fsx.FS, p *promises) error {
	confirmed := make(chan struct{}, 2)
	m, err := boot(fsys, func(tli wal.Timeline, lsn wal.LSN) {
		p.set(p.confirmed, tli, lsn)
		confirmed <- struct{}{}
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	ran := make(chan error)
	go func() { ran <- m.up.Run(ctx) }()
	err = s.tell(m, p)
	for range cap(confirmed) { // one complete segment on each timeline
		<-confirmed
	}
	cancel(errors.New("end of the story"))
	<-ran
	return err
}

func TestPowerCutSpoolAndArchive(t *testing.T) {
	cuts, err := powerCuts(func(fsys fsx.FS) fsx.FS { return fsys })
	if err != nil {
		t.Fatal(err)
	}
	if cuts < 40 {
		t.Errorf("only %d operations", cuts)
	}
	t.Logf("%d power cuts", cuts)
}

func TestPowerCutSpoolAndArchiveIsSharp(t *testing.T) {
	for name, wrap := range map[string]func(fsx.FS) fsx.FS{
		"directories": func(fsys fsx.FS) fsx.FS { return noSyncDir{fsys} },
		"files":       func(fsys fsx.FS) fsx.FS { return noSync{fsys} },
	} {
		if _, err := powerCuts(wrap); err == nil {
			t.Errorf("without syncing %s nothing is lost: the test is blunt", name)
		}
	}
}
