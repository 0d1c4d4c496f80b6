package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/wal"
)

// Manifest is what a backup_manifest says, version 1 (PostgreSQL 13 to 16) or
// 2 (from 17 on). PostgreSQL's documentation specifies the format in its
// chapter "Backup Manifest Format".
type Manifest struct {
	Version int
	// SystemIdentifier is zero in version 1, which does not tell it.
	SystemIdentifier uint64
	// Files are all files of the backup but backup_manifest itself and WAL.
	Files []ManifestFile
	// WALRanges is the WAL that the backup needs, newest timeline first.
	WALRanges []WALRange
}

// ManifestFile is one file of a backup.
type ManifestFile struct {
	// Path is relative to the data directory, with slashes. It need not be
	// UTF-8. Files of a tablespace are below pg_tblspc/<OID>/.
	Path string
	Size int64
	// Modified is to the second. Of the files that are made for the backup,
	// like backup_label, it is when they were made. Zero when not told.
	Modified time.Time
	// Algorithm names the checksum, see [NewChecksum]; "" when the backup
	// was taken without.
	Algorithm string
	Checksum  []byte
}

// WALRange is the WAL from Start to before End on one timeline.
type WALRange struct {
	Timeline wal.Timeline
	Start    wal.LSN
	End      wal.LSN
}

type manifestJSON struct {
	Version          int    `json:"PostgreSQL-Backup-Manifest-Version"`
	SystemIdentifier uint64 `json:"System-Identifier"`
	Files            []struct {
		Path        *string `json:"Path"`
		EncodedPath *string `json:"Encoded-Path"`
		Size        *int64  `json:"Size"`
		Modified    string  `json:"Last-Modified"`
		Algorithm   string  `json:"Checksum-Algorithm"`
		Checksum    string  `json:"Checksum"`
	} `json:"Files"`
	WALRanges []struct {
		Timeline uint32  `json:"Timeline"`
		Start    wal.LSN `json:"Start-LSN"`
		End      wal.LSN `json:"End-LSN"`
	} `json:"WAL-Ranges"`
}

// ParseManifest reads a backup_manifest, the whole file as PostgreSQL wrote
// it, and verifies the checksum in its last line. Paths that lead out of the
// data directory and paths that occur twice are refused.
func ParseManifest(body []byte) (*Manifest, error) {
	m, err := parseManifest(body)
	if err != nil {
		return nil, fmt.Errorf("parse backup_manifest: %w", err)
	}
	return m, nil
}

func parseManifest(body []byte) (*Manifest, error) {
	if err := verifyManifestChecksum(body); err != nil {
		return nil, err
	}
	if !utf8.Valid(body) { // encoding/json would replace such bytes silently
		return nil, fmt.Errorf("it is not UTF-8")
	}
	var raw manifestJSON
	if err := json.Unmarshal(body, &raw); err != nil {
		return nil, err
	}
	if raw.Version != 1 && raw.Version != 2 {
		return nil, hint.Errorf("use a walstream release that supports this PostgreSQL version",
			"its version is %d, this program knows 1 and 2", raw.Version)
	}
	if raw.Version == 2 && raw.SystemIdentifier == 0 {
		return nil, fmt.Errorf("it names no system identifier")
	}
	m := &Manifest{Version: raw.Version, SystemIdentifier: raw.SystemIdentifier}
	seen := make(map[string]bool, len(raw.Files))
	for _, f := range raw.Files {
		path, err := manifestPath(f.Path, f.EncodedPath)
		if err != nil {
			return nil, err
		}
		if seen[path] {
			return nil, fmt.Errorf("file %q is listed twice", path)
		}
		seen[path] = true
		if f.Size == nil || *f.Size < 0 {
			return nil, fmt.Errorf("file %q: no size", path)
		}
		sum, err := parseChecksum(f.Algorithm, f.Checksum)
		if err != nil {
			return nil, fmt.Errorf("file %q: %w", path, err)
		}
		// Only informative, so that one which is missing does no harm.
		modified, _ := time.Parse("2006-01-02 15:04:05 GMT", f.Modified)
		m.Files = append(m.Files, ManifestFile{Path: path, Size: *f.Size, Modified: modified, Algorithm: f.Algorithm, Checksum: sum})
	}
	for _, r := range raw.WALRanges {
		if r.Timeline == 0 || r.Start > r.End {
			return nil, fmt.Errorf("WAL range %s to %s of timeline %d makes no sense", r.Start, r.End, r.Timeline)
		}
		m.WALRanges = append(m.WALRanges, WALRange{wal.Timeline(r.Timeline), r.Start, r.End})
	}
	return m, nil
}

// verifyManifestChecksum checks the last line, which holds the SHA-256 of all
// bytes before it.
func verifyManifestChecksum(body []byte) error {
	text, ok := bytes.CutSuffix(body, []byte("\n"))
	start := bytes.LastIndexByte(text, '\n') + 1
	if !ok || start == 0 {
		return fmt.Errorf("its last line is cut off")
	}
	line := string(text[start:])
	line, ok1 := strings.CutPrefix(line, `"Manifest-Checksum": "`)
	line, ok2 := strings.CutSuffix(line, `"}`)
	if !ok1 || !ok2 || len(line) != 2*sha256.Size {
		return fmt.Errorf("its last line is no Manifest-Checksum")
	}
	if have := sha256Hex(body[:start]); have != line {
		return fmt.Errorf("its Manifest-Checksum is %s, its contents have %s", line, have)
	}
	return nil
}

func manifestPath(plain, encoded *string) (string, error) {
	var path string
	switch {
	case plain != nil && encoded == nil:
		path = *plain
	case encoded != nil && plain == nil:
		b, err := hex.DecodeString(*encoded)
		if err != nil {
			return "", fmt.Errorf("encoded path %q: %w", *encoded, err)
		}
		path = string(b)
	default:
		return "", fmt.Errorf("a file has not one path")
	}
	if !localPath(path) {
		return "", fmt.Errorf("path %q is not a path inside the data directory", path)
	}
	return path, nil
}

// localPath says whether a path of a backup stays below the directory that it
// is relative to, and is written in the one way PostgreSQL writes it.
func localPath(path string) bool {
	for elem := range strings.SplitSeq(path, "/") {
		if elem == "" || elem == "." || elem == ".." {
			return false
		}
	}
	return !strings.ContainsRune(path, 0)
}
