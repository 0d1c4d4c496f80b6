package wal_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/walstream/walstream/internal/testkit/walgen"
	"github.com/walstream/walstream/wal"
)

func at(micros int64) time.Time { return walgen.Epoch().Add(time.Duration(micros) * time.Microsecond) }

// TestSummary has commit times that go back, a record that the segment ends
// in, and one that it begins with.
func TestSummary(t *testing.T) {
	b := build(15)
	first := b.Noise(100)
	c1 := b.Commit(at(500))
	p := b.RestorePoint(at(600), "here")
	b.Add(walgen.RmgrXact, 0x20, 701, walgen.MainData(le.AppendUint64(nil, 900)))
	c3 := b.Commit(at(300))
	border := b.Noise(testSegment)
	c4 := b.Commit(at(1000))
	b.Switch()

	z := wal.NewSummarizer(b.Config)
	if _, err := z.Write(b.Bytes[:testSegment]); err != nil {
		t.Fatal(err)
	}
	one, carry, err := z.Finish()
	if err != nil || carry == nil || carry.Start != border.LSN {
		t.Fatalf("carry %+v, error %v", carry, err)
	}
	want := wal.Summary{
		FirstRecord: first.LSN, ValidEnd: c3.End, LastRecord: c3.LSN,
		Records: 5, Commits: 2, Aborts: 1,
		First:   &wal.Finish{LSN: c1.LSN, End: c1.End, Time: at(500), XID: 700},
		Last:    &wal.Finish{LSN: c3.LSN, End: c3.End, Time: at(300), XID: 700},
		MinTime: at(300), MaxTime: at(900), MinXID: 700, MaxXID: 701,
		RestorePoints: []wal.RestorePoint{{LSN: p.LSN, End: p.End, Time: at(600), Name: "here"}},
	}
	if diff := cmp.Diff(want, one); diff != "" {
		t.Errorf("first segment (-want +got):\n%s", diff)
	}

	cfg := b.Config
	cfg.Start += testSegment
	cfg.Carry = carry
	z = wal.NewSummarizer(cfg)
	if _, err := z.Write(b.Bytes[testSegment:]); err != nil {
		t.Fatal(err)
	}
	two, carry, err := z.Finish()
	if err != nil || carry != nil {
		t.Fatalf("carry %+v, error %v", carry, err)
	}
	f4 := &wal.Finish{LSN: c4.LSN, End: c4.End, Time: at(1000), XID: 700}
	want = wal.Summary{
		FirstRecord: c4.LSN, ValidEnd: testStart + 2*testSegment, LastRecord: c4.End,
		Records: 3, Commits: 1, First: f4, Last: f4, MinTime: at(1000), MaxTime: at(1000), MinXID: 700, MaxXID: 700, Switch: true,
	}
	if diff := cmp.Diff(want, two); diff != "" {
		t.Errorf("second segment (-want +got):\n%s", diff)
	}
}

// TestSummaryInsideRecord has segments in which no record begins or ends.
func TestSummaryInsideRecord(t *testing.T) {
	b := build(15)
	b.FillPage(24)
	long := b.Noise(3 * testSegment)
	cfg := b.Config
	var sums []wal.Summary
	for at := 0; at+testSegment <= len(b.Bytes); at += testSegment {
		cfg.Start = testStart + wal.LSN(at)
		z := wal.NewSummarizer(cfg)
		if _, err := z.Write(b.Bytes[at : at+testSegment]); err != nil {
			t.Fatal(err)
		}
		sum, carry, err := z.Finish()
		if err != nil {
			t.Fatal(err)
		}
		cfg.Carry = carry
		sums = append(sums, sum)
	}
	last := b.Records[len(b.Records)-2]
	want := []wal.Summary{
		{FirstRecord: testStart + 40, ValidEnd: last.End, LastRecord: last.LSN, Records: int64(len(b.Records) - 1)},
		{}, {},
	}
	if diff := cmp.Diff(want, sums); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if cfg.Carry == nil || cfg.Carry.Start != long.LSN {
		t.Errorf("carry behind them: %+v", cfg.Carry)
	}
}

