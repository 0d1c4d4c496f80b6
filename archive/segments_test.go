package archive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/klauspost/compress/zstd"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/internal/testkit/memstore"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// Segments stored one by one come back byte for byte, with headers that
// continue each other.
func TestSegmentsRoundTrip(t *testing.T) {
	a, g := newArchive(t), newWAL(1, 3, 1)
	g.FillSegments(4)
	var before *archive.Header
	records := int64(0)
	for i := range 4 {
		p, data := segmentOf(g, i)
		h := putPiece(t, a, p, data, before)
		var got bytes.Buffer
		fetched, err := a.Fetch(t.Context(), p.ID, &got)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), data) {
			t.Errorf("segment %d comes back changed", i)
		}
		alone, err := a.Header(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		h.CRC32C = nil // it is not stored
		if diff := cmp.Diff(h, fetched, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("fetched header (-put +fetched):\n%s", diff)
		}
		if diff := cmp.Diff(h, alone, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("header read alone (-put +read):\n%s", diff)
		}
		if h.UnknownCarry || h.RunningMaxSince != g.Config.Start || !h.RunningMax.Equal(h.MaxTime) {
			t.Errorf("segment %d: unknown carry %v, running maximum %s since %s", i, h.UnknownCarry, h.RunningMax, h.RunningMaxSince)
		}
		records += h.Records
		before = h
	}
	if records < 400/8 || before.Commits == 0 {
		t.Errorf("%d records in all", records)
	}
}

func TestRunningMaximum(t *testing.T) {
	a, g := newArchive(t), newWAL(1, 1, 2)
	late := g.Now.Add(time.Hour)
	g.Commit(late) // another server's clock, or a slow committer
	g.RestorePoint(g.Now, "before_release")
	g.FillSegments(3)
	var before *archive.Header
	for i := range 3 {
		p, data := segmentOf(g, i)
		before = putPiece(t, a, p, data, before)
		if !before.RunningMax.Equal(late) || before.RunningMaxSince != g.Config.Start {
			t.Errorf("segment %d: running maximum %s since %s, want %s since %s", i, before.RunningMax, before.RunningMaxSince, late, g.Config.Start)
		}
		if i > 0 && before.MaxTime.Equal(late) {
			t.Errorf("segment %d: its own maximum is that of the first", i)
		}
	}
	p, data := segmentOf(g, 2)
	h, err := a.Describe(p, bytes.NewReader(data), nil)
	if err != nil {
		t.Fatal(err)
	}
	if h.RunningMaxSince != p.ID.Start(testSize) || !h.RunningMax.Equal(h.MaxTime) || !h.UnknownCarry {
		t.Errorf("without the segment before: maximum %s since %s, unknown carry %v", h.RunningMax, h.RunningMaxSince, h.UnknownCarry)
	}
}

// TestEarlierChanges: each header tells which tablespaces came before its
// segment, the newest ones when there were many.
func TestEarlierChanges(t *testing.T) {
	a, g := newArchive(t), newWAL(1, 1, 2)
	var made []wal.Tablespace
	create := func(n int) {
		for range n {
			at := wal.Tablespace{LSN: g.End(), OID: uint32(20000 + len(made)), Path: fmt.Sprintf("/srv/%d", len(made))}
			g.Tablespace(at.OID, at.Path)
			made = append(made, at)
		}
	}
	create(2)
	g.FillSegments(1)
	g.Commit(g.Now) // no tablespace begins where a long page header does
	create(70)
	g.FillSegments(3)
	var before *archive.Header
	for i, want := range [][]wal.Tablespace{nil, made[:2], made[72-64:]} {
		p, data := segmentOf(g, i)
		before = putPiece(t, a, p, data, before)
		at := func(list []wal.Tablespace) (oids []uint32) {
			for _, s := range list {
				oids = append(oids, s.OID)
			}
			return oids
		}
		if diff := cmp.Diff(at(want), at(before.Earlier.Tablespaces)); diff != "" {
			t.Errorf("segment %d (-want +got):\n%s", i, diff)
		}
	}
	p, _ := segmentOf(g, 1)
	if h, err := a.Header(t.Context(), p); err != nil || len(h.Tablespaces) != 70 || h.Tablespaces[69].Path != "/srv/71" {
		t.Errorf("the second header: %+v, %v", h, err)
	}
}

