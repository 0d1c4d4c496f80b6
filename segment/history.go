package segment

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/walstream/walstream/wal"
)

// Switch is one line of a timeline history file: timeline Timeline ended at
// End, where the next timeline forked off.
type Switch struct {
	Timeline wal.Timeline
	End      wal.LSN
	Reason   string
}

// History is how a timeline came to be: its ancestors, oldest first, and the
// timeline itself. The zero History is none; timeline 1 has no ancestors.
type History struct {
	Timeline  wal.Timeline
	Ancestors []Switch
}

// HistoryName is the name PostgreSQL gives the history file of tli.
func HistoryName(tli wal.Timeline) string { return tli.Hex() + ".history" }

var historyName = regexp.MustCompile(`^[0-9A-F]{8}\.history$`)

// ParseHistoryName reverses [HistoryName].
func ParseHistoryName(name string) (wal.Timeline, error) {
	if !historyName.MatchString(name) {
		return 0, fmt.Errorf("%q is no timeline history name", name)
	}
	n, _ := strconv.ParseUint(name[:8], 16, 32)
	if n == 0 {
		return 0, fmt.Errorf("%q: there is no timeline 0", name)
	}
	return wal.Timeline(n), nil
}

// ParseHistory reads the body of tli's history file by the rules of
// PostgreSQL's readTimeLineHistory: fields separated by white space, blank
// lines and lines from # on ignored, timelines strictly increasing and below
// tli. It is stricter in one point: the ends must not decrease either.
func ParseHistory(tli wal.Timeline, body []byte) (History, error) {
	h := History{Timeline: tli}
	for i, line := range strings.Split(string(body), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		sw, err := parseSwitch(line)
		if err == nil {
			err = h.add(sw)
		}
		if err != nil {
			return History{}, fmt.Errorf("%s line %d: %w", HistoryName(tli), i+1, err)
		}
	}
	if tli > 1 && len(h.Ancestors) == 0 {
		return History{}, fmt.Errorf("%s names no ancestor", HistoryName(tli))
	}
	return h, nil
}

func parseSwitch(line string) (Switch, error) {
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return Switch{}, fmt.Errorf("%q: want a timeline and an LSN", line)
	}
	tli, err := wal.ParseTimeline(fields[0])
	if err != nil {
		return Switch{}, err
	}
	end, err := wal.ParseLSN(fields[1])
	if err != nil {
		return Switch{}, err
	}
	return Switch{Timeline: tli, End: end, Reason: strings.Join(fields[2:], " ")}, nil
}

func (h *History) add(sw Switch) error {
	if sw.Timeline >= h.Timeline {
		return fmt.Errorf("ancestor %s is not below timeline %s", sw.Timeline, h.Timeline)
	}
	if n := len(h.Ancestors); n > 0 {
		last := h.Ancestors[n-1]
		if sw.Timeline <= last.Timeline || sw.End < last.End {
			return fmt.Errorf("%s at %s does not follow %s at %s", sw.Timeline, sw.End, last.Timeline, last.End)
		}
	}
	h.Ancestors = append(h.Ancestors, sw)
	return nil
}

// Equal says whether two histories are the same but for the reasons given: a
// server that lacks an ancestor's file leaves those out.
func (h History) Equal(other History) bool {
	return h.Timeline == other.Timeline && slices.EqualFunc(h.Ancestors, other.Ancestors,
		func(a, b Switch) bool { return a.Timeline == b.Timeline && a.End == b.End })
}

// Extends says whether a history tells the same as that of an ancestor about
// the timelines that are in both.
func (h History) Extends(ancestor History) bool {
	return !slices.ContainsFunc(ancestor.Ancestors, func(sw Switch) bool {
		end, ok := h.EndOf(sw.Timeline)
		return ok && end != sw.End
	})
}

// Format writes the body of a history file that [ParseHistory] reads back.
func (h History) Format() []byte {
	var b bytes.Buffer
	for _, sw := range h.Ancestors {
		fmt.Fprintf(&b, "%s\t%s\t%s\n", sw.Timeline, sw.End, sw.Reason)
	}
	return b.Bytes()
}

// TimelineAt is the timeline whose WAL holds the byte at lsn on the way to
// h.Timeline. At a fork it is the new timeline.
func (h History) TimelineAt(lsn wal.LSN) wal.Timeline {
	for _, sw := range h.Ancestors {
		if lsn < sw.End {
			return sw.Timeline
		}
	}
	return h.Timeline
}

// SegmentAt is the segment from which recovery reads the byte at lsn: the one
// that holds a fork is read on the newest timeline that begins inside it,
// because its file starts with a copy of the old timeline's bytes.
func (h History) SegmentAt(lsn wal.LSN, size Size) ID {
	return At(h.TimelineAt(size.Floor(lsn)+wal.LSN(size)-1), lsn, size)
}

// EndOf is where timeline tli ended on the way to h.Timeline. It is false for
// h.Timeline itself, which has not ended, and for a timeline that is no
// ancestor.
func (h History) EndOf(tli wal.Timeline) (wal.LSN, bool) {
	for _, sw := range h.Ancestors {
		if sw.Timeline == tli {
			return sw.End, true
		}
	}
	return 0, false
}

// StartOf is where timeline tli began on the way to h.Timeline: zero for the
// oldest. It is false for a timeline that is not on the way.
func (h History) StartOf(tli wal.Timeline) (wal.LSN, bool) {
	var start wal.LSN
	for _, sw := range h.Ancestors {
		if sw.Timeline == tli {
			return start, true
		}
		start = sw.End
	}
	return start, tli == h.Timeline
}

// Contains says whether position lsn of timeline tli lies on the way to
// h.Timeline. The end of an ancestor is still on it.
func (h History) Contains(tli wal.Timeline, lsn wal.LSN) bool {
	start, ok := h.StartOf(tli)
	end, ended := h.EndOf(tli)
	return ok && lsn >= start && (!ended || lsn <= end)
}