// TestSummaryFirstRecordUnfinished has a segment whose only record of its own
// ends in the next.
func TestSummaryFirstRecordUnfinished(t *testing.T) {
	b := build(15)
	b.Noise(testSegment)
	z := wal.NewSummarizer(b.Config)
	if _, err := z.Write(b.Bytes[:testSegment]); err != nil {
		t.Fatal(err)
	}
	sum, _, err := z.Finish()
	if diff := cmp.Diff(wal.Summary{FirstRecord: testStart + 40}, sum); err != nil || diff != "" {
		t.Errorf("error %v (-want +got):\n%s", err, diff)
	}
}

func TestSummaryOfBrokenSegment(t *testing.T) {
	b := build(15)
	good := b.Commit(at(5))
	bad := b.Noise(100)
	b.Bytes[bad.End-testStart-8] ^= 1
	seen := 0
	b.Config.OnRecord = func(*wal.Record) error { seen++; return nil }
	z := wal.NewSummarizer(b.Config)
	_, fed := z.Write(b.Bytes)
	sum, carry, err := z.Finish()
	var end *wal.EndError
	if !errors.As(err, &end) || end.LSN != bad.LSN || fed != err || carry != nil {
		t.Errorf("Feed %v, Finish %v, carry %v", fed, err, carry)
	}
	if err != nil && err.Error() != "WAL ends at "+bad.LSN.String()+": record has a wrong CRC" {
		t.Errorf("message %q", err)
	}
	if sum.Records != 1 || sum.Commits != 1 || sum.ValidEnd != good.End || seen != 1 {
		t.Errorf("%+v, %d callbacks", sum, seen)
	}
}

func TestPoints(t *testing.T) {
	b := build(15)
	c := b.Commit(at(5))
	p := b.RestorePoint(at(6), strings.Repeat("x", 63))
	var got wal.Points
	b.Config.OnRecord = func(r *wal.Record) error { got.Add(r); return nil }
	want := wal.Points{
		Finishes:      []wal.Finish{{LSN: c.LSN, End: c.End, Time: at(5), XID: 700}},
		RestorePoints: []wal.RestorePoint{{LSN: p.LSN, End: p.End, Time: at(6), Name: strings.Repeat("x", 63)}},
	}
	scan := wal.NewScanner(b.Config)
	err := scan.FeedAll(iotest.OneByteReader(strings.NewReader(string(b.Bytes))))
	if diff := cmp.Diff(want, got); diff != "" || err != nil || scan.Carry() != nil {
		t.Errorf("carry %v, error %v (-want +got):\n%s", scan.Carry(), err, diff)
	}
	b.Part(walgen.RmgrHeap, 0, 1, make([]byte, 9000), 8000)
	scan = wal.NewScanner(b.Config)
	if err := scan.FeedAll(strings.NewReader(string(b.Bytes))); err != nil || scan.Carry() == nil {
		t.Errorf("inside a record: carry %v, error %v", scan.Carry(), err)
	}
	if err := wal.NewScanner(b.Config).FeedAll(iotest.TimeoutReader(strings.NewReader(string(b.Bytes)))); !errors.Is(err, iotest.ErrTimeout) {
		t.Errorf("a failing read gives %v", err)
	}
}

