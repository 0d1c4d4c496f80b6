package archive

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/walstream/walstream/wal"
)

// Gap is WAL of a timeline that nobody has: the server had removed the bytes
// [From, To) before they were received. It explains a hole; whether there is
// one only a listing of the WAL proves.
type Gap struct {
	Timeline wal.Timeline `json:"timeline"`
	From     wal.LSN      `json:"from_lsn"`
	To       wal.LSN      `json:"to_lsn"`
	Noticed  time.Time    `json:"noticed,omitzero"`
	Reason   string       `json:"reason,omitempty"` // the server's words
}

func (g Gap) object() string {
	return fmt.Sprintf("%s%s-%s-%s.json", GapsPrefix, g.Timeline.Hex(), LSNHex(g.From), LSNHex(g.To))
}

// Overlaps says whether a byte of [from, to) of the timeline lies in the gap.
func (g Gap) Overlaps(tli wal.Timeline, from, to wal.LSN) bool {
	return g.Timeline == tli && g.From < to && g.To > from
}

// PutGap records a gap durably. One that is recorded already is left alone.
func (a *Archive) PutGap(ctx context.Context, g Gap) error {
	return a.putJSON(ctx, g.object(), g)
}

// Gaps lists the recorded gaps by timeline and position. It reads their names
// only: Noticed and Reason are empty.
func (a *Archive) Gaps(ctx context.Context) ([]Gap, error) {
	var gaps []Gap
	for info, err := range a.store.List(ctx, GapsPrefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list gaps: %w", err)
		}
		if g, ok := parseGapName(info.Name); ok {
			gaps = append(gaps, g)
		}
	}
	return gaps, nil
}

func parseGapName(name string) (g Gap, ok bool) {
	var tli uint32
	var from, to uint64
	_, err := fmt.Sscanf(strings.TrimPrefix(name, GapsPrefix), "%8X-%16X-%16X.json", &tli, &from, &to)
	g = Gap{Timeline: wal.Timeline(tli), From: wal.LSN(from), To: wal.LSN(to)}
	return g, err == nil && tli != 0 && from < to && g.object() == name
}
