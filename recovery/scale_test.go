package recovery

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/internal/testkit/memstore"
	"github.com/walstream/walstream/internal/testkit/walgen"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// vast is an archive that is made up as it is read: segments numbered 1 to last,
// each with four commits a quarter of a minute apart, a backup every 2,500
// segments, a restore point every 10,000. It counts requests, a listing as one
// for every thousand names, and each of them takes delay.
type vast struct {
	archive.Store        // what is small
	last, indexed uint64 // the first without an index
	every         uint64 // segments from backup to backup
	points        bool   // are noted
	bounds        bool   // backups tell which transactions were over
	delay         time.Duration
	clocks        bool        // the IDs of backups tell when they were taken
	plain, marked wal.Summary // of segment 1, without and with a restore point
	begin         time.Time
	made          map[string][]byte // indexes

	mu       sync.Mutex
	requests int
}

func newVast(t testing.TB, last, indexed uint64) *vast {
	v := &vast{Store: memstore.New(), last: last, indexed: indexed, every: 2500, points: true, bounds: true, clocks: true, begin: clock("00:00"), made: map[string][]byte{}}
	a := v.open(t)
	for _, marked := range []bool{false, true} {
		h, err := a.Describe(archive.Piece{ID: v.id(1), To: int64(testSize)}, bytes.NewReader(v.body(1, marked)), nil)
		if err != nil {
			t.Fatal(err)
		}
		if v.plain = h.Summary; !marked {
			v.marked = h.Summary
		}
	}
	v.plain, v.marked = v.marked, v.plain
	if err := a.PutHeartbeat(t.Context(), archive.Heartbeat{Receiver: "r", Timeline: 1, InsertLSN: v.id(v.last).Start(testSize), Time: v.time(v.last, 0)}); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v *vast) open(t testing.TB) *archive.Archive {
	a, err := archive.Pin(t.Context(), v, testCluster)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (v *vast) id(no uint64) segment.ID { return segment.ID{Timeline: 1, No: no} }

// time is that of the i-th commit of a segment. Now and then one is late.
func (v *vast) time(no uint64, i int) time.Time {
	at := v.begin.Add(time.Duration(no)*time.Minute + time.Duration(i)*15*time.Second)
	if no%5000 == 77 && i == 1 {
		at = at.Add(2 * time.Minute)
	}
	return at
}

func (v *vast) xid(no uint64, i int) uint32 { return uint32(1000 + 4*no + uint64(i)) }

func (v *vast) isMarked(no uint64) bool { return no%10000 == 5000 }

func (v *vast) body(no uint64, marked bool) []byte {
	w := walgen.New(testCluster.ScanConfig(v.id(no)), 1)
	for i := range 4 {
		w.XID = v.xid(no, i)
		w.Commit(v.time(no, i))
	}
	if marked {
		w.RestorePoint(v.time(no, 3), fmt.Sprintf("p%d", no))
	}
	w.Switch()
	return w.Bytes
}

func (v *vast) header(no uint64) *archive.Header {
	s := v.plain
	if v.isMarked(no) {
		s = v.marked
	}
	shift := v.id(no).Start(testSize) - v.id(1).Start(testSize)
	finish := func(f wal.Finish, i int) *wal.Finish {
		return &wal.Finish{LSN: f.LSN + shift, End: f.End + shift, Time: v.time(no, i), XID: v.xid(no, i)}
	}
	s.FirstRecord, s.ValidEnd, s.LastRecord = s.FirstRecord+shift, s.ValidEnd+shift, s.LastRecord+shift
	s.First, s.Last = finish(*s.First, 0), finish(*s.Last, 3)
	s.MinXID, s.MaxXID, s.MinTime, s.MaxTime = v.xid(no, 0), v.xid(no, 3), v.time(no, 0), v.time(no, 3)
	if late := v.time(no, 1); late.After(s.MaxTime) {
		s.MaxTime = late
	}
	if v.isMarked(no) {
		p := s.RestorePoints[0]
		s.RestorePoints = []wal.RestorePoint{{LSN: p.LSN + shift, End: p.End + shift, Time: v.time(no, 3), Name: fmt.Sprintf("p%d", no)}}
	}
	h := &archive.Header{Identity: testCluster, Timeline: 1, StartLSN: v.id(no).Start(testSize), To: int64(testSize), Summary: s, RunningMaxSince: wal.LSN(testSize)}
	h.RunningMax = s.MaxTime
	for back := no - min(no, 2); back < no; back++ {
		if late := v.time(back, 1); late.After(h.RunningMax) {
			h.RunningMax = late
		}
	}
	return h
}

func (v *vast) block(first uint64) (headers []*archive.Header) {
	for no := first; no < first+archive.IndexSpan; no++ {
		headers = append(headers, v.header(no))
	}
	return headers
}

func (v *vast) commit(k uint64) *backup.Commit {
	no := 1 + k*v.every
	h := v.header(no)
	c := &backup.Commit{
		FormatVersion: 1, Identity: testCluster, Timeline: 1, StartTimeline: 1, StartLSN: h.First.LSN, StopLSN: h.First.End,
		Started: v.time(no, 0), Finished: v.time(no, 0),
	}
	c.ID = c.Started.Format("20060102T150405Z")
	if !v.clocks {
		c.ID = clock("00:00").Add(time.Duration(k) * time.Second).Format("20060102T150405Z")
	}
	if v.bounds { // two are assigned ahead, one is always very old
		c.NextXID, c.OldestActiveXID = uint64(v.xid(no, 2)), uint64(v.xid(no, 0)-400)
	}
	c.Parts = []backup.Part{{Name: backup.PartName(c.ID, 1), Control: true}}
	return c
}

func (v *vast) point(k uint64) archive.RestorePoint {
	no := 5000 + 10000*k
	p := v.header(no).RestorePoints[0]
	return archive.RestorePoint{Name: p.Name, LSN: p.End, Timeline: 1, Time: p.Time}
}

// names says which objects there are that begin with prefix: how many, and the
// i-th.
func (v *vast) names(prefix string) (int, func(i uint64) string) {
	blocks := (v.indexed - archive.IndexSpan) / archive.IndexSpan
	switch {
	case strings.HasPrefix(prefix, "wal/"):
		return int(v.last), func(i uint64) string { return archive.SegmentName(v.id(i+1), testSize) }
	case prefix == "index/":
		return int(blocks), func(i uint64) string {
			first := (i + 1) * archive.IndexSpan
			return fmt.Sprintf("index/00000001/%s-%s.zst", v.id(first).Name(testSize), v.id(first+archive.IndexSpan-1).Name(testSize))
		}
	case prefix == "backups/":
		return int((v.last-1)/v.every + 1), func(i uint64) string { return v.commit(i).CommitName() }
	case prefix == "points/" && v.points:
		return int((v.last + 5000) / 10000), func(i uint64) string {
			p := v.point(i)
			return "points/" + archive.LSNHex(p.LSN) + "-" + p.Name + ".json"
		}
	}
	return 0, nil
}

func (v *vast) request() {
	v.mu.Lock()
	v.requests++
	v.mu.Unlock()
	time.Sleep(v.delay)
}

func (v *vast) List(ctx context.Context, prefix, after string) iter.Seq2[archive.Info, error] {
	n, name := v.names(prefix)
	return func(yield func(archive.Info, error) bool) {
		v.request()
		if n == 0 {
			for info, err := range v.Store.List(ctx, prefix, after) {
				if !yield(info, err) {
					return
				}
			}
			return
		}
		first := sort.Search(n, func(i int) bool { return name(uint64(i)) > after })
		for i := first; i < n; i++ {
			if i > first && (i-first)%1000 == 0 {
				v.request()
			}
			if !yield(archive.Info{Name: name(uint64(i)), Size: 1000}, nil) {
				return
			}
		}
	}
}

func (v *vast) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	v.request()
	v.mu.Lock()
	body := v.made[name]
	v.mu.Unlock()
	var err error
	if body == nil {
		body, err = v.object(ctx, name, n)
	}
	if n < 0 && strings.HasPrefix(name, "index/") {
		v.mu.Lock()
		v.made[name] = body
		v.mu.Unlock()
	}
	if body == nil {
		if err == nil {
			return v.Store.Get(ctx, name, off, n)
		}
		return nil, err
	}
	if n >= 0 && n < int64(len(body)) {
		body = body[:n]
	}
	return io.NopCloser(bytes.NewReader(body)), err
}

