package backup

import (
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/segment"
)

func TestManifestCheck(t *testing.T) {
	sum := fileSum{7, "CRC32C", []byte{1, 2, 3, 4}}
	file := func(path string) ManifestFile {
		return ManifestFile{Path: path, Size: 7, Algorithm: "CRC32C", Checksum: sum.sum}
	}
	sent := map[string]fileSum{"a": sum, "global/pg_control": sum}
	for name, c := range map[string]struct {
		change func(m *Manifest, c *Commit, sent map[string]fileSum)
		want   string // in the error, "" for none
	}{
		"equal":         {func(*Manifest, *Commit, map[string]fileSum) {}, ""},
		"checksum":      {func(_ *Manifest, _ *Commit, s map[string]fileSum) { s["a"] = fileSum{7, "CRC32C", []byte{1, 2, 3, 5}} }, `file "a" came with checksum 01020305`},
		"size":          {func(_ *Manifest, _ *Commit, s map[string]fileSum) { s["a"] = fileSum{8, "CRC32C", sum.sum} }, `file "a" came with 8 bytes`},
		"missing":       {func(_ *Manifest, _ *Commit, s map[string]fileSum) { delete(s, "a") }, `file "a" is in backup_manifest but was not sent`},
		"extra":         {func(_ *Manifest, _ *Commit, s map[string]fileSum) { s["b"] = fileSum{} }, `file "b" was sent but is not in`},
		"other name":    {func(_ *Manifest, _ *Commit, s map[string]fileSum) { s["b"] = s["a"]; delete(s, "a") }, `file "a" is in`},
		"algorithm":     {func(m *Manifest, _ *Commit, _ map[string]fileSum) { m.Files[0].Algorithm = "SHA256" }, `algorithm "SHA256"`},
		"no checksum":   {func(m *Manifest, _ *Commit, _ map[string]fileSum) { m.Files[0].Algorithm = "" }, `algorithm ""`},
		"other cluster": {func(m *Manifest, _ *Commit, _ map[string]fileSum) { m.SystemIdentifier = 6 }, "system identifier 6"},
		"no control":    {func(_ *Manifest, c *Commit, _ map[string]fileSum) { c.Parts[1].Control = false }, "pg_control was not sent"},
		"no parts":      {func(_ *Manifest, c *Commit, _ map[string]fileSum) { c.Parts = nil }, "pg_control was not sent"},
		"WAL":           {func(_ *Manifest, c *Commit, _ map[string]fileSum) { c.StopLSN++ }, "does not lead to"},
	} {
		m := &Manifest{
			Version: 2, SystemIdentifier: 5, Files: []ManifestFile{file("a"), file("global/pg_control")},
			WALRanges: []WALRange{{1, 10, 20}},
		}
		commit := &Commit{
			Identity: segment.Identity{SystemIdentifier: 5}, StartTimeline: 1, StartLSN: 10, Timeline: 1, StopLSN: 20,
			Parts: []Part{{}, {Control: true}},
		}
		files := maps.Clone(sent)
		c.change(m, commit, files)
		err := m.check(files, commit)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
}

func TestCheckWAL(t *testing.T) {
	for _, c := range []struct {
		ranges []WALRange
		ok     bool
	}{
		{[]WALRange{{3, 200, 300}, {2, 100, 200}, {1, 10, 100}}, true},
		{[]WALRange{{3, 200, 300}, {1, 10, 200}}, true},
		{nil, false},
		{[]WALRange{{3, 200, 300}, {2, 100, 200}}, false},
		{[]WALRange{{3, 200, 300}, {1, 10, 199}}, false},
		{[]WALRange{{3, 200, 301}, {1, 10, 200}}, false},
		{[]WALRange{{2, 200, 300}, {1, 10, 200}}, false},
		{[]WALRange{{3, 200, 300}, {3, 10, 200}}, false},
		{[]WALRange{{3, 200, 300}, {4, 100, 200}, {1, 10, 100}}, false},
		{[]WALRange{{3, 200, 300}, {1, 11, 200}}, false},
		{[]WALRange{{3, 200, 300}, {2, 10, 200}}, false},
	} {
		m := &Manifest{WALRanges: c.ranges}
		err := m.checkWAL(&Commit{StartTimeline: 1, StartLSN: 10, Timeline: 3, StopLSN: 300})
		if (err == nil) != c.ok {
			t.Errorf("%v: %v", c.ranges, err)
		}
	}
}

func TestNeededSegments(t *testing.T) {
	const mb = 1 << 20
	for name, c := range map[string]struct {
		ranges []WALRange
		want   []archive.Range
	}{
		"one segment":            {[]WALRange{{1, 5*mb + 40, 5*mb + 80}}, []archive.Range{{Timeline: 1, First: 5, Last: 5}}},
		"stop on a boundary":     {[]WALRange{{1, 5*mb + 40, 7 * mb}}, []archive.Range{{Timeline: 1, First: 5, Last: 6}}},
		"stop behind a boundary": {[]WALRange{{1, 5 * mb, 7*mb + 1}}, []archive.Range{{Timeline: 1, First: 5, Last: 7}}},
		"fork inside a segment": {
			[]WALRange{{2, 7*mb + 9, 8*mb + 1}, {1, 5*mb + 40, 7*mb + 9}},
			[]archive.Range{{Timeline: 1, First: 5, Last: 6}, {Timeline: 2, First: 7, Last: 8}},
		},
		"fork on a boundary": {
			[]WALRange{{2, 7 * mb, 8 * mb}, {1, 5*mb + 40, 7 * mb}},
			[]archive.Range{{Timeline: 1, First: 5, Last: 6}, {Timeline: 2, First: 7, Last: 7}},
		},
		"fork in the first segment": {
			[]WALRange{{2, 5*mb + 90, 5*mb + 99}, {1, 5*mb + 40, 5*mb + 90}},
			[]archive.Range{{Timeline: 2, First: 5, Last: 5}},
		},
	} {
		m := &Manifest{WALRanges: c.ranges}
		if diff := cmp.Diff(c.want, m.segments(mb)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
