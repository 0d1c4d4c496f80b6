package receiver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// forgetful removes WAL with every checkpoint.
var forgetful = testkit.Config{SegmentSizeMB: 1, Settings: []string{
	"autovacuum = off", "checkpoint_timeout = 1h", "min_wal_size = 2MB", "max_wal_size = 64MB"}}

// Without OnGap the server's "removed" ends Run with the position and a hint,
// and leaves the sink as empty as before. Which of the two codes it has is a
// matter of luck.
func TestGapStops(t *testing.T) {
	for _, code := range []string{"58P01", "XX000"} {
		f := newFake(t, func(s *fakeStream) {
			s.copyBoth()
			if strings.Contains(s.command, " 0/300000 ") {
				s.send(xlog(3*mib, testWAL(100)))
				s.linger()
				return
			}
			s.fail(code, "requested WAL segment 000000010000000000000001 has already been removed")
		})
		f.flush = 5*mib + 100
		g := newRig(t, spoolDir(t), rigConfig(f.conninfo()), nil)
		err := g.ended()
		var gap *segment.GapError
		if !errors.As(err, &gap) || *gap != (segment.GapError{Timeline: 1, Have: mib, Got: 3 * mib}) || len(hint.Of(err)) == 0 {
			t.Errorf("%s: Run returned %v", code, err)
		}
		if names := strings.Join(readDir(t, g.dir), " "); strings.Contains(names, "partial") {
			t.Errorf("a refused stream left %s", names)
		}
	}
}

// archiveOf is what a receiver asks an archive, and tells it, about gaps.
type archiveOf struct {
	mu   sync.Mutex
	held wal.LSN
	gaps []segment.GapError
	down error
}

func (a *archiveOf) covered(_ context.Context, _ segment.History, from segment.Position) (wal.LSN, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	at := max(a.held, from.LSN)
	for _, g := range a.gaps {
		if g.Have <= at {
			at = max(at, g.Got)
		}
	}
	return at, a.down
}

func (a *archiveOf) onGap(_ context.Context, g segment.GapError, why error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if why == nil || a.down != nil {
		return errors.Join(a.down, errors.New("not recorded"))
	}
	a.gaps = append(a.gaps, g)
	return nil
}

func (a *archiveOf) list() []segment.GapError {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]segment.GapError(nil), a.gaps...)
}

// fill writes WAL across n borders of segments.
func fill(t *testing.T, c *testkit.Cluster, n int) {
	t.Helper()
	for range n {
		c.Psql(t, "INSERT INTO t SELECT generate_series(1, 1000)")
		c.Psql(t, "SELECT pg_switch_wal()")
	}
	c.Psql(t, "INSERT INTO t SELECT generate_series(1, 1000)")
}

// oldestIn is the start of the first segment in the server's pg_wal.
func oldestIn(t *testing.T, c *testkit.Cluster) wal.LSN {
	t.Helper()
	for _, name := range readDir(t, filepath.Join(c.DataDir, "pg_wal")) {
		if id, err := segment.ParseName(name, mib); err == nil {
			return id.Start(mib)
		}
	}
	t.Fatal("no WAL")
	return 0
}