func TestValidEnd(t *testing.T) {
	b := varied(15)
	before, last := b.Records[len(b.Records)-2], b.Records[len(b.Records)-1]
	zeroed := append(append([]byte(nil), b.Bytes...), make([]byte, 10000)...)
	torn := append([]byte(nil), zeroed...)
	torn[last.LSN-testStart+100] ^= 1
	for name, c := range map[string]struct {
		file  []byte
		limit int64
		want  wal.LSN
		zeros bool
		why   string
	}{
		"up to the end of the file": {b.Bytes, 1 << 40, last.End, false, ""},
		"zeros":                     {zeroed, 1 << 40, last.End, true, "zeros"},
		"limit at a record's end":   {zeroed, int64(last.LSN - testStart), before.End, false, ""},
		"limit inside a record":     {zeroed, int64(last.LSN-testStart) + 9, before.End, false, ""},
		"damage":                    {torn, 1 << 40, before.End, false, "record has a wrong CRC"},
		"nothing":                   {nil, 1 << 40, testStart, false, ""},
		"no WAL":                    {[]byte(strings.Repeat("no WAL", 10)), 1 << 40, testStart, false, "page magic 6F6E"},
	} {
		t.Run(name, func(t *testing.T) {
			end, why, err := wal.ValidEnd(strings.NewReader(string(c.file)), b.Config, c.limit)
			if end != c.want || err != nil {
				t.Errorf("end %s, want %s; error %v", end, c.want, err)
			}
			if (why == nil) != (c.why == "") || why != nil && (why.Zeros != c.zeros || !strings.HasPrefix(why.Reason, c.why)) {
				t.Errorf("why %v, want %q", why, c.why)
			}
		})
	}
	_, _, err := wal.ValidEnd(failingReader{}, b.Config, 100)
	if !errors.Is(err, io.ErrNoProgress) || !strings.Contains(err.Error(), "read WAL at 0/5000000") {
		t.Errorf("a failing read gives %v", err)
	}
}

// The sum of summaries is the summary of all of it, also where transaction IDs
// begin anew.
func TestSummaryAdd(t *testing.T) {
	finish := func(second, xid int) *wal.Finish {
		return &wal.Finish{LSN: wal.LSN(second), Time: time.Unix(int64(second), 0), XID: uint32(xid)}
	}
	sum := wal.Summary{FirstRecord: 8, ValidEnd: 90, LastRecord: 80, Records: 3}
	sum.Add(&wal.Summary{}) // inside of a record
	one := wal.Summary{
		FirstRecord: 100, ValidEnd: 190, LastRecord: 180, Records: 4, Commits: 2, First: finish(5, 1<<32-9), Last: finish(7, 1<<32-2),
		MinTime: time.Unix(5, 0), MaxTime: time.Unix(9, 0), MinXID: 1<<32 - 9, MaxXID: 1<<32 - 2, UnknownCarry: true,
	}
	sum.Add(&one)
	sum.Add(&wal.Summary{
		FirstRecord: 200, ValidEnd: 290, LastRecord: 280, Records: 2, Commits: 1, Aborts: 1, First: finish(4, 3), Last: finish(6, 5),
		MinTime: time.Unix(4, 0), MaxTime: time.Unix(6, 0), MinXID: 3, MaxXID: 5, Switch: true, RestorePoints: []wal.RestorePoint{{Name: "a"}},
	})
	want := wal.Summary{
		FirstRecord: 8, ValidEnd: 290, LastRecord: 280, Records: 9, Commits: 3, Aborts: 1, First: one.First, Last: finish(6, 5),
		MinTime: time.Unix(4, 0), MaxTime: time.Unix(9, 0), MinXID: 1<<32 - 9, MaxXID: 5, Switch: true, UnknownCarry: true,
		RestorePoints: []wal.RestorePoint{{Name: "a"}},
	}
	if diff := cmp.Diff(want, sum); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for xid, excluded := range map[uint32]bool{1<<32 - 10: true, 1<<32 - 9: false, 1<<32 - 1: false, 3: false, 5: false, 6: true} {
		if sum.Excludes(xid) != excluded {
			t.Errorf("xid %d: excluded %v", xid, !excluded)
		}
	}
	if none := (wal.Summary{}); none.Excludes(3) {
		t.Error("what is not known excludes nothing")
	}
}
