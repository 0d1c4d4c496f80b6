package backup

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// seal adds the checksum line to the beginning of a manifest.
func seal(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return fmt.Appendf(nil, "%s\"Manifest-Checksum\": \"%x\"}\n", text, sum)
}

const manifestV2 = `{ "PostgreSQL-Backup-Manifest-Version": 2,
"System-Identifier": 18446744073709551615,
"Files": [
{ "Path": "backup_label", "Size": 227, "Last-Modified": "2026-11-22 01:00:04 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "a0b1c2d3" },
{ "Encoded-Path": "62617365ff20", "Size": 9007199254740993, "Last-Modified": "2026-11-22 01:00:04 GMT" }
],
"WAL-Ranges": [
{ "Timeline": 2, "Start-LSN": "A/28", "End-LSN": "A/138" },
{ "Timeline": 1, "Start-LSN": "9/28", "End-LSN": "A/28" }
],
`

func TestParseManifest(t *testing.T) {
	got, err := ParseManifest(seal(manifestV2))
	if err != nil {
		t.Fatal(err)
	}
	made := time.Date(2026, 11, 22, 1, 0, 4, 0, time.UTC)
	want := &Manifest{
		Version:          2,
		SystemIdentifier: 1<<64 - 1,
		Files: []ManifestFile{
			{Path: "backup_label", Size: 227, Modified: made, Algorithm: "CRC32C", Checksum: []byte{0xa0, 0xb1, 0xc2, 0xd3}},
			{Path: "base\xff ", Size: 9007199254740993, Modified: made},
		},
		WALRanges: []WALRange{{2, 0xA00000028, 0xA00000138}, {1, 0x900000028, 0xA00000028}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("parsed (-want +got):\n%s", diff)
	}
	v1 := strings.Replace(manifestV2, "2,\n\"System-Identifier\": 18446744073709551615", "1", 1)
	got, err = ParseManifest(seal(v1))
	if err != nil || got.Version != 1 || got.SystemIdentifier != 0 {
		t.Errorf("version 1: %+v, %v", got, err)
	}
}

func TestParseManifestRefuses(t *testing.T) {
	for _, c := range []struct{ old, new, want string }{
		{`Version": 2`, `Version": 3`, "its version is 3"},
		{`18446744073709551615`, `0`, "no system identifier"},
		{`18446744073709551615`, `18446744073709551616`, "System-Identifier"},
		{`"Path": "backup_label"`, `"Path": "../backup_label"`, "not a path inside"},
		{`"Path": "backup_label"`, `"Path": "/backup_label"`, "not a path inside"},
		{`"Path": "backup_label"`, `"Path": ""`, "not a path inside"},
		{`"Path": "backup_label"`, `"Path": "a/./b"`, "not a path inside"},
		{`"Path": "backup_label"`, `"Path": "a\u0000b"`, "not a path inside"},
		{`"Path": "backup_label"`, "\"Path\": \"a\xff\"", "not UTF-8"},
		{`"Path": "backup_label", `, ``, "not one path"},
		{`"Path": "backup_label", `, `"Path": "a", "Encoded-Path": "61", `, "not one path"},
		{`62617365ff20`, `6`, "encoded path"},
		{`62617365ff20`, `6261636b75705f6c6162656c`, "listed twice"},
		{`"Size": 227, `, ``, "no size"},
		{`"Size": 227`, `"Size": -1`, "no size"},
		{`CRC32C`, `CRC32`, "no checksum algorithm"},
		{`a0b1c2d3`, `a0b1c2`, "no CRC32C checksum"},
		{`a0b1c2d3`, `a0b1c2dx`, "no CRC32C checksum"},
		{`"A/28", "End`, `"A/139", "End`, "makes no sense"},
		{`"Timeline": 1`, `"Timeline": 0`, "makes no sense"},
		{`"9/28"`, `"9/28x"`, "no LSN"},
		{`],`, `]`, "invalid character"},
	} {
		text := strings.Replace(manifestV2, c.old, c.new, 1)
		if text == manifestV2 {
			t.Fatalf("%q does not occur", c.old)
		}
		if _, err := ParseManifest(seal(text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q for %q: error %v, want %q in it", c.new, c.old, err, c.want)
		}
	}
}

// Every damage of a byte and every truncation must be seen.
func TestParseManifestChecksum(t *testing.T) {
	whole := seal(manifestV2)
	for i := range whole {
		if _, err := ParseManifest(whole[:i]); err == nil {
			t.Errorf("accepted when cut at %d of %d", i, len(whole))
		}
		damaged := append([]byte(nil), whole...)
		damaged[i] ^= 1
		if _, err := ParseManifest(damaged); err == nil {
			t.Errorf("accepted with byte %d damaged", i)
		}
	}
	if _, err := ParseManifest(append(whole, '\n')); err == nil {
		t.Error("accepted with a line added")
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(manifestV2))
	f.Add([]byte("{\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := ParseManifest(seal(string(text)))
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, file := range m.Files {
			if seen[file.Path] || file.Size < 0 || !localPath(file.Path) {
				t.Errorf("accepted file %+v", file)
			}
			seen[file.Path] = true
		}
	})
}

// The checksums of "123456789" are published check values of the algorithms.
func TestNewChecksum(t *testing.T) {
	for algorithm, want := range map[string]string{
		"CRC32C": "839206e3", // 0xE3069283, little-endian
		"SHA224": "9b3e61bf29f17c75572fae2e86e17809a4513d07c8a18152acf34521",
		"SHA256": "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
		"SHA384": "eb455d56d2c1a69de64e832011f3393d45f3fa31d6842f21af92d2fe469c499da5e3179847334a18479c8d1dedea1be3",
		"SHA512": "d9e6762dd1c8eaf6d61b3c6192fc408d4d6d5f1176d0c29169bc24e71c3f274ad27fcd5811b313d681f7e55ec02d73d499c95455b6b5bb503acf574fba8ffe85",
	} {
		h, err := NewChecksum(algorithm)
		if err != nil {
			t.Fatal(err)
		}
		h.Write([]byte("123456789"))
		if got := hex.EncodeToString(h.Sum(nil)); got != want {
			t.Errorf("%s is %s, want %s", algorithm, got, want)
		}
	}
	if _, err := NewChecksum("NONE"); err == nil {
		t.Error("NONE accepted")
	}
}
