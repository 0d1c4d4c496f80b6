package segment

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// The names in a spool directory, beside those of PostgreSQL itself: a
// complete segment and a history have their own names.
const (
	identityFile  = "walstream.json"
	lockFile      = "lock"
	partialSuffix = ".partial" // the segment being written, full size
	tailSuffix    = ".tail"    // <SEGMENT>.<end offset, 8 hex digits>.tail
	tmpSuffix     = ".tmp"
	badInfix      = ".bad-" // what could not be used, kept for a person to look at
)

type fileKind int

const (
	otherFile fileKind = iota
	completeFile
	partialFile
	tailFile
	tmpFile     // of a partial
	historyFile // only the timeline of its ID counts
)

// parseFile tells which WAL a file name in a spool stands for; for a tail with
// the offset of its end.
func parseFile(name string, size Size) (kind fileKind, id ID, to int64) {
	if tli, err := ParseHistoryName(name); err == nil {
		return historyFile, ID{Timeline: tli}, 0
	}
	base, rest, _ := strings.Cut(name, ".")
	id, err := ParseName(base, size)
	if err != nil {
		return otherFile, ID{}, 0
	}
	hex, isTail := strings.CutSuffix(rest, tailSuffix)
	switch {
	case name == base:
		return completeFile, id, int64(size)
	case name == base+partialSuffix:
		return partialFile, id, 0
	case name == base+partialSuffix+tmpSuffix:
		return tmpFile, id, 0
	case !isTail || len(hex) != 8 || !upperHex(hex):
		return otherFile, ID{}, 0
	}
	to, _ = strconv.ParseInt(hex, 16, 64)
	if to == 0 || to >= int64(size) {
		return otherFile, ID{}, 0
	}
	return tailFile, id, to
}

func (s *Spool) path(name string) string { return filepath.Join(s.dir, name) }

func (s *Spool) completePath(id ID) string { return s.path(id.Name(s.size)) }

func (s *Spool) partialPath(id ID) string { return s.completePath(id) + partialSuffix }

func (s *Spool) tailPath(id ID, to int64) string {
	return fmt.Sprintf("%s.%08X%s", s.completePath(id), to, tailSuffix)
}