func TestSwitchedSegment(t *testing.T) {
	a, g := newArchive(t), newWAL(1, 1, 2)
	g.Commit(g.Now)
	g.Switch()
	g.FillSegments(2)
	p, data := segmentOf(g, 0)
	h := putPiece(t, a, p, data, nil)
	if !h.Switch || h.Carry != nil || h.Records != 2 {
		t.Errorf("header of a switched segment: %+v", h)
	}
	p, data = segmentOf(g, 1)
	if h := putPiece(t, a, p, data, h); h.UnknownCarry {
		t.Errorf("header behind a switched segment: %+v", h)
	}
}

// WAL that is not whole is refused before anything is stored.
func TestDescribeRefuses(t *testing.T) {
	a, g := newArchive(t), newWAL(2, 8, 3)
	g.FillSegments(3)
	first, firstData := segmentOf(g, 0)
	before := putPiece(t, a, first, firstData, nil)
	p, good := segmentOf(g, 1)
	if before.Carry == nil {
		t.Fatal("no record crosses the border: the test needs one")
	}
	other := newWAL(2, 8, 4)
	other.FillSegments(2)
	seam := newWAL(2, 8, 5)
	seam.Commit(seam.Now)
	seam.Switch()
	seamFirst, seamData := segmentOf(seam, 0)
	atBoundary, err := a.Describe(seamFirst, bytes.NewReader(seamData), nil)
	if err != nil {
		t.Fatal(err)
	}
	noCross := newWAL(2, 9, 6) // begins with a record, but with another before it
	noCross.Last = seam.Config.Start + 0x100
	noCross.FillSegments(1)

	huge := newWAL(2, 9, 7)
	huge.Noise(3 << 20)
	_, inside := segmentOf(huge, 1)

	change := func(at int, with ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at:], with)
		return b
	}
	tests := []struct {
		name   string
		piece  archive.Piece
		data   []byte
		before *archive.Header
	}{
		{"flipped bit", p, change(500_000, good[500_000]^1), before},
		{"zeros at the end", p, append(bytes.Clone(good[:900_000]), make([]byte, len(good)-900_000)...), before},
		{"another segment", p, firstData, nil},
		{"another cluster", p, change(24, 2), before},
		{"another segment size", p, change(34, 0x20), before},
		{"a newer timeline's page", p, change(4, 3), before},
		{"an older file than its pages", archive.Piece{ID: segment.ID{Timeline: 1, No: p.ID.No}, To: p.To}, good, nil},
		{"PostgreSQL 16", p, change(0, 0x13), before},
		{"another carry", p, func() []byte { _, d := segmentOf(other, 1); return d }(), before},
		{"a continuation after a boundary", p, good, atBoundary},
		{"a record that follows another", p, noCross.Bytes[:testSize], atBoundary},
		{"the inside of a record after a boundary", archive.Piece{ID: p.ID.Next(), To: p.To}, inside, atBoundary},
		{"zeros in a tail", archive.Piece{ID: p.ID, Tail: true, To: 500_000}, append(bytes.Clone(good[:400_000]), make([]byte, 100_000)...), before},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := a.Describe(test.piece, bytes.NewReader(test.data), test.before)
			var broken *archive.BrokenError
			if !errors.As(err, &broken) {
				t.Fatalf("Describe: %v, want a *BrokenError", err)
			}
			start := test.piece.ID.Start(testSize)
			if broken.Object != test.piece.Name(testSize) || broken.LSN < start || broken.LSN > start+wal.LSN(test.piece.To) {
				t.Errorf("%s at %s: wrong object or place", broken.Object, broken.LSN)
			}
		})
	}
	if _, err := a.Describe(p, bytes.NewReader(good), before); err != nil {
		t.Errorf("the unchanged segment: %v", err)
	}
	_, err = a.Describe(p, bytes.NewReader(good[:1000]), before)
	var broken *archive.BrokenError
	if err == nil || errors.As(err, &broken) {
		t.Errorf("a file that is too short: %v, want a plain error", err)
	}
}

// A segment whose file changes between its verification and its upload is not
// stored.
func TestPutSegmentReadsAgain(t *testing.T) {
	a, g := newArchive(t), newWAL(1, 1, 1)
	g.FillSegments(1)
	p, data := segmentOf(g, 0)
	h, err := a.Describe(p, bytes.NewReader(data), nil)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(data)
	bad[777_777] ^= 4
	if err := a.PutSegment(t.Context(), p, h, bytes.NewReader(bad), 0); err == nil {
		t.Error("other bytes than those described were stored")
	}
	if err := a.PutSegment(t.Context(), p, h, bytes.NewReader(data[:1000]), 0); err == nil {
		t.Error("too few bytes were stored")
	}
	if _, err := a.Header(t.Context(), p); !errors.Is(err, archive.ErrNotExist) {
		t.Errorf("after refused puts: %v, want ErrNotExist", err)
	}
}

