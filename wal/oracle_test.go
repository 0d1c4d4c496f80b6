package wal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/wal"
)

const oracleSegment = 1 << 20

// segments are a timeline's files from the first on, as far as they are
// contiguous.
func segments(t *testing.T, c *testkit.Cluster, tli wal.Timeline) (start wal.LSN, files [][]byte) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(c.DataDir, "pg_wal", tli.Hex()+"????????????????"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no WAL of timeline %s: %v", tli, err)
	}
	sort.Strings(names)
	for i, name := range names {
		no, err := strconv.ParseUint(filepath.Base(name)[16:], 16, 32)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			start = wal.LSN(no * oracleSegment)
		}
		if wal.LSN(no*oracleSegment) != start+wal.LSN(i*oracleSegment) {
			break
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, b)
	}
	return start, files
}

// stretch is one timeline's WAL with what pg_waldump says of it.
type stretch struct {
	cfg   wal.ScanConfig
	files [][]byte
	want  []seen
}

func (s *stretch) config(at int, carry *wal.Carry, on func(*wal.Record) error) wal.ScanConfig {
	cfg := s.cfg
	cfg.Start += wal.LSN(at * oracleSegment)
	cfg.Carry, cfg.OnRecord = carry, on
	return cfg
}

// TestAgainstWaldump reads WAL of a real server in every way and compares
// record for record with pg_waldump.
func TestAgainstWaldump(t *testing.T) {
	c := testkit.Start(t, testkit.Config{SegmentSizeMB: 1, Settings: []string{
		"wal_level = logical", "wal_keep_size = 4GB", "max_wal_size = 4GB", "autovacuum = off",
		"max_locks_per_transaction = 256", "synchronous_commit = off",
	}})
	workload(t, c)
	torn := tearRecord(t, c)
	c.Psql(t, "CREATE TABLE last_of_one (i int)")
	c.Stop(syscall.SIGINT)
	one := load(t, c, 1)
	for _, kind := range []string{"CHECKPOINT_ONLINE", "CHECKPOINT_SHUTDOWN", "SWITCH", "BACKUP_END", "PARAMETER_CHANGE", "CREATE "} {
		one.mustHave(t, kind)
	}
	if !one.voids(torn) {
		t.Errorf("weak test: no OVERWRITE_CONTRECORD behind %s", torn)
	}
	promote(t, c)
	c.Psql(t, "CREATE TABLE first_of_two AS SELECT generate_series(1, 20000) i")
	c.Stop(syscall.SIGINT)
	two := load(t, c, 2)
	two.mustHave(t, "END_OF_RECOVERY")
	for name, s := range map[string]*stretch{"timeline 1": one, "timeline 2": two} {
		t.Run(name+" in random portions", func(t *testing.T) { scanPortions(t, s) })
		t.Run(name+" segment by segment", func(t *testing.T) { scanSegments(t, s) })
		t.Run(name+" summaries", func(t *testing.T) { summaries(t, s) })
		t.Run(name+" valid end", func(t *testing.T) { validEnds(t, s) })
	}
}

// mustHave keeps the comparison from becoming empty: a record of that kind was
// written.
func (s *stretch) mustHave(t *testing.T, kind string) {
	t.Helper()
	for _, w := range s.want {
		if strings.HasPrefix(w.Detail, kind) {
			return
		}
	}
	t.Errorf("weak test: pg_waldump shows no %s", kind)
}

// voids says whether it is a record that stands for a torn one: of its kind and
// length there is only one that the package decodes, with a detail.
func (w *seen) voids() bool { return w.Rmgr == "XLOG" && w.Len == 42 && w.Detail == "" }

// voids says whether a record jumps back over the one before it, as only the
// one does that stands for a torn record behind lsn.
func (s *stretch) voids(lsn wal.LSN) bool {
	for _, w := range s.want {
		if w.voids() && w.LSN > lsn && w.Prev <= lsn {
			return true
		}
	}
	return false
}

