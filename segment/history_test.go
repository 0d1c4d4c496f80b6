package segment_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

func TestParseHistory(t *testing.T) {
	for _, c := range []struct {
		name string
		tli  wal.Timeline
		body string
		want []segment.Switch
	}{
		{"as PostgreSQL writes the first", 2, "1\t0/16B3D80\tno recovery target specified\n",
			[]segment.Switch{{Timeline: 1, End: 0x16B3D80, Reason: "no recovery target specified"}}},
		{"and a later one, with a blank line between", 3,
			"1\t0/16B3D80\tno recovery target specified\n\n2\t0/5000028\tbefore 2026-11-22 10:00:00.123456+01\n",
			[]segment.Switch{{1, 0x16B3D80, "no recovery target specified"}, {2, 0x5000028, "before 2026-11-22 10:00:00.123456+01"}}},
		{"a named restore point that holds a newline", 3,
			"1\t0/16B3D80\tat restore point \"x\"\n\n\n2\tA15/2C000060\tat restore point \"y\"\n",
			[]segment.Switch{{1, 0x16B3D80, `at restore point "x"`}, {2, 0xA152C000060, `at restore point "y"`}}},
		{"comments, spaces, carriage returns, no reason", 12,
			"# a comment\n   # another\n  3 \t 0/1000000   \r\n7 0/1000000",
			[]segment.Switch{{Timeline: 3, End: 0x1000000}, {Timeline: 7, End: 0x1000000}}},
		{"timeline 1 has none", 1, "", nil},
	} {
		got, err := segment.ParseHistory(c.tli, []byte(c.body))
		if diff := cmp.Diff(segment.History{Timeline: c.tli, Ancestors: c.want}, got); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", c.name, err, diff)
		}
	}
}

func TestParseHistoryRefuses(t *testing.T) {
	for name, body := range map[string]string{
		"nothing":                      "",
		"only comments":                "# 1 0/1000000\n",
		"no LSN":                       "1\n",
		"no timeline":                  "x 0/1000000\n",
		"timeline 0":                   "0 0/1000000\n",
		"no LSN but text":              "1 nowhere\n",
		"half an LSN":                  "1 0/\n",
		"an LSN with something":        "1 0/1000000x\n",
		"itself":                       "5 0/1000000\n",
		"a later timeline":             "6 0/1000000\n",
		"the same timeline twice":      "1 0/1000000\n1 0/2000000\n",
		"timelines in the wrong order": "2 0/1000000\n1 0/2000000\n",
		"ends in the wrong order":      "1 0/2000000\n2 0/1000000\n",
	} {
		if h, err := segment.ParseHistory(5, []byte(body)); err == nil {
			t.Errorf("%s: read as %+v", name, h)
		}
	}
}

func TestHistoryNames(t *testing.T) {
	if got := segment.HistoryName(10); got != "0000000A.history" {
		t.Errorf("timeline 10: %s", got)
	}
	if tli, err := segment.ParseHistoryName("0000000A.history"); err != nil || tli != 10 {
		t.Errorf("0000000A.history is of timeline %s, %v", tli, err)
	}
	for _, bad := range []string{"", ".history", "0000000a.history", "00000000.history", "000000010.history", "0000000A.history.tmp", "0000000A.hist", "0000000A.history\n"} {
		if tli, err := segment.ParseHistoryName(bad); err == nil {
			t.Errorf("%q is of timeline %s", bad, tli)
		}
	}
}

// The history of these tests: 1 ended within segment 5, 2 on the border of
// segments 8 and 9, 4 and 6 both within segment 12.
var forked = segment.History{Timeline: 7, Ancestors: []segment.Switch{
	{Timeline: 1, End: 5*mb + 100},
	{Timeline: 2, End: 9 * mb},
	{Timeline: 4, End: 12*mb + 8},
	{Timeline: 6, End: 12*mb + 800},
}}

func TestTimelineAt(t *testing.T) {
	for _, c := range []struct {
		lsn        wal.LSN
		byteOn     wal.Timeline // whose WAL holds the byte
		segmentOn  wal.Timeline // whose file is read
		segmentNum uint64
	}{
		{0, 1, 1, 0},
		{5*mb - 1, 1, 1, 4},
		{5 * mb, 1, 2, 5},
		{5*mb + 99, 1, 2, 5},
		{5*mb + 100, 2, 2, 5},
		{9*mb - 1, 2, 2, 8},
		{9 * mb, 4, 4, 9},
		{12*mb - 1, 4, 4, 11},
		{12 * mb, 4, 7, 12},
		{12*mb + 8, 6, 7, 12},
		{12*mb + 799, 6, 7, 12},
		{12*mb + 800, 7, 7, 12},
		{13 * mb, 7, 7, 13},
	} {
		if got := forked.TimelineAt(c.lsn); got != c.byteOn {
			t.Errorf("TimelineAt(%s) = %s, want %s", c.lsn, got, c.byteOn)
		}
		want := segment.ID{Timeline: c.segmentOn, No: c.segmentNum}
		if got := forked.SegmentAt(c.lsn, testSize); got != want {
			t.Errorf("SegmentAt(%s) = %+v, want %+v", c.lsn, got, want)
		}
	}
}

