package recovery

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/internal/testkit/memstore"
	"github.com/walstream/walstream/internal/testkit/walgen"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// putBackup stores a backup that lies in one segment.
func putBackup(t *testing.T, a *archive.Archive, id string, tli wal.Timeline, start wal.LSN, finished time.Time) {
	t.Helper()
	sum := func(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }
	put := func(name string, body []byte) {
		if err := a.Store().Put(t.Context(), name, bytes.NewReader(body)); err != nil {
			t.Fatal(err)
		}
	}
	c := backup.Commit{FormatVersion: 1, ID: id, Identity: testCluster, Timeline: tli, StartTimeline: tli, StartLSN: start, StopLSN: start + 0x100, Finished: finished}
	manifest := fmt.Sprintf("{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n],\n\"WAL-Ranges\": [\n{ \"Timeline\": %s, \"Start-LSN\": \"%s\", \"End-LSN\": \"%s\" }\n],\n", tli, c.StartLSN, c.StopLSN)
	manifest += "\"Manifest-Checksum\": \"" + sum([]byte(manifest)) + "\"}\n"
	c.ManifestSHA256 = sum([]byte(manifest))
	for i := range 2 {
		body := []byte(fmt.Sprintf("part %d of %s", i+1, id))
		c.Parts = append(c.Parts, backup.Part{Name: backup.PartName(id, i+1), StoredSize: int64(len(body)), SHA256: sum(body), Control: i == 1})
		put(c.Parts[i].Name, body)
		c.StoredBytes += int64(len(body))
	}
	put(backup.ManifestName(id), []byte(manifest))
	body, _ := json.Marshal(c)
	put(c.CommitName(), body)
}

const (
	older = "20261122T080000Z"
	newer = "20261122T090000Z"
)

// newVerified is an archive in which nothing is wrong: a backup in segment 1 of
// timeline 1 and one in segment 4, WAL to the middle of segment 6, where timeline
// 2 forks off, and of that up to a tail in segment 8.
func newVerified(t *testing.T) *archive.Archive {
	t.Helper()
	a, err := archive.Pin(t.Context(), memstore.New(), testCluster)
	if err != nil {
		t.Fatal(err)
	}
	w := walgen.New(testCluster.ScanConfig(segment.ID{Timeline: 1, No: 1}), 1)
	w.Fill(0x680000)
	put := func(w *walgen.WAL, no uint64) {
		id := segment.ID{Timeline: w.Config.Timeline, No: no}
		to := min(w.End(), id.End(testSize))
		store(t, a, id, w.At(id.Start(testSize), to), int64(to-id.Start(testSize)))
	}
	for no := uint64(1); no <= 6; no++ {
		put(w, no)
	}
	h := segment.History{Timeline: 2, Ancestors: []segment.Switch{{Timeline: 1, End: w.End(), Reason: "no recovery target specified"}}}
	if err := a.PutHistory(t.Context(), 2, h.Format()); err != nil {
		t.Fatal(err)
	}
	f := w.Fork(2)
	f.Fill(0x880000)
	for no := uint64(6); no <= 8; no++ {
		put(f, no)
	}
	putBackup(t, a, older, 1, w.Records[0].LSN, clock("08:01"))
	putBackup(t, a, newer, 1, 0x400028, clock("09:30"))
	return a
}