func TestPutSegmentTwice(t *testing.T) {
	a, g, other := newArchive(t), short(1), short(2)
	p, data := segmentOf(g, 0)
	h := putPiece(t, a, p, data, nil)
	h2 := *h
	h2.RunningMax = h2.RunningMax.Add(time.Hour) // what another receiver knew
	for level := range zstd.SpeedBestCompression + 1 {
		if err := a.PutSegment(t.Context(), p, &h2, bytes.NewReader(data), level); err != nil {
			t.Errorf("the same bytes again, level %d: %v", level, err)
		}
	}
	_, otherData := segmentOf(other, 0)
	oh, err := a.Describe(p, bytes.NewReader(otherData), nil)
	if err != nil {
		t.Fatal(err)
	}
	var conflict *archive.ConflictError
	if err := a.PutSegment(t.Context(), p, oh, bytes.NewReader(otherData), 0); !errors.As(err, &conflict) {
		t.Fatalf("other bytes: %v, want a *ConflictError", err)
	}
	if conflict.Have != h.SHA256 || conflict.Want != oh.SHA256 || conflict.Object != archive.SegmentName(p.ID, testSize) {
		t.Errorf("%+v", conflict)
	}
	var got bytes.Buffer
	if _, err := a.Fetch(t.Context(), p.ID, &got); err != nil || !bytes.Equal(got.Bytes(), data) {
		t.Errorf("after a conflict the first object is not what it was: %v", err)
	}
}

// What is there already counts as stored only once it is surely durable.
func TestConfirmFails(t *testing.T) {
	a, g := newArchive(t), newWAL(1, 1, 1)
	g.FillSegments(1)
	p, data := segmentOf(g, 0)
	h := putPiece(t, a, p, data, nil)
	history := []byte("1\t0/200000\tpromoted\n")
	if err := a.PutHistory(t.Context(), 2, history); err != nil {
		t.Fatal(err)
	}
	store := noConfirm{a.Store()}
	b, err := archive.Open(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.PutSegment(t.Context(), p, h, bytes.NewReader(data), 0); !errors.Is(err, errNotDurable) {
		t.Errorf("PutSegment: %v", err)
	}
	if err := b.PutHistory(t.Context(), 2, history); !errors.Is(err, errNotDurable) {
		t.Errorf("PutHistory: %v", err)
	}
	if _, err := archive.Pin(t.Context(), store, testCluster); !errors.Is(err, errNotDurable) {
		t.Errorf("Pin: %v", err)
	}
}

var errNotDurable = errors.New("not durable")

type noConfirm struct{ archive.Store }

func (noConfirm) Confirm(context.Context, string) error { return errNotDurable }

// The segment before the first one of a timeline is its parent's.
func TestBefore(t *testing.T) {
	ctx := t.Context()
	a, g := newArchive(t), newWAL(1, 1, 1)
	g.FillSegments(3)
	for i := range 2 {
		p, data := segmentOf(g, i)
		putPiece(t, a, p, data, nil)
	}
	fork := g.Config.Start + wal.LSN(2*testSize) + 0x2000
	if err := a.PutHistory(ctx, 2, fmt.Appendf(nil, "1\t%s\tno recovery target specified\n", fork)); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		id   segment.ID
		want wal.LSN // start of the segment before, zero when it is not there
	}{
		{segment.ID{Timeline: 1, No: 0}, 0},
		{segment.ID{Timeline: 1, No: 1}, 0},
		{segment.ID{Timeline: 1, No: 2}, g.Config.Start},
		{segment.ID{Timeline: 2, No: 3}, g.Config.Start + wal.LSN(testSize)},
		{segment.ID{Timeline: 2, No: 4}, 0},
	} {
		h, err := a.Before(ctx, test.id)
		if err != nil {
			t.Errorf("Before(%v): %v", test.id, err)
		} else if test.want == 0 && h != nil || test.want != 0 && (h == nil || h.StartLSN != test.want || h.Timeline != 1) {
			t.Errorf("Before(%v) = %+v, want the segment at %s", test.id, h, test.want)
		}
	}
	if _, err := a.Before(ctx, segment.ID{Timeline: 3, No: 4}); !errors.Is(err, archive.ErrNotExist) {
		t.Errorf("Before on a timeline without history: %v, want ErrNotExist", err)
	}
}

