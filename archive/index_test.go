package archive_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/testkit/memstore"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// made is the header of a segment that nobody wrote.
func made(no uint64) *archive.Header {
	id := segment.ID{Timeline: 1, No: no}
	at := time.Unix(int64(1_000_000+no), 0).UTC()
	f := &wal.Finish{LSN: id.Start(testSize) + 40, End: id.Start(testSize) + 80, Time: at, XID: uint32(no)}
	return &archive.Header{
		Identity: testCluster, Timeline: 1, StartLSN: id.Start(testSize), To: int64(testSize), SHA256: fmt.Sprintf("%064d", no),
		Summary: wal.Summary{
			FirstRecord: f.LSN, ValidEnd: f.End, LastRecord: f.LSN, Records: 1, Commits: 1, First: f, Last: f,
			MinTime: at, MaxTime: at, MinXID: f.XID, MaxXID: f.XID,
		},
		RunningMax: at, RunningMaxSince: wal.LSN(testSize),
	}
}

// putHeader stores a header without WAL, by the table in FORMAT.md.
func putHeader(t *testing.T, store archive.Store, h *archive.Header) {
	t.Helper()
	body, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	frame := binary.LittleEndian.AppendUint32(nil, 0x184D2A57)
	frame = binary.LittleEndian.AppendUint32(frame, uint32(12+len(body)))
	frame = append(frame, "WALSTRM\x01"...)
	crc := crc32.Checksum(append(bytes.Clone(frame), body...), crc32.MakeTable(crc32.Castagnoli))
	frame = append(binary.LittleEndian.AppendUint32(frame, crc), body...)
	name := archive.SegmentName(segment.At(1, h.StartLSN, testSize), testSize)
	if err := store.Put(t.Context(), name, bytes.NewReader(frame)); err != nil {
		t.Fatal(err)
	}
}

func blockName(first int) string {
	id := func(no int) string { return segment.ID{Timeline: 1, No: uint64(no)}.Name(testSize) }
	return "index/00000001/" + id(first) + "-" + id(first+999) + ".zst"
}

// What an index gives is what the headers say; what is damaged gives nothing.
// Its own header is the sum of them.
func TestIndex(t *testing.T) { inClearAndSealed(t, testIndex) }

func testIndex(t *testing.T, keys archive.Keys) {
	store := memstore.New()
	a, err := keys.Pin(t.Context(), store, testCluster)
	if err != nil {
		t.Fatal(err)
	}
	var want []*archive.Header
	for no := uint64(2000); no < 3000; no++ {
		want = append(want, made(no))
	}
	for range 2 { // the second time it is there
		if err := a.PutIndex(t.Context(), want); err != nil {
			t.Fatal(err)
		}
	}
	got, err := a.Index(t.Context(), segment.ID{Timeline: 1, No: 2345})
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Fatalf("%v (-want +got):\n%s", err, diff)
	}
	if _, err := a.Index(t.Context(), segment.ID{Timeline: 1, No: 1999}); err == nil {
		t.Error("there is an index of another block")
	}

	good := get(t, store, blockName(2000))
	size := 20 + int(binary.LittleEndian.Uint32(good[4:])) - 12
	if size > 4096 {
		t.Errorf("its header has %d bytes, so that one small request does not do", size)
	}
	var sum archive.Header
	if err := json.Unmarshal(good[20:size], &sum); err != nil {
		t.Fatal(err)
	}
	first, last := want[0], want[999]
	if sum.StartLSN != first.StartLSN || !sum.RunningMax.Equal(last.RunningMax) || sum.RunningMaxSince != last.RunningMaxSince ||
		sum.MinXID != 2000 || sum.MaxXID != 2999 || sum.Commits != 1000 || sum.First.XID != 2000 || !sum.MaxTime.Equal(last.MaxTime) {
		t.Errorf("sum %+v", sum)
	}

	broken := &fixed{Store: store, body: good}
	b, err := archive.Open(t.Context(), broken)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(good); at += 1 + at/100 {
		broken.body = bytes.Clone(good)
		broken.body[at] ^= 1 << (at % 8)
		if _, err := b.Index(t.Context(), segment.ID{Timeline: 1, No: 2000}); err == nil {
			t.Errorf("byte %d of %d flipped: not noticed", at, len(good))
		}
		broken.body = good[:at]
		if _, err := b.Index(t.Context(), segment.ID{Timeline: 1, No: 2000}); err == nil {
			t.Errorf("truncation to %d of %d bytes: not noticed", at, len(good))
		}
	}
	broken.body = good
	if _, err := b.Index(t.Context(), segment.ID{Timeline: 1, No: 3000}); err == nil {
		t.Error("the index of another block is taken")
	}
}

// The uploader indexes a block when the next one begins, also when it was
// started in between; with a hole in it there is none.
func TestUploaderIndexes(t *testing.T) {
	for _, hole := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			u := newUpload(t)
			for no := uint64(1000); no < 1998; no++ {
				if !hole || no != 1500 {
					putHeader(t, u.store, made(no))
				}
			}
			g := newWAL(1, 1998, 1)
			g.FillSegments(3)
			u.receive(g)
			u.run(time.Minute)
			if got, want := u.up.Status().Segments, int64(3); got != want {
				t.Fatalf("%d segments stored", got)
			}
			headers, err := u.a.Index(t.Context(), segment.ID{Timeline: 1, No: 1000})
			if hole {
				if err == nil {
					t.Error("there is an index over a hole")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, no := range []uint64{1000, 1997, 1998, 1999} {
				want, err := u.a.Header(t.Context(), archive.Piece{ID: segment.ID{Timeline: 1, No: no}, To: int64(testSize)})
				if diff := cmp.Diff(want, headers[no-1000]); err != nil || diff != "" {
					t.Errorf("segment %d: %v (-header +index):\n%s", no, err, diff)
				}
			}
			for _, name := range u.objects() {
				if strings.HasPrefix(name, "index/") && name != blockName(1000) {
					t.Errorf("there is %s", name)
				}
			}
		})
	}
}