func verified(t *testing.T, a *archive.Archive, cfg VerifyConfig) *Verification {
	t.Helper()
	cfg.Archive, cfg.Progress = a, func(int64, int64) {}
	v, err := Verify(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

var anyEnd = regexp.MustCompile(`-[0-9A-F]{8}\.zst`)

// short is findings in a line each.
func short(list []Finding) (lines []string) {
	for _, f := range list {
		problem, _, _ := strings.Cut(f.Problem, ":")
		problem = anyEnd.ReplaceAllString(problem, "-XXX.zst")
		line := fmt.Sprintf("%s: %s", f.Object, problem)
		if f.Backup != "" {
			line += " | no backup " + f.Backup
		}
		if strings.HasPrefix(f.Object, "segment") {
			line += fmt.Sprintf(" | timeline %s, since a commit %v, to %s", f.Timeline, !f.From.IsZero(), f.Behind)
		}
		lines = append(lines, line)
	}
	return lines
}

func verifiedWAL(tli wal.Timeline, no uint64) string {
	return archive.SegmentName(segment.ID{Timeline: tli, No: no}, testSize)
}

// Whatever is missing or damaged is found, with what it costs.
func TestVerify(t *testing.T) {
	remove := func(names ...string) func(*testing.T, *archive.Archive) {
		return func(t *testing.T, a *archive.Archive) {
			for _, name := range names {
				if _, err := a.Store().Stat(t.Context(), name); err != nil {
					t.Fatal(err)
				}
				if err := a.Store().Delete(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	damage := func(name string) func(*testing.T, *archive.Archive) {
		return func(t *testing.T, a *archive.Archive) { flip(t, a.Store(), name) }
	}
	commit := func(id string) string {
		return fmt.Sprintf("backups/00000001-%s-%s.json", archive.LSNHex(0x400128), id)
	}
	for _, tc := range []struct {
		name string
		do   func(*testing.T, *archive.Archive)
		want []string
		gaps []string
	}{
		{"nothing", remove(), nil, nil},
		{"hole before a backup", remove(verifiedWAL(1, 2), verifiedWAL(1, 3)),
			[]string{"segments 000000010000000000000002 .. 000000010000000000000003: 2 are missing | timeline 1, since a commit true, to " + newer}, nil},
		{"hole behind the backups", remove(verifiedWAL(1, 5)),
			[]string{"segment 000000010000000000000005: is missing | timeline 1, since a commit true, to "}, nil},
		{"recorded gap", func(t *testing.T, a *archive.Archive) {
			remove(verifiedWAL(1, 2))(t, a)
			if err := a.PutGap(t.Context(), archive.Gap{Timeline: 1, From: 0x200000, To: 0x300000}); err != nil {
				t.Fatal(err)
			}
		}, nil, []string{"segment 000000010000000000000002: is missing, recorded as a gap | timeline 1, since a commit true, to " + newer}},
		{"open gap", func(t *testing.T, a *archive.Archive) {
			remove(verifiedWAL(1, 5))(t, a)
			if err := a.PutGap(t.Context(), archive.Gap{Timeline: 1, From: 0x500000, To: 0x600000}); err != nil {
				t.Fatal(err)
			}
		}, []string{"segment 000000010000000000000005: is missing, recorded as a gap | timeline 1, since a commit true, to "}, nil},
		{"WAL of a backup", remove(verifiedWAL(1, 4)), []string{
			"backup " + newer + ": WAL segment 000000010000000000000004, which it needs, is missing | no backup " + newer,
			"segment 000000010000000000000004: is missing | timeline 1, since a commit true, to "}, nil},
		{"fork segment", remove(verifiedWAL(2, 6)),
			[]string{"segment 000000020000000000000006: is missing | timeline 2, since a commit true, to "}, nil},
		{"history", remove(archive.HistoryName(2)), []string{"timeline 2: wal/00000002.history is missing"}, nil},
		{"damaged history", func(t *testing.T, a *archive.Archive) {
			remove(archive.HistoryName(2))(t, a)
			if err := a.Store().Put(t.Context(), archive.HistoryName(2), strings.NewReader("what?")); err != nil {
				t.Fatal(err)
			}
		}, []string{"timeline 2: wal/00000002.history is damaged"}, nil},
		{"contents of a segment", damage(verifiedWAL(1, 3)),
			[]string{"segment 000000010000000000000003: " + verifiedWAL(1, 3) + " is damaged | timeline 1, since a commit true, to " + newer}, nil},
		{"contents of a backup's segment", damage(verifiedWAL(1, 4)), []string{
			"segment 000000010000000000000004: " + verifiedWAL(1, 4) + " is damaged | timeline 1, since a commit true, to ",
			"backup " + newer + ": segment 000000010000000000000004, which it needs, is damaged | no backup " + newer}, nil},
		{"another segment's object", func(t *testing.T, a *archive.Archive) {
			body := read(t, a, verifiedWAL(1, 3))
			remove(verifiedWAL(1, 2))(t, a)
			if err := a.Store().Put(t.Context(), verifiedWAL(1, 2), bytes.NewReader(body)); err != nil {
				t.Fatal(err)
			}
		}, []string{"segment 000000010000000000000002: " + verifiedWAL(1, 2) + " is damaged | timeline 1, since a commit true, to " + newer}, nil},
		{"tail", damage("wal/00000002/000000020000000000000008.tail/"),
			[]string{"segment 000000020000000000000008: wal/00000002/000000020000000000000008.tail/00000000-XXX.zst is damaged | timeline 2, since a commit true, to "}, nil},
		{"part", remove(backup.PartName(newer, 1)),
			[]string{"backup " + newer + ": " + backup.PartName(newer, 1) + " is missing | no backup " + newer}, nil},
		{"contents of a part", damage(backup.PartName(older, 2)),
			[]string{"backup " + older + ": " + backup.PartName(older, 2) + " is damaged | no backup " + older}, nil},
		{"manifest", remove(backup.ManifestName(older)),
			[]string{"backup " + older + ": " + backup.ManifestName(older) + " is missing | no backup " + older}, nil},
		{"contents of the manifest", damage(backup.ManifestName(older)),
			[]string{"backup " + older + ": " + backup.ManifestName(older) + " is damaged | no backup " + older}, nil},
		{"commit object", damage(commit(newer)), []string{commit(newer) + ": XXX | no backup " + commit(newer)}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := newVerified(t)
			tc.do(t, a)
			v := verified(t, a, VerifyConfig{Full: true})
			got := short(v.Problems)
			if len(got) > 0 && strings.HasPrefix(tc.name, "commit") {
				got[0] = commit(newer) + ": XXX | no backup " + commit(newer)
			}
			if diff := cmp.Diff([][]string{tc.want, tc.gaps}, [][]string{got, short(v.Gaps)}); diff != "" {
				t.Error(diff)
			}
			if v.ReadBytes == 0 || v.ReadBytes > v.StoredBytes {
				t.Errorf("read %d of %d bytes", v.ReadBytes, v.StoredBytes)
			}
		})
	}
}

func read(t *testing.T, a *archive.Archive, name string) []byte {
	t.Helper()
	r, err := a.Store().Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A look at part of it leaves out what restores to later moments, or that of one
// backup, do not need.
func TestVerifyPart(t *testing.T) {
	a := newVerified(t)
	flip(t, a.Store(), verifiedWAL(1, 2))
	flip(t, a.Store(), verifiedWAL(2, 7))
	flip(t, a.Store(), backup.PartName(older, 1))
	for _, tc := range []struct {
		cfg  VerifyConfig
		want []string
	}{
		{VerifyConfig{}, []string{"backup " + older, "segment 000000010000000000000002", "segment 000000020000000000000007"}},
		{VerifyConfig{Since: clock("08:30")}, []string{"backup " + older, "segment 000000010000000000000002", "segment 000000020000000000000007"}},
		{VerifyConfig{Since: clock("09:31")}, []string{"segment 000000020000000000000007"}},
		{VerifyConfig{Backup: older}, []string{"backup " + older}},
		{VerifyConfig{Backup: newer}, nil},
	} {
		var got []string
		for _, f := range verified(t, a, tc.cfg).Problems {
			got = append(got, f.Object)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%+v:\n%s", tc.cfg, diff)
		}
	}
	_, err := Verify(t.Context(), VerifyConfig{Archive: a, Backup: "20200101T000000Z"})
	if !errors.Is(err, archive.ErrNotExist) {
		t.Errorf("a backup that is not there: %v", err)
	}
}

// What cannot be read is neither good nor bad.
func TestVerifyUnknown(t *testing.T) {
	for _, name := range []string{"wal/00000001/000000010000000000000003", "wal/00000002.history", "backups/", "backup/" + older, "gaps/"} {
		a := newVerified(t)
		fail := func(object string) error {
			if strings.HasPrefix(object, name) {
				return errors.New("no answer")
			}
			return nil
		}
		unknown := faulty{Store: a.Store(), get: fail, list: fail}
		b, err := archive.Open(context.Background(), unknown)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(t.Context(), VerifyConfig{Archive: b, Progress: func(int64, int64) {}}); err == nil || !strings.Contains(err.Error(), "no answer") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
