package wal_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/walstream/walstream/internal/testkit/walgen"
	"github.com/walstream/walstream/wal"
)

func TestScanEveryMajor(t *testing.T) {
	for _, major := range majors {
		b := varied(major)
		got := mustScan(t, b.Config, b.Bytes)
		want := scanned{Records: b.Records, End: b.End()}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("PostgreSQL %d (-want +got):\n%s", major, diff)
		}
	}
}

// TestTruncation feeds byte by byte: after each, End must be that of the last
// record that is whole up to there.
func TestTruncation(t *testing.T) {
	b := varied(15)
	ended := b.Switch()
	border := b.End()
	b.Noise(10)
	s := wal.NewScanner(b.Config)
	want, next := b.Config.Start, 0
	for i := range b.Bytes {
		if err := s.Feed(b.Bytes[i : i+1]); err != nil {
			t.Fatal(err)
		}
		pos := b.Config.Start + wal.LSN(i+1)
		switch {
		case next < len(b.Records) && b.Records[next].End == pos:
			want = pos
			next++
		case pos > ended.End && pos <= border:
			want = pos // zeros behind the switch count
		}
		if s.End() != want {
			t.Fatalf("with the bytes before %s the end is %s, want %s", pos, s.End(), want)
		}
	}
}

func TestCarryAtEveryPage(t *testing.T) {
	b := varied(18)
	carries := 0
	for cut := 8192; cut < len(b.Bytes); cut += 8192 {
		one := mustScan(t, b.Config, b.Bytes[:cut])
		cfg := b.Config
		cfg.Start += wal.LSN(cut)
		cfg.Carry = stored(t, one.Carry)
		cfg.Major = 0
		if cfg.Carry != nil {
			carries++
		}
		two := mustScan(t, cfg, b.Bytes[cut:])
		if diff := cmp.Diff(b.Records, append(one.Records, two.Records...)); diff != "" {
			t.Errorf("cut at %s (-want +got):\n%s", cfg.Start, diff)
		}
		if two.Unknown {
			t.Errorf("cut at %s: the carry was called unknown", cfg.Start)
		}
	}
	if carries < 10 {
		t.Errorf("weak test: %d carries", carries)
	}
}

// TestPrevAcrossBorder has segments that end with a record: nothing is carried,
// and the link to the record before tells whether they belong together.
func TestPrevAcrossBorder(t *testing.T) {
	b := build(15)
	last := b.Switch()
	next := b.Noise(10)
	cfg := b.Config
	cfg.Start += testSegment
	cfg.Prev = last.LSN
	mustScan(t, cfg, b.Bytes[testSegment:])
	cfg.Prev = last.LSN - 32
	wantEnd(t, cfg, b.Bytes[testSegment:], next.LSN, false, "record follows one at "+last.LSN.String())

	b = build(15)
	b.Noise(testSegment)
	b.Noise(10)
	cfg.Prev = testStart // but a record that is not known comes between
	if got := mustScan(t, cfg, b.Bytes[testSegment:]); !got.Unknown || len(got.Records) != 1 {
		t.Errorf("%+v", got)
	}
}

