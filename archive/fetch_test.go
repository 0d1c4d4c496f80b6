package archive_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/testkit/walgen"
	"github.com/walstream/walstream/segment"
)

func TestFetchAbsent(t *testing.T) {
	a := newArchive(t)
	id := segment.ID{Timeline: 1, No: 9}
	if _, err := a.Fetch(t.Context(), id, io.Discard); !errors.Is(err, archive.ErrNotExist) {
		t.Errorf("Fetch: %v, want ErrNotExist", err)
	}
	if _, err := a.Header(t.Context(), archive.Piece{ID: id, To: int64(testSize)}); !errors.Is(err, archive.ErrNotExist) {
		t.Errorf("Header: %v, want ErrNotExist", err)
	}
	if _, err := a.FetchTail(t.Context(), id, new(writerAt)); !errors.Is(err, archive.ErrNotExist) {
		t.Errorf("FetchTail: %v, want ErrNotExist", err)
	}
}

func TestFetchTail(t *testing.T) {
	a, g := newArchive(t), newWAL(1, 1, 1)
	g.FillSegments(1)
	for _, to := range []int64{8192, 100_000, 50_000} {
		p, data := tailOf(g, 0, to)
		h := putPiece(t, a, p, data, nil)
		if h.Carry != nil || h.To != to {
			t.Errorf("header of a tail: %+v", h)
		}
	}
	p, data := segmentOf(g, 0)
	fetch := func() (int64, error) {
		var got writerAt
		n, err := a.FetchTail(t.Context(), p.ID, &got)
		if !bytes.Equal(got[:n], data[:n]) {
			t.Errorf("%d bytes, but not those that were stored", n)
		}
		return n, err
	}
	if n, err := fetch(); n != 100_000 || err != nil {
		t.Errorf("FetchTail = %d, %v; want the longest, 100000", n, err)
	}

	// A longer one that is damaged: what can be used is given, and the
	// damage is reported.
	name := archive.TailName(p.ID, testSize, 0, 200_000)
	if err := a.Store().Put(t.Context(), name, strings.NewReader("damaged")); err != nil {
		t.Fatal(err)
	}
	var corrupt *archive.CorruptError
	if n, err := fetch(); n != 100_000 || !errors.As(err, &corrupt) || corrupt.Object != name {
		t.Errorf("FetchTail beside a damaged object = %d, %v", n, err)
	}
}

// putMiddle stores bytes [from, to) of a segment, and damages the object.
func putMiddle(t *testing.T, a *archive.Archive, g *walgen.WAL, from, to int64, damage bool) {
	t.Helper()
	p, data := segmentOf(g, 0)
	p.Tail, p.From, p.To = true, from, to
	sum := sha256.Sum256(data[from:to])
	h := &archive.Header{Identity: testCluster, Timeline: 1, StartLSN: g.Config.Start, From: from, To: to, SHA256: hex.EncodeToString(sum[:])}
	if err := a.PutSegment(t.Context(), p, h, bytes.NewReader(data), 0); err != nil {
		t.Fatal(err)
	}
	if !damage {
		return
	}
	name := p.Name(testSize)
	r, err := a.Store().Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	body[len(body)-1] ^= 1 // noticed after all was written
	if err := a.Store().Delete(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if err := a.Store().Put(t.Context(), name, bytes.NewReader(body)); err != nil {
		t.Fatal(err)
	}
}

// Tails that overlap are put together; a damaged one does not touch what
// others gave.
func TestFetchTailOverlapping(t *testing.T) {
	a, g := newArchive(t), newWAL(1, 1, 1)
	g.FillSegments(1)
	putMiddle(t, a, g, 0, 300_000, true)
	putMiddle(t, a, g, 0, 100_000, false)
	putMiddle(t, a, g, 50_000, 150_000, true)
	putMiddle(t, a, g, 100_000, 120_000, false)
	putMiddle(t, a, g, 90_000, 130_000, false)
	putMiddle(t, a, g, 140_000, 160_000, false)
	p, data := segmentOf(g, 0)
	var got writerAt
	n, err := a.FetchTail(t.Context(), p.ID, &got)
	var corrupt *archive.CorruptError
	if n != 130_000 || !errors.As(err, &corrupt) {
		t.Errorf("FetchTail = %d, %v; want 130000 and a *CorruptError", n, err)
	}
	if !bytes.Equal(got[:n], data[:n]) {
		t.Error("other bytes than those that were stored")
	}
	putMiddle(t, a, g, 120_000, 400_000, false)
	if n, err := a.FetchTail(t.Context(), p.ID, new(writerAt)); n != 400_000 || err != nil {
		t.Errorf("FetchTail past the damaged objects = %d, %v", n, err)
	}
}

// hiding is a store that lists no tails, as if they were deleted at that
// moment, or lists some that are gone.
type hiding struct {
	archive.Store
	list bool
}

func (h *hiding) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if h.list && strings.Contains(name, ".tail/") {
		return nil, archive.ErrNotExist
	}
	return h.Store.Get(ctx, name, off, n)
}

// A segment that is completed between two questions must not seem absent.
func TestFetchTailWhileCompleted(t *testing.T) {
	whole, g := newArchive(t), newWAL(1, 1, 1)
	g.FillSegments(1)
	p, data := segmentOf(g, 0)
	putPiece(t, whole, p, data, nil)
	var got writerAt
	if n, err := whole.FetchTail(t.Context(), p.ID, &got); n != p.To || err != nil || !bytes.Equal(got, data) {
		t.Errorf("no tail beside a complete segment: %d, %v, want that", n, err)
	}
	tail, tailData := tailOf(g, 0, 8192)
	putPiece(t, whole, tail, tailData, nil)
	a, err := archive.Open(t.Context(), &hiding{Store: whole.Store(), list: true})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := a.FetchTail(t.Context(), p.ID, new(writerAt)); n != 0 || err == nil || errors.Is(err, archive.ErrNotExist) {
		t.Errorf("a tail that vanishes: %d, %v, want an error that is no absence", n, err)
	}
}