func TestStartAndEndOf(t *testing.T) {
	for _, c := range []struct {
		tli        wal.Timeline
		start, end wal.LSN
		onWay      bool
		ended      bool
	}{
		{1, 0, 5*mb + 100, true, true},
		{2, 5*mb + 100, 9 * mb, true, true},
		{3, 0, 0, false, false},
		{4, 9 * mb, 12*mb + 8, true, true},
		{7, 12*mb + 800, 0, true, false},
		{8, 0, 0, false, false},
	} {
		start, onWay := forked.StartOf(c.tli)
		if onWay != c.onWay || onWay && start != c.start {
			t.Errorf("StartOf(%s) = %s, %v; want %s, %v", c.tli, start, onWay, c.start, c.onWay)
		}
		if end, ok := forked.EndOf(c.tli); ok != c.ended || end != c.end {
			t.Errorf("EndOf(%s) = %s, %v; want %s, %v", c.tli, end, ok, c.end, c.ended)
		}
	}
}

func TestContains(t *testing.T) {
	for _, c := range []struct {
		tli  wal.Timeline
		lsn  wal.LSN
		want bool
	}{
		{1, 0, true},
		{1, 5*mb + 100, true}, // the end itself is on both
		{1, 5*mb + 101, false},
		{2, 5*mb + 100, true},
		{2, 5*mb + 99, false}, // before its beginning it is timeline 1
		{2, 9 * mb, true},
		{3, 8 * mb, false},
		{7, 12*mb + 800, true},
		{7, 12*mb + 799, false},
		{7, 99 * mb, true},
		{8, 99 * mb, false},
	} {
		if got := forked.Contains(c.tli, c.lsn); got != c.want {
			t.Errorf("Contains(%s, %s) = %v", c.tli, c.lsn, got)
		}
	}
}

// TestHistoryRoundTrip: what Format writes is read back, and the methods agree
// with each other.
func TestHistoryRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := segment.History{Timeline: 1}
		for n := rapid.IntRange(0, 6).Draw(t, "ancestors"); n > 0; n-- {
			sw := segment.Switch{Timeline: h.Timeline, Reason: rapid.StringMatching(`([a-z"]{1,5}( [a-z0-9:.+-]{1,9}){0,3})?`).Draw(t, "reason")}
			if len(h.Ancestors) > 0 {
				sw.End = h.Ancestors[len(h.Ancestors)-1].End
			}
			sw.End += wal.LSN(rapid.Uint64Range(0, uint64(3*mb)).Draw(t, "length"))
			h.Ancestors = append(h.Ancestors, sw)
			h.Timeline += wal.Timeline(rapid.Uint32Range(1, 3).Draw(t, "jump"))
		}
		back, err := segment.ParseHistory(h.Timeline, h.Format())
		if diff := cmp.Diff(h, back); err != nil || diff != "" {
			t.Fatalf("%v\n%s", err, diff)
		}
		lsn := wal.LSN(rapid.Uint64Range(0, uint64(20*mb)).Draw(t, "lsn"))
		if tli := h.TimelineAt(lsn); !h.Contains(tli, lsn) {
			t.Fatalf("%s is on timeline %s, which does not contain it", lsn, tli)
		}
		if id := h.SegmentAt(lsn, testSize); id.Timeline < h.TimelineAt(lsn) || id.Start(testSize) > lsn || lsn >= id.End(testSize) {
			t.Fatalf("%s is read from %+v", lsn, id)
		}
	})
}

func FuzzParseHistory(f *testing.F) {
	f.Add(uint32(3), []byte("1\t0/16B3D80\tno recovery target specified\n\n2\t0/5000028\tbefore\n"))
	f.Add(uint32(9), []byte("# x\n 1 0/1\n"))
	f.Fuzz(func(t *testing.T, tli uint32, body []byte) {
		h, err := segment.ParseHistory(wal.Timeline(tli), body)
		if err != nil {
			return
		}
		back, err := segment.ParseHistory(wal.Timeline(tli), h.Format())
		if diff := cmp.Diff(h, back); err != nil || diff != "" {
			t.Errorf("%v\n%s", err, diff)
		}
	})
}

func TestIdentityMatch(t *testing.T) {
	if err := identity.Match("spool /x", identity); err != nil {
		t.Error(err)
	}
	for text, change := range map[string]func(*segment.Identity){
		"spool /x belongs to another cluster: system identifier 7300000000000000001, not 1": func(i *segment.Identity) { i.SystemIdentifier = 1 },
		"spool /x belongs to PostgreSQL 15, not 16":                                         func(i *segment.Identity) { i.MajorVersion = 16 },
		"spool /x has WAL segments of 1048576 bytes, not 16777216":                          func(i *segment.Identity) { i.SegmentSize = 16 << 20 },
	} {
		other := identity
		change(&other)
		if err := want[*segment.ForeignError](t, identity.Match("spool /x", other)); err.Error() != text {
			t.Errorf("got %q, want %q", err, text)
		}
	}
}