func TestUnknownCarry(t *testing.T) {
	b := build(15)
	b.Noise(100)
	b.Noise(2*testSegment - 3)
	after := b.Noise(50)
	cut := testSegment
	cfg := b.Config
	cfg.Start += wal.LSN(cut)
	got := mustScan(t, cfg, b.Bytes[cut:])
	want := scanned{Records: []walgen.Record{after}, End: after.End, Unknown: true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	got = mustScan(t, cfg, b.Bytes[cut:cut+20000])
	if got.End != cfg.Start || got.Carry != nil {
		t.Errorf("inside the unknown record: %+v", got)
	}
}

func TestOverwrittenRecord(t *testing.T) {
	for _, n := range []int{8, 16, 24, 500, 9000} {
		t.Run(fmt.Sprintf("torn after %d bytes", n), func(t *testing.T) {
			b := build(15)
			b.Noise(100)
			b.FillPage(min(n, 496))
			torn := b.Tear(30000, n)
			cut := len(b.Bytes)
			b.Mend(torn.LSN)
			b.Noise(70)
			if diff := cmp.Diff(b.Records, mustScan(t, b.Config, b.Bytes).Records); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			before := mustScan(t, b.Config, b.Bytes[:cut])
			if before.Carry == nil {
				t.Fatal("no carry of the torn record")
			}
			cfg := b.Config
			cfg.Start += wal.LSN(cut)
			cfg.Carry = before.Carry
			if got := mustScan(t, cfg, b.Bytes[cut:]); len(got.Records) != 2 || got.Unknown {
				t.Errorf("with the carry: %+v", got)
			}
			cfg.Carry = nil
			if got := mustScan(t, cfg, b.Bytes[cut:]); len(got.Records) != 2 || got.Unknown {
				t.Errorf("without the carry: %+v", got)
			}
			if n > 8192 { // the unknown record is torn in the page before
				cfg.Start -= 8192
				if got := mustScan(t, cfg, b.Bytes[cut-8192:]); len(got.Records) != 2 || !got.Unknown {
					t.Errorf("without the carry, from the torn record on: %+v", got)
				}
			}
		})
	}
}

func TestSwitch(t *testing.T) {
	b := build(15)
	b.Noise(100)
	b.Switch()
	whole := b.End()
	b.Noise(10)
	got := mustScan(t, b.Config, b.Bytes[:testSegment])
	if got.End != whole || got.Carry != nil || len(got.Records) != 2 {
		t.Errorf("the switched segment: %+v", got)
	}
	if diff := cmp.Diff(b.Records, mustScan(t, b.Config, b.Bytes).Records); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestSwitchAtBorders puts the XLOG_SWITCH record at the end of a segment and
// across it, where the next whole segment is zeros.
func TestSwitchAtBorders(t *testing.T) {
	for _, left := range []int{24, 16, 8} {
		b := build(15)
		for range 3 {
			b.FillPage(24)
			b.Add(walgen.RmgrHeap, 0, 0, nil)
		}
		b.FillPage(left)
		b.Switch()
		b.Noise(10)
		if diff := cmp.Diff(b.Records, mustScan(t, b.Config, b.Bytes).Records); diff != "" {
			t.Errorf("with %d bytes left (-want +got):\n%s", left, diff)
		}
	}
}

func TestResetwalBeginsChain(t *testing.T) {
	b := build(15)
	b.Noise(100)
	b.Switch()
	b.Last = 0
	b.Noise(10)
	if diff := cmp.Diff(b.Records, mustScan(t, b.Config, b.Bytes).Records); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	b.Last = 0
	at := b.Noise(10)
	wantEnd(t, b.Config, b.Bytes, at.LSN, false, "record follows one at 0/0")

	b = build(15)
	b.Last = testStart + 40 // itself
	at = b.Noise(10)
	wantEnd(t, b.Config, b.Bytes, at.LSN, false, "record follows one at 0/5000028")
}

func TestTimelineFork(t *testing.T) {
	b := build(15)
	b.FillPage(24)
	b.Add(walgen.RmgrHeap, 0, 0, nil)
	b.Config.Timeline = 3 // the file's, and that of the pages from here on
	b.FillPage(24)
	b.Add(walgen.RmgrHeap, 0, 0, nil)
	b.Noise(10)
	if diff := cmp.Diff(b.Records, mustScan(t, b.Config, b.Bytes).Records); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	two := b.Config
	two.Timeline = 2
	wantEnd(t, two, b.Bytes, testStart+8192, false, "page is of timeline 3, the file of 2")
	back := append([]byte(nil), b.Bytes...)
	back[2*8192+4] = 2
	wantEnd(t, b.Config, back, testStart+2*8192, false, "page is of timeline 2, the page before of 3")
}

func TestZeros(t *testing.T) {
	b := build(15)
	wantEnd(t, b.Config, make([]byte, 8192), testStart, true, "zeros")
	b.Noise(100)
	end := b.End()
	wantEnd(t, b.Config, append(b.Bytes, make([]byte, 100)...), end, true, "zeros")
	b.FillPage(8)
	wantEnd(t, b.Config, append(b.Bytes, make([]byte, 8)...), testStart+8192-8, true, "zeros")
	b = build(15)
	b.FillPage(0)
	wantEnd(t, b.Config, append(b.Bytes, make([]byte, 24)...), testStart+8192, true, "zeros")
	half := b.Part(walgen.RmgrHeap, 0, 0, make([]byte, 9000), 8192-24)
	got := wantEnd(t, b.Config, append(b.Bytes, make([]byte, 8192)...), testStart+2*8192, true, "zeros")
	if got.End != half.LSN-24 || got.Carry != nil {
		t.Errorf("an unfinished record before zeros: %+v", got)
	}
	dirty := append(b.Bytes[:len(b.Bytes):len(b.Bytes)], make([]byte, 8192)...)
	dirty[len(b.Bytes)+23] = 1
	wantEnd(t, b.Config, dirty, testStart+2*8192, false, "page magic 0000")
}

// TestRefusals damages WAL in one place and expects the reason.
func TestRefusals(t *testing.T) {
	b := varied(15)
	one, two := b.Records[1], testStart+8192
	lastOfOne := one
	for _, w := range b.Records {
		if w.LSN < two {
			lastOfOne = w
		}
	}
	set := func(at wal.LSN, v ...byte) func([]byte) {
		return func(p []byte) { copy(p[at-testStart:], v) }
	}
	for _, c := range []struct {
		why    string
		damage func([]byte)
		at     wal.LSN
	}{
		{"page magic 1234 is none of PostgreSQL 13 to 18", set(two, 0x34, 0x12), two},
		{"page magic D118 is of PostgreSQL 18, not 15", set(two, 0x18), two},
		{"page header has unknown info bits 0011", set(two+2, 0x11), two},
		{"page header has the wrong length for its place in the segment", set(two+2, 0x03), two},
		{"page header has the wrong length for its place in the segment", set(testStart+2, 0), testStart},
		{"page is of another cluster: system identifier", set(testStart+24, 9), testStart},
		{"page is of a cluster with WAL segments of 98304 bytes, not 32768", set(testStart+34, 1), testStart},
		{"page is of a cluster with WAL blocks of 8193 bytes; only 8192 is supported", set(testStart+36, 1), testStart},
		{"page says that it belongs at 0/5002001", set(two+8, 1), two},
		{"page is of timeline 9, the file of 1", set(two+4, 9), two},
		{"page is of timeline 0, the file of 1", set(two+4, 0), two},
		{"page does not continue the record before it", set(two+2, 0), two},
		{"page continues a record by 109 bytes, not by the 108 that are missing", set(two+16, 109), two},
		{"page both continues and overwrites a record", set(two+2, 0x09), two},
		{"page continues a record that is complete", set(testStart+4*8192+2, 0x03), testStart + 4*8192},
		{"record has a length of 23 bytes", set(one.LSN, 23, 0), one.LSN},
		{"record has a length of 4294967295 bytes", set(one.LSN, 255, 255, 255, 255), one.LSN},
		{"record has a length of 7 bytes", set(lastOfOne.LSN, 7), lastOfOne.LSN},
		{"record has the resource manager 22", set(one.LSN+17, 22), one.LSN},
		{"record follows one at 0/5000029, but the one before it is at 0/5000028", set(one.LSN+8, 0x29), one.LSN},
		{"record has a wrong CRC", set(one.LSN+20, 1, 2, 3, 4), one.LSN},
		{"record has a wrong CRC", set(one.LSN+30, 0xEE), one.LSN},
	} {
		t.Run(c.why, func(t *testing.T) {
			p := append([]byte(nil), b.Bytes...)
			c.damage(p)
			wantEnd(t, b.Config, p, c.at, false, c.why)
		})
	}
}

func TestRefusedSwitchAndOverwrite(t *testing.T) {
	b := build(15)
	w := b.Switch()
	b.Bytes[testSegment-1] = 1
	got := wantEnd(t, b.Config, b.Bytes, testStart+testSegment-1, false, "there is something behind an XLOG_SWITCH")
	if got.End != testStart+testSegment-1 || len(got.Records) != 1 || got.Records[0] != w {
		t.Errorf("%+v", got)
	}

	b = build(15)
	torn := b.Tear(30000, 500)
	void := b.Mend(torn.LSN + 8)
	wantEnd(t, b.Config, b.Bytes, void.LSN, false, "record does not declare void the torn one that its page overwrites")

	b = build(15)
	b.Tear(30000, 500)
	b.Page(0)
	b.Void = 0
	other := b.Noise(10)
	wantEnd(t, b.Config, b.Bytes, other.LSN, false, "record does not declare void the torn one that its page overwrites")
}

func TestCustomResourceManager(t *testing.T) {
	b := build(15)
	b.Add(128, 0, 1, []byte("extension"))
	mustScan(t, b.Config, b.Bytes)
	b = build(14)
	w := b.Add(128, 0, 1, []byte("extension"))
	wantEnd(t, b.Config, b.Bytes, w.LSN, false, "record has the resource manager 128")
}

// wantEnd scans p and expects the given end, however p is cut.
func wantEnd(t *testing.T, cfg wal.ScanConfig, p []byte, at wal.LSN, zeros bool, why string) scanned {
	t.Helper()
	got, err := scan(cfg, p)
	var end *wal.EndError
	if !errors.As(err, &end) {
		t.Fatalf("the scan ended with %v", err)
	}
	if end.LSN != at || end.Zeros != zeros || !strings.HasPrefix(end.Reason, why) {
		t.Errorf("got %v (zeros: %v), want the end at %s: %s", end, end.Zeros, at, why)
	}
	if got.End > at {
		t.Errorf("the end %s is behind the doubt at %s", got.End, at)
	}
	s := wal.NewScanner(cfg)
	for i := range p {
		err = s.Feed(p[i : i+1])
	}
	if err == nil || err.Error() != end.Error() || s.End() != got.End {
		t.Errorf("byte by byte: %v, end %s", err, s.End())
	}
	return got
}

func TestOnRecordError(t *testing.T) {
	b := varied(15)
	stop := errors.New("enough")
	n := 0
	b.Config.OnRecord = func(*wal.Record) error {
		if n++; n == 3 {
			return stop
		}
		return nil
	}
	s := wal.NewScanner(b.Config)
	for range 2 {
		if err := s.Feed(b.Bytes); err != stop {
			t.Errorf("Feed returned %v", err)
		}
	}
	if n != 3 || s.End() != b.Records[2].End {
		t.Errorf("%d records, end %s", n, s.End())
	}
}

func TestBadConfig(t *testing.T) {
	good := varied(15)
	half := mustScan(t, good.Config, good.Bytes[:8192]).Carry
	for why, change := range map[string]func(*wal.ScanConfig){
		"not the start of a page":    func(c *wal.ScanConfig) { c.Start++ },
		"no timeline":                func(c *wal.ScanConfig) { c.Timeline = 0 },
		"100 is no wal_segment_size": func(c *wal.ScanConfig) { c.SegmentSize = 100 },
		"does not fit":               func(c *wal.ScanConfig) { c.Carry.Head = c.Carry.Head[:7] },
		"record at 0/5001FF1 does":   func(c *wal.ScanConfig) { c.Carry.Start++ },
		"at 0/5001FF8 does not": func(c *wal.ScanConfig) {
			*c.Carry = wal.Carry{Start: c.Start - 8, Total: 100, Have: 4, Head: []byte{100, 0, 0, 0}}
		},
		"at 0/5001FE0 does not": func(c *wal.ScanConfig) { // a resource manager that there is none of
			*c.Carry = wal.Carry{Start: c.Start - 32, Total: 100, Have: 32, Head: append([]byte{100}, make([]byte, 23)...)}
			c.Carry.Head[17] = 99
		},
		"at 0/5001FF0 does not": func(c *wal.ScanConfig) { c.Carry.Total++ },
	} {
		cfg := good.Config
		cfg.Start += 8192
		carry := *half
		cfg.Carry = &carry
		change(&cfg)
		if err := wal.NewScanner(cfg).Feed(good.Bytes[8192:]); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("want %q, got %v", why, err)
		}
	}
}