// WAL of a real server is one chain from segment to segment.
func TestRealWAL(t *testing.T) {
	c := testkit.Start(t, testkit.Config{SegmentSizeMB: 1, Settings: []string{"wal_keep_size = 1GB"}})
	c.Psql(t, "CREATE TABLE filler AS SELECT i, repeat('x', 500) FROM generate_series(1, 10000) i")
	c.Psql(t, "SELECT pg_create_restore_point('here')")
	c.Psql(t, "SELECT pg_switch_wal()")
	c.Psql(t, "CHECKPOINT")
	last, err := segment.ParseName(c.Psql(t, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())"), testSize)
	if err != nil {
		t.Fatal(err)
	}
	var cluster segment.Identity
	cluster.SegmentSize, cluster.MajorVersion = testSize, 15
	if _, err := fmt.Sscan(c.Psql(t, "SELECT system_identifier FROM pg_control_system()"), &cluster.SystemIdentifier); err != nil {
		t.Fatal(err)
	}
	a, err := archive.Pin(t.Context(), memstore.New(), cluster)
	if err != nil {
		t.Fatal(err)
	}
	var before *archive.Header
	points, n := 0, 0
	for no := uint64(1); no < last.No; no++ {
		p := archive.Piece{ID: segment.ID{Timeline: 1, No: no}, To: int64(testSize)}
		data, err := os.ReadFile(filepath.Join(c.DataDir, "pg_wal", p.ID.Name(testSize)))
		if err != nil {
			continue // removed before wal_keep_size counted
		}
		h := putPiece(t, a, p, data, before)
		var got bytes.Buffer
		if _, err := a.Fetch(t.Context(), p.ID, &got); err != nil || !bytes.Equal(got.Bytes(), data) {
			t.Errorf("%s comes back changed: %v", p.ID.Name(testSize), err)
		}
		if before != nil && (h.UnknownCarry || h.RunningMax.Before(before.RunningMax)) {
			t.Errorf("%s does not continue the one before: %+v", p.ID.Name(testSize), h)
		}
		points += len(h.RestorePoints)
		before = h
		n++
	}
	if n < 5 || points != 1 || !before.Switch {
		t.Errorf("%d segments with %d restore points, the last ends in a switch: %v", n, points, before.Switch)
	}
}

func BenchmarkSegment(b *testing.B) {
	a, g := newArchive(b), newWAL(1, 1, 1)
	g.FillSegments(1)
	p, data := segmentOf(g, 0)
	h, err := a.Describe(p, bytes.NewReader(data), nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("Describe", func(b *testing.B) {
		b.SetBytes(int64(testSize))
		for b.Loop() {
			if _, err := a.Describe(p, bytes.NewReader(data), nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Put", func(b *testing.B) {
		b.SetBytes(int64(testSize))
		b.ReportAllocs()
		for b.Loop() {
			if err := a.Store().Delete(b.Context(), p.Name(testSize)); err != nil {
				b.Fatal(err)
			}
			if err := a.PutSegment(b.Context(), p, h, bytes.NewReader(data), 0); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Fetch", func(b *testing.B) {
		b.SetBytes(int64(testSize))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := a.Fetch(b.Context(), p.ID, io.Discard); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// Bytes that are others when they are compressed than when they were verified
// are not stored, whether their header was made here or read.
func TestPutSegmentComparesAgain(t *testing.T) {
	a, g := newArchive(t), newWAL(1, 3, 1)
	g.FillSegments(1)
	p, data := segmentOf(g, 0)
	h, err := a.Describe(p, bytes.NewReader(data), nil)
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Clone(data)
	changed[len(changed)/2] ^= 1
	for range 2 {
		if err := a.PutSegment(t.Context(), p, h, bytes.NewReader(changed), 0); err == nil || !strings.Contains(err.Error(), "when they were verified") {
			t.Errorf("stored bytes that were never verified: %v", err)
		}
		if _, err := a.Header(t.Context(), p); !errors.Is(err, archive.ErrNotExist) {
			t.Errorf("there is an object: %v", err)
		}
		h.CRC32C = nil
	}
}
