package backup

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/testkit/memstore"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

var testIdentity = segment.Identity{SystemIdentifier: 7, MajorVersion: 15, SegmentSize: 1 << 20}

func memArchive(t *testing.T) *archive.Archive {
	t.Helper()
	a, err := archive.Pin(t.Context(), memstore.New(), testIdentity)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func testCommit(id string, tli wal.Timeline, stop wal.LSN) *Commit {
	return &Commit{
		FormatVersion: 1, ID: id, Identity: testIdentity, StartTimeline: tli, StartLSN: stop - 16, Timeline: tli, StopLSN: stop,
		Started: time.Date(2026, 11, 22, 1, 0, 3, 0, time.UTC), Finished: time.Date(2026, 11, 22, 1, 8, 3, 0, time.UTC),
		Parts: []Part{{Name: PartName(id, 1)}, {Name: PartName(id, 2), Control: true}},
	}
}

func put(t *testing.T, a *archive.Archive, c *Commit) {
	t.Helper()
	if err := putCommit(t.Context(), a.Store(), c); err != nil {
		t.Fatal(err)
	}
}

func TestListAndLoad(t *testing.T) {
	a := memArchive(t)
	first := testCommit("20261122T010003Z", 1, 0x2_00000020)
	second := testCommit("20261121T010003Z", 1, 0x10_00000020) // more WAL, although its clock was behind
	third := testCommit("20261123T010003Z", 10, 0x30)
	for _, c := range []*Commit{third, second, first} {
		put(t, a, c)
	}
	var got []*Commit
	for c, err := range List(t.Context(), a) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, c)
	}
	if diff := cmp.Diff([]*Commit{first, second, third}, got); diff != "" {
		t.Errorf("listed (-want +got):\n%s", diff)
	}
	for c, err := range Names(t.Context(), a) {
		if i := slices.IndexFunc(got, func(g *Commit) bool { return g.ID == c.ID }); err != nil || i < 0 || c.StartLSN != 0 ||
			c.Timeline != got[i].Timeline || c.StopLSN != got[i].StopLSN || c.ID != c.Started.Format(idLayout) {
			t.Errorf("by its name: %+v, %v", c, err)
		}
	}
	c, err := Load(t.Context(), a, second.ID)
	if diff := cmp.Diff(second, c); err != nil || diff != "" {
		t.Errorf("loaded: %v\n%s", err, diff)
	}
	if _, err := Load(t.Context(), a, "20261121T010004Z"); !errors.Is(err, archive.ErrNotExist) {
		t.Errorf("load of none: %v", err)
	}
	for _, id := range []string{"", "003Z", "0000000000000030-" + third.ID} {
		if _, err := Load(t.Context(), a, id); !errors.Is(err, archive.ErrNotExist) {
			t.Errorf("load of %q: %v", id, err)
		}
	}
}

// A backup that cannot be used is reported, and hides no other.
func TestListReportsUnusable(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Commit)
		want   string
	}{
		"newer format":    {func(c *Commit) { c.FormatVersion = 2 }, "format version is 2"},
		"no format":       {func(c *Commit) { c.FormatVersion = 0 }, "no commit object"},
		"no ID":           {func(c *Commit) { c.ID = "latest" }, "no commit object"},
		"foreign":         {func(c *Commit) { c.SystemIdentifier = 8 }, "another cluster"},
		"other version":   {func(c *Commit) { c.MajorVersion = 14 }, "PostgreSQL 14"},
		"start behind":    {func(c *Commit) { c.StartLSN = c.StopLSN + 1 }, "stop"},
		"start timeline":  {func(c *Commit) { c.StartTimeline = 3 }, "timeline 3"},
		"no timeline":     {func(c *Commit) { c.StartTimeline = 0 }, "timeline 0"},
		"no parts":        {func(c *Commit) { c.Parts = nil }, "no parts"},
		"foreign part":    {func(c *Commit) { c.Parts[0].Name = "../x" }, "part 1 of 2"},
		"control first":   {func(c *Commit) { c.Parts[0].Control = true }, "part 1 of 2"},
		"without control": {func(c *Commit) { c.Parts[1].Control = false }, "part 2 of 2"},
	} {
		a := memArchive(t)
		bad, good := testCommit("20261122T010003Z", 2, 0x20), testCommit("20261123T010003Z", 2, 0x30)
		c.change(bad)
		put(t, a, bad)
		put(t, a, good)
		checkUnusable(t, a, name, bad.CommitName(), c.want, good.ID)
	}
	for name, c := range map[string]struct{ object, body, want string }{
		"not JSON":   {"backups/00000001-0000000000000020-20261122T010003Z.json", "{", "unexpected end"},
		"other name": {"backups/00000001-0000000000000021-20261122T010003Z.json", "", "by its contents"},
		"stray":      {"backups/README", "hello", "no commit object"},
	} {
		a := memArchive(t)
		body := []byte(c.body)
		if c.body == "" {
			body = commitJSON(t, a, testCommit("20261122T010003Z", 1, 0x20))
		}
		if err := a.Store().Put(t.Context(), c.object, bytes.NewReader(body)); err != nil {
			t.Fatal(err)
		}
		good := testCommit("20261123T010003Z", 2, 0x30)
		put(t, a, good)
		checkUnusable(t, a, name, c.object, c.want, good.ID)
	}
}