// object makes one up: of segments and indexes only the header when no more is
// wanted. It is nil for those that are small.
func (v *vast) object(ctx context.Context, name string, n int64) ([]byte, error) {
	prefix, rest, _ := strings.Cut(name, "/")
	count, nameOf := v.names(prefix + "/")
	i := uint64(sort.Search(count, func(i int) bool { return nameOf(uint64(i)) >= name }))
	if i == uint64(count) || nameOf(i) != name {
		return nil, nil
	}
	mem := memstore.New()
	a, err := archive.Pin(ctx, mem, testCluster)
	if err != nil {
		return nil, err
	}
	switch prefix {
	case "backups":
		return json.Marshal(v.commit(i))
	case "points":
		return json.Marshal(v.point(i))
	case "index":
		headers := v.block((i + 1) * archive.IndexSpan)
		if n >= 0 {
			sum := archive.Header{Identity: testCluster, Timeline: 1, StartLSN: headers[0].StartLSN}
			for _, h := range headers {
				sum.Add(&h.Summary)
			}
			return frame(&sum)
		}
		err = a.PutIndex(ctx, headers)
	case "wal":
		if n >= 0 {
			return frame(v.header(i + 1))
		}
		body, before := v.body(i+1, v.isMarked(i+1)), v.header(i)
		before.LastRecord = 0 // each begins a chain
		p := archive.Piece{ID: v.id(i + 1), To: int64(testSize)}
		h, derr := a.Describe(p, bytes.NewReader(body), before)
		if err = derr; err == nil {
			err = a.PutSegment(ctx, p, h, bytes.NewReader(body), 0)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", rest, err)
	}
	r, err := mem.Get(ctx, name, 0, -1)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// frame is a header by the table in FORMAT.md.
func frame(h *archive.Header) ([]byte, error) {
	body, err := json.Marshal(h)
	b := binary.LittleEndian.AppendUint32(nil, 0x184D2A57)
	b = binary.LittleEndian.AppendUint32(b, uint32(12+len(body)))
	b = append(b, "WALSTRM\x01"...)
	crc := crc32.Checksum(append(bytes.Clone(b), body...), crc32.MakeTable(crc32.Castagnoli))
	return append(binary.LittleEndian.AppendUint32(b, crc), body...), err
}

// plan plans as a restore does, without a look at the parts of the backup.
func (v *vast) plan(t testing.TB, target Target) (p *Plan, requests int, err error) {
	t.Helper()
	a := v.open(t)
	v.requests = 0
	g, err := Source{Archive: a}.gather(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p, err = g.plan(t.Context(), target)
	var refusal *Refusal
	if err != nil && !errors.As(err, &refusal) {
		t.Fatalf("%s: %v", target, err)
	}
	return p, v.requests, err
}

// firstPast is the first commit past at, which is one of segment no.
func (v *vast) firstPast(no uint64, at time.Time) wal.LSN {
	h := v.header(no)
	for i := range 4 {
		if v.time(no, i).After(at) {
			return h.First.LSN + wal.LSN(i)*(h.Last.LSN-h.First.LSN)/3
		}
	}
	return 0
}

// A plan over a million segments and 400 backups takes few requests, for a
// transaction one for each index and some more, and leads
// to the very record.
func TestPlanOfAMillionSegments(t *testing.T) {
	v := newVast(t, 1_000_450, 999_000)
	const parts = 2 // requests to check those of the backup
	for _, no := range []uint64{1, 2501, 5079, 499_999, 640_077, 998_999, 999_700, 1_000_450} {
		h := v.header(no)
		for name, tc := range map[string]struct {
			target Target
			end    wal.LSN
		}{
			"time":   {Target{Kind: KindTime, Time: h.Last.Time.Add(-time.Second)}, v.firstPast(no, h.Last.Time.Add(-time.Second))},
			"lsn":    {Target{Kind: KindLSN, LSN: h.Last.LSN}, h.Last.End},
			"before": {Target{Kind: KindLSN, LSN: h.Last.LSN, Exclusive: true}, h.Last.LSN},
		} {
			p, n, err := v.plan(t, tc.target)
			if err != nil {
				t.Errorf("%s in %d: %v", name, no, err)
				continue
			}
			if want := v.commit((no - 1) / v.every).ID; p.End != tc.end || p.Backup.ID != want {
				t.Errorf("%s in %d: ends at %s with backup %s, want %s with %s", name, no, p.End, p.Backup.ID, tc.end, want)
			}
			if n+parts > 40 {
				t.Errorf("%s in %d: %d requests", name, no, n)
			}
		}
	}
	for _, name := range []string{"p5000", "p505000", "p995000"} {
		p, n, err := v.plan(t, Target{Kind: KindName, Name: name})
		if err != nil || n+parts > 40 || p.End-v.id(uint64(p.End)/uint64(testSize)).Start(testSize) != v.marked.RestorePoints[0].End-wal.LSN(testSize) {
			t.Errorf("%s: %+v with %d requests, %v", name, p, n, err)
		}
	}
	p, n, err := v.plan(t, Target{})
	if want := v.id(v.last + 1).Start(testSize); err != nil || p.End != want || p.WALEnd != want || n+parts > 40 {
		t.Errorf("end: %+v with %d requests, %v", p, n, err)
	}
	for _, no := range []uint64{1, 500_000, 997_000, 999_500} {
		p, n, err := v.plan(t, Target{Kind: KindXID, XID: v.xid(no, 2)})
		if err != nil || uint64(p.End)/uint64(testSize) != no || p.Before.XID != v.xid(no, 2) || n+parts > 100 {
			t.Errorf("xid in %d: %+v with %d requests, %v", no, p, n, err)
		}
	}
}

// BenchmarkPlan plans over a million segments in a store with a round trip of
// 20 ms.
func BenchmarkPlan(b *testing.B) {
	v := newVast(b, 1_000_450, 999_000)
	v.delay = 20 * time.Millisecond
	h := v.header(640_077)
	for name, target := range map[string]Target{
		"time": {Kind: KindTime, Time: h.Last.Time.Add(-time.Second)}, "lsn": {Kind: KindLSN, LSN: h.Last.LSN},
		"name": {Kind: KindName, Name: "p505000"}, "end": {}, "xid": {Kind: KindXID, XID: v.xid(640_077, 2)},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				_, n, err := v.plan(b, target)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(n), "requests/op")
			}
		})
	}
}