func load(t *testing.T, c *testkit.Cluster, tli wal.Timeline) *stretch {
	t.Helper()
	out := testkit.Run(t, filepath.Join(c.Bin, "pg_controldata"), "-D", c.DataDir)
	m := regexp.MustCompile(`Database system identifier: +(\d+)`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no system identifier in:\n%s", out)
	}
	id, err := strconv.ParseUint(m[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	s := &stretch{}
	start, files := segments(t, c, tli)
	s.cfg = wal.ScanConfig{Start: start, Timeline: tli, SystemIdentifier: id, SegmentSize: oracleSegment, Major: 15}
	s.files = files
	s.want = dump(t, c, tli, start)
	t.Logf("timeline %s: %d segments from %s, %d records", tli, len(files), start, len(s.want))
	return s
}

func scanPortions(t *testing.T, s *stretch) {
	for seed := range uint64(2) {
		rng := rand.New(rand.NewPCG(seed, 0))
		var got []seen
		var ends []wal.LSN
		scan := wal.NewScanner(s.config(0, nil, func(r *wal.Record) error {
			got = append(got, seenRecord(r))
			ends = append(ends, r.End)
			return nil
		}))
		var err error
		for _, file := range s.files {
			for len(file) > 0 && err == nil {
				n := min(len(file), 1+rng.IntN([]int{20, 300, 9000, 400000}[rng.IntN(4)]))
				err = scan.Feed(file[:n])
				file = file[n:]
			}
		}
		if !errors.As(err, new(*wal.EndError)) {
			t.Errorf("the scan ended with %v", err)
		}
		compare(t, s.want, got)
		for i := range ends[:len(ends)-1] {
			// Behind the record there may be a page header, or zeros.
			if next := got[i+1].LSN; ends[i] > next || next-ends[i] > 40 && next%oracleSegment != 40 && !got[i+1].voids() {
				t.Errorf("record at %s ends at %s, the next begins at %s", got[i].LSN, ends[i], next)
			}
		}
		if scan.End() != ends[len(ends)-1] {
			t.Errorf("scan ends at %s, its last record at %s", scan.End(), ends[len(ends)-1])
		}
	}
}

func compare(t *testing.T, want, got []seen) {
	t.Helper()
	if len(got) == 0 {
		t.Fatal("no record was found")
	}
	for i := range min(len(want), len(got)) {
		if want[i] != got[i] {
			t.Fatalf("record %d (-pg_waldump +scanner):\n%s", i, cmp.Diff(want[i], got[i]))
		}
	}
	if len(want) != len(got) {
		t.Fatalf("pg_waldump sees %d records, the scanner %d", len(want), len(got))
	}
}

func scanSegments(t *testing.T, s *stretch) {
	var got []seen
	var points wal.Points
	var carry *wal.Carry
	carried := 0
	for i, file := range s.files {
		on := func(r *wal.Record) error {
			got = append(got, seenRecord(r))
			points.Add(r)
			return nil
		}
		scan := wal.NewScanner(s.config(i, carry, on))
		if err := scan.FeedAll(bytes.NewReader(file)); err != nil {
			break
		}
		if carry = stored(t, scan.Carry()); carry != nil {
			carried++
		}
	}
	compare(t, s.want, got)
	i := 0
	for _, w := range s.want {
		if w.Finish == "" {
			continue
		}
		if f := points.Finishes[i]; f.LSN != w.LSN || finishText(f.Abort, f.XID, f.Time) != w.Finish {
			t.Fatalf("finish %d is %+v, not that of %+v", i, f, w)
		}
		i++
	}
	if i != len(points.Finishes) {
		t.Errorf("%d finishes, want %d", len(points.Finishes), i)
	}
	if s.cfg.Timeline == 1 && (carried < 10 || len(points.RestorePoints) < 2) {
		t.Errorf("weak test: %d carries, %d restore points", carried, len(points.RestorePoints))
	}
}

// stored sends a carry through JSON, as an archive does.
func stored(t *testing.T, c *wal.Carry) *wal.Carry {
	t.Helper()
	if c == nil {
		return nil
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 600 {
		t.Errorf("a carry takes %d bytes", len(b))
	}
	back := new(wal.Carry)
	if err := json.Unmarshal(b, back); err != nil {
		t.Fatal(err)
	}
	return back
}

func summaries(t *testing.T, s *stretch) {
	var carry *wal.Carry
	var prev wal.LSN
	var total wal.Summary
	for i, file := range s.files {
		cfg := s.config(i, carry, nil)
		cfg.Prev = prev
		z := wal.NewSummarizer(cfg)
		_, _ = z.Write(file) // Finish returns the same error
		sum, next, err := z.Finish()
		want := expectSummary(s, i, sum.ValidEnd)
		got := sum
		got.First, got.Last = nil, nil // of their making the unit tests speak
		for j := range got.RestorePoints {
			got.RestorePoints[j].End, got.RestorePoints[j].Time = 0, time.Time{}
		}
		for j := range got.Settings {
			got.Settings[j] = wal.ParameterChange{LSN: got.Settings[j].LSN}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("segment %d (-pg_waldump +summary):\n%s", i, diff)
		}
		total.Records += sum.Records
		if err != nil {
			break
		}
		carry, prev = next, sum.LastRecord
	}
	if total.Records != int64(len(s.want)) {
		t.Errorf("the summaries count %d records, pg_waldump %d", total.Records, len(s.want))
	}
}

// expectSummary makes a segment's summary from pg_waldump's records. Which
// record ends where follows from the start of the next; ValidEnd, which
// pg_waldump does not tell, is taken over and checked for plausibility only.
func expectSummary(s *stretch, seg int, validEnd wal.LSN) wal.Summary {
	from := s.cfg.Start + wal.LSN(seg*oracleSegment)
	to := from + oracleSegment
	sum := wal.Summary{UnknownCarry: seg == 0 && s.want[0].LSN%8192 != 40}
	for i, w := range s.want {
		// The last record of all, and the one before a torn one, end in the
		// segment they begin in.
		end := w.LSN + 1
		if i+1 < len(s.want) && !s.want[i+1].voids() {
			end = s.want[i+1].LSN
		}
		// A record that begins directly behind a long page header says that
		// the one before ended in the segment before.
		if end%oracleSegment == 40 {
			end -= 40
		}
		if w.LSN >= from && w.LSN < to && sum.FirstRecord == 0 {
			sum.FirstRecord = w.LSN
		}
		if end <= from || end > to {
			continue
		}
		sum.Records++
		sum.LastRecord, sum.ValidEnd = w.LSN, validEnd
		sum.Switch = w.Detail == "SWITCH"
		if w.Point != "" {
			sum.RestorePoints = append(sum.RestorePoints, wal.RestorePoint{LSN: w.LSN, Name: w.Point})
		}
		if w.Rmgr == "Tablespace" && w.Detail != "" {
			made := wal.Tablespace{LSN: w.LSN}
			if _, err := fmt.Sscanf(w.Detail, "CREATE %d %q", &made.OID, &made.Path); err != nil {
				panic(err) // the pattern admits nothing else
			}
			sum.Tablespaces = append(sum.Tablespaces, made)
		}
		if strings.HasPrefix(w.Detail, "PARAMETER_CHANGE") {
			sum.Settings = append(sum.Settings, wal.ParameterChange{LSN: w.LSN}) // its values are compared with the record
		}
		if w.Finish != "" {
			words := strings.SplitN(w.Finish, " ", 3)
			at, _ := time.Parse(dumpTime, words[2])
			if strings.HasPrefix(w.Finish, "abort") {
				sum.Aborts++
			} else {
				sum.Commits++
			}
			if id, _ := strconv.ParseUint(words[1], 10, 32); id != 0 { // far from where they begin anew
				if sum.MinXID == 0 {
					sum.MinXID = uint32(id)
				}
				sum.MinXID = min(uint32(id), sum.MinXID)
				sum.MaxXID = max(uint32(id), sum.MaxXID)
			}
			if sum.MinTime.IsZero() || at.Before(sum.MinTime) {
				sum.MinTime = at
			}
			if at.After(sum.MaxTime) {
				sum.MaxTime = at
			}
		}
	}
	return sum
}

func validEnds(t *testing.T, s *stretch) {
	i := len(s.files) / 2
	for limit := int64(0); limit <= oracleSegment; limit += 99_991 {
		end, _, err := wal.ValidEnd(strings.NewReader(string(s.files[i])), s.config(i, nil, nil), limit)
		if err != nil {
			t.Fatal(err)
		}
		start := s.cfg.Start + wal.LSN(i*oracleSegment)
		if end < start || end > start+wal.LSN(limit) {
			t.Errorf("valid end of %d bytes from %s is %s", limit, start, end)
		}
	}
	_, _, err := wal.ValidEnd(failingReader{}, s.config(i, nil, nil), oracleSegment)
	if err == nil || !strings.Contains(err.Error(), io.ErrNoProgress.Error()) {
		t.Errorf("a failing read gives %v", err)
	}
}

type failingReader struct{}

func (failingReader) ReadAt([]byte, int64) (int, error) { return 0, io.ErrNoProgress }