// commitJSON is the object that c would be stored as.
func commitJSON(t *testing.T, a *archive.Archive, c *Commit) []byte {
	t.Helper()
	put(t, a, c)
	body, err := archive.ReadAll(t.Context(), a.Store(), c.CommitName(), -1)
	if err == nil {
		err = a.Store().Delete(t.Context(), c.CommitName())
	}
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func checkUnusable(t *testing.T, a *archive.Archive, name, object, want, good string) {
	t.Helper()
	var reported, listed int
	for c, err := range List(t.Context(), a) {
		var unusable *UnusableError
		switch {
		case errors.As(err, &unusable):
			reported++
			if unusable.Object != object || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: reported %v, want %s and %q in it", name, err, object, want)
			}
		case err != nil || c.ID != good:
			t.Errorf("%s: listed %v, %v", name, c, err)
		default:
			listed++
		}
	}
	if reported != 1 || listed != 1 {
		t.Errorf("%s: %d reported, %d listed", name, reported, listed)
	}
}

// A listing that fails is no short list.
func TestListEndsInError(t *testing.T) {
	a := memArchive(t)
	put(t, a, testCommit("20261122T010003Z", 1, 0x20))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n := 0
	for _, err := range List(ctx, a) {
		n++
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	}
	if n != 1 {
		t.Errorf("%d results, want one error", n)
	}
	if _, err := Load(ctx, a, "20261122T010003Z"); !errors.Is(err, context.Canceled) {
		t.Errorf("load: %v", err)
	}
}

func TestLoadManifestVerifies(t *testing.T) {
	a := memArchive(t)
	body := seal(manifestV2)
	c := testCommit("20261122T010003Z", 2, 0xA00000138)
	c.StartTimeline, c.StartLSN = 1, 0x900000028
	if err := a.Store().Put(t.Context(), ManifestName(c.ID), bytes.NewReader(body)); err != nil {
		t.Fatal(err)
	}
	var corrupt *archive.CorruptError
	if _, err := LoadManifest(t.Context(), a, c); !errors.As(err, &corrupt) {
		t.Errorf("other digest: %v", err)
	}
	c.ManifestSHA256 = sha256Hex(body)
	if m, err := LoadManifest(t.Context(), a, c); err != nil || len(m.Files) != 2 {
		t.Errorf("%+v, %v", m, err)
	}
	c.StartLSN++
	if _, err := LoadManifest(t.Context(), a, c); err == nil || !strings.Contains(err.Error(), "WAL ranges begin") {
		t.Errorf("other start: %v", err)
	}
	c.ID = "20261122T010004Z"
	if _, err := LoadManifest(t.Context(), a, c); !errors.Is(err, archive.ErrNotExist) {
		t.Errorf("no manifest: %v", err)
	}
}

// A commit object that was cut or in which a bit has changed is not used.
func TestDamagedCommit(t *testing.T) {
	a := memArchive(t)
	c := testCommit("20261122T010003Z", 1, 0x20)
	body := commitJSON(t, a, c)
	check := func(damaged []byte) {
		t.Helper()
		if err := a.Store().Put(t.Context(), c.CommitName(), bytes.NewReader(damaged)); err != nil {
			t.Fatal(err)
		}
		got, err := Load(t.Context(), a, c.ID)
		if err == nil && !cmp.Equal(c, got) {
			t.Errorf("%s is taken for a backup", damaged)
		}
		if err := a.Store().Delete(t.Context(), c.CommitName()); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 8 * len(body) {
		flipped := bytes.Clone(body)
		flipped[i/8] ^= 1 << (i % 8)
		check(flipped)
	}
	for n := range body {
		check(body[:n])
	}
}
