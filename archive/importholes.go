package archive

import (
	"context"
	"maps"
	"slices"

	"github.com/walstream/walstream/wal"
)

// holes lists the complete segments that are missing between others, on the
// timelines that were imported.
func (i *importer) holes(ctx context.Context) ([]Range, error) {
	size := i.a.identity.SegmentSize
	spans := map[wal.Timeline]*span{}
	for tli, known := range i.known {
		for id, is := range known {
			if spans[tli] == nil {
				spans[tli] = &span{id.No, id.No}
			}
			s := spans[tli]
			s.first, s.end = min(s.first, id.No), max(s.end, id.No)
			if is.whole {
				s.end = max(s.end, id.No+1)
			}
		}
	}
	for tli, s := range spans {
		h, _, err := i.a.History(ctx, tli)
		if err != nil {
			return nil, err
		}
		if len(h.Ancestors) == 0 {
			continue
		}
		// Between two timelines: up to the fork on the old one, from there
		// on the new one.
		fork := h.Ancestors[len(h.Ancestors)-1]
		if parent := spans[fork.Timeline]; parent != nil {
			no := uint64(fork.End) / uint64(size)
			s.first = min(s.first, no)
			parent.end = max(parent.end, no)
		}
	}
	var holes []Range
	for _, tli := range slices.Sorted(maps.Keys(spans)) {
		s := spans[tli]
		if s.first >= s.end {
			continue
		}
		missing, err := i.a.Missing(ctx, tli, s.first, s.end-1)
		if err != nil {
			return nil, err
		}
		holes = append(holes, missing...)
	}
	return holes, nil
}

// span is where a timeline needs complete segments: from the first piece, number
// first, up to before end, to the last one, which may be unfinished.
type span struct{ first, end uint64 }
