package archive

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// The layout, so that each name is spelled in one place. Hexadecimal is
// upper case and of fixed width, so byte order is LSN order within a timeline.
const (
	identityName  = "walstream.json"
	walPrefix     = "wal/"
	historySuffix = ".history"
	zstSuffix     = ".zst"
	ageSuffix     = ".age"
	tailInfix     = ".tail/"

	indexPrefix = "index/"

	// BackupsPrefix holds one commit object for each backup.
	BackupsPrefix = "backups/"
	// BackupPrefix holds the data of backups, committed or not.
	BackupPrefix = "backup/"
	// GapsPrefix holds one object for each recorded [Gap].
	GapsPrefix = "gaps/"
)

// SegmentName is the object of one complete segment.
func SegmentName(id segment.ID, size segment.Size) string {
	return walPrefix + id.Timeline.Hex() + "/" + id.Name(size) + zstSuffix
}

// TailPrefix is the prefix of all tail objects of one segment.
func TailPrefix(id segment.ID, size segment.Size) string {
	return walPrefix + id.Timeline.Hex() + "/" + id.Name(size) + tailInfix
}

// TailName is the object of the bytes [from, to) of a segment, counted from
// its start.
func TailName(id segment.ID, size segment.Size, from, to int64) string {
	return fmt.Sprintf("%s%08X-%08X%s", TailPrefix(id, size), from, to, zstSuffix)
}

// HistoryName is the object of a timeline's history file.
func HistoryName(tli wal.Timeline) string { return walPrefix + segment.HistoryName(tli) }

// LSNHex is an LSN as object names carry it: 16 hexadecimal digits.
func LSNHex(lsn wal.LSN) string { return fmt.Sprintf("%016X", uint64(lsn)) }

// Piece is what a name under wal/<TLI>/ stands for: a complete segment, or
// the bytes [From, To) of one.
type Piece struct {
	ID       segment.ID
	Tail     bool
	From, To int64
	// StoredSize is the size of the object, where a listing told it.
	StoredSize int64
}

// ParseSegmentName reverses [SegmentName] and [TailName].
func ParseSegmentName(name string, size segment.Size) (Piece, error) {
	bad := fmt.Errorf("%q is no segment object", name)
	rest, ok := strings.CutPrefix(name, walPrefix)
	dir, file, ok2 := strings.Cut(rest, "/")
	file, ok3 := strings.CutSuffix(file, zstSuffix)
	if !ok || !ok2 || !ok3 {
		return Piece{}, bad
	}
	seg, span, tail := strings.Cut(file, tailInfix)
	id, err := segment.ParseName(seg, size)
	if err != nil || id.Timeline.Hex() != dir {
		return Piece{}, bad
	}
	if !tail {
		return Piece{ID: id, To: int64(size)}, nil
	}
	from, to, ok := strings.Cut(span, "-")
	f, ferr := strconv.ParseInt(from, 16, 64)
	t, terr := strconv.ParseInt(to, 16, 64)
	p := Piece{ID: id, Tail: true, From: f, To: t}
	if !ok || ferr != nil || terr != nil || f >= t || t > int64(size) || TailName(id, size, f, t) != name {
		return Piece{}, bad
	}
	return p, nil
}