// TestGap: WAL that a real server has removed is recorded as a gap, exactly
// from what is held to what the server still has, before anything behind it is
// asked for; then the stream goes on. Nothing is recorded as long as the
// archive cannot be asked, and what it holds is no gap.
func TestGap(t *testing.T) {
	t.Parallel()
	c := testkit.Start(t, forgetful)
	c.Psql(t, "CREATE TABLE t (i int)")
	dir := spoolDir(t)
	arch := &archiveOf{}
	cfg := rigConfig(c.Conninfo())
	cfg.Covered, cfg.OnGap = arch.covered, arch.onGap
	receive := func() wal.LSN { // what is held at the end
		g := newRig(t, dir, cfg, nil)
		g.wait("the stream", func(st Status) bool { return st.State == Streaming })
		fill(t, c, 2) // what is held of a segment is sure if the one before is
		g.waitFlushed(currentLSN(t, c))
		g.stop()
		return g.Status().Flushed
	}
	lose := func() {
		c.Psql(t, "SELECT pg_drop_replication_slot('walstream')")
		fill(t, c, 6)
		c.Psql(t, "CHECKPOINT")
		c.Psql(t, "CHECKPOINT")
		fill(t, c, 2)
	}
	held := receive()
	lose()

	arch.down = errors.New("the archive is away")
	g := newRig(t, dir, cfg, nil)
	g.wait("some tries", func(st Status) bool {
		return st.Reconnects > 3 && strings.Contains(st.Failure.String(), "the archive is away")
	})
	g.stop()
	if arch.list() != nil {
		t.Errorf("recorded without knowing: %v", arch.gaps)
	}
	if after := receiveResume(t, dir, g); after != held {
		t.Errorf("the spool ends at %s, was %s", after, held)
	}
	arch.down = nil
	first := oldestIn(t, c)
	want := []segment.GapError{{Timeline: 1, Have: held, Got: first}}
	held = receive()
	if diff := cmp.Diff(want, arch.list()); diff != "" {
		t.Errorf("recorded gaps: %s", diff)
	}
	if _, err := os.Stat(filepath.Join(dir, segment.At(1, first, mib).Name(mib))); err != nil {
		t.Errorf("nothing was received behind the gap: %v", err)
	}

	// Held by the archive, with the server beginning before its end, and
	// after it.
	lose()
	arch.held = max(held, oldestIn(t, c)) + mib/2
	held = receive()
	if diff := cmp.Diff(want, arch.list()); diff != "" {
		t.Errorf("what the archive holds is a gap: %s", diff)
	}
	lose()
	first = oldestIn(t, c)
	arch.held = first - 3*mib/2
	want = append(want, segment.GapError{Timeline: 1, Have: max(held, arch.held), Got: first})
	receive()
	if diff := cmp.Diff(want, arch.list()); diff != "" {
		t.Errorf("recorded gaps: %s", diff)
	}
}

// receiveResume is where the spool in dir ends.
func receiveResume(t *testing.T, dir string, g *rig) wal.LSN {
	t.Helper()
	s, err := segment.OpenSpool(segment.SpoolConfig{Dir: dir, Identity: g.identity})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	at, _ := s.Resume()
	return at.LSN
}

// TestGapGivenBack: somebody gives the server the missing segment back. That is
// no gap.
func TestGapGivenBack(t *testing.T) {
	t.Parallel()
	c := testkit.Start(t, small)
	c.Psql(t, "CREATE TABLE t (i int)")
	arch := &archiveOf{down: errors.New("the archive is away")}
	cfg := rigConfig(c.Conninfo())
	cfg.Covered, cfg.OnGap = arch.covered, arch.onGap
	dir := spoolDir(t)
	g := newRig(t, dir, cfg, nil)
	g.wait("the stream", func(st Status) bool { return st.State == Streaming })
	fill(t, c, 1)
	g.waitFlushed(currentLSN(t, c))
	g.stop()
	missing := filepath.Join(c.DataDir, "pg_wal", segment.At(1, g.Status().Flushed, mib).Name(mib))
	fill(t, c, 2)
	if err := os.Rename(missing, missing+".away"); err != nil {
		t.Fatal(err)
	}
	g = newRig(t, dir, cfg, nil)
	g.wait("the refusal", func(st Status) bool { return strings.Contains(st.Failure.String(), "the archive is away") })
	if err := os.Rename(missing+".away", missing); err != nil {
		t.Fatal(err)
	}
	g.waitFlushed(currentLSN(t, c))
	g.stop()
	if arch.list() != nil {
		t.Errorf("recorded as gaps: %v", arch.gaps)
	}
}

// A gap across forks is recorded on each timeline.
func TestSplitGap(t *testing.T) {
	h := segment.History{Timeline: 3, Ancestors: []segment.Switch{
		{Timeline: 1, End: 4*mib + 100}, {Timeline: 2, End: 4*mib + 200}}}
	got := splitGap(h, 2*mib+50, 7*mib, mib)
	want := []segment.GapError{{Timeline: 1, Have: 2*mib + 50, Got: 4 * mib}, {Timeline: 3, Have: 4 * mib, Got: 7 * mib}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := splitGap(h, 4*mib+150, 5*mib, mib); len(got) != 1 || got[0].Timeline != 3 {
		t.Errorf("within the segment of the fork: %v", got)
	}
	if got := splitGap(h, mib, mib, mib); got != nil {
		t.Errorf("nothing is missing: %v", got)
	}
}
