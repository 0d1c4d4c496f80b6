package archive

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// Cut says from which segment on the WAL of a timeline stays. Of a timeline
// that is not in it everything does.
type Cut map[wal.Timeline]uint64

// Nothing is the cut of a timeline of which nothing stays.
const Nothing uint64 = math.MaxUint64

// Below lists the objects below a cut, in the order in which they can be
// deleted: WAL by timeline, the oldest first, then what only tells of it, which
// includes the restore points noted before lsn. History files are none of them.
func (a *Archive) Below(ctx context.Context, cut Cut, lsn wal.LSN) (objects []Info, err error) {
	timelines := slices.Sorted(maps.Keys(cut))
	for _, tli := range timelines {
		err = a.below(ctx, &objects, walPrefix+tli.Hex()+"/", func(info Info) (bool, bool) {
			p, ours := a.piece(info)
			return p.ID.No < cut[tli], ours
		})
		if err != nil {
			return nil, err
		}
	}
	size := a.identity.SegmentSize
	for _, tli := range timelines {
		err = a.below(ctx, &objects, indexPrefix+tli.Hex()+"/", func(info Info) (bool, bool) {
			_, file, _ := strings.Cut(strings.TrimSuffix(info.Name, zstSuffix), "-")
			last, err := segment.ParseName(file, size)
			return last.No < cut[tli], err == nil && indexName(last, size) == info.Name
		})
		if err != nil {
			return nil, err
		}
	}
	err = a.below(ctx, &objects, GapsPrefix, func(info Info) (bool, bool) {
		g, ours := parseGapName(info.Name)
		from, known := cut[g.Timeline]
		// They are in the order of their timelines: one that stays ends nothing.
		return true, ours && known && segment.At(g.Timeline, g.To-1, size).No < from
	})
	if err == nil {
		err = a.below(ctx, &objects, pointsPrefix, func(info Info) (bool, bool) {
			hex, _, _ := strings.Cut(strings.TrimPrefix(info.Name, pointsPrefix), "-")
			at, err := strconv.ParseUint(hex, 16, 64)
			return wal.LSN(at) < lsn, err == nil
		})
	}
	return objects, err
}

// below adds the objects with this prefix that are ours, up to the first that
// does not go.
func (a *Archive) below(ctx context.Context, objects *[]Info, prefix string, goes func(Info) (goes, ours bool)) error {
	for info, err := range a.store.List(ctx, prefix, "") {
		if err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		switch goes, ours := goes(info); {
		case ours && !goes:
			return nil
		case ours:
			*objects = append(*objects, info)
		}
	}
	return nil
}

// LastStored is when the archive got the newest object of a timeline's WAL, by
// the store's clock; zero when it holds none.
func (a *Archive) LastStored(ctx context.Context, tli wal.Timeline) (last time.Time, err error) {
	all, err := a.Below(ctx, Cut{tli: Nothing}, 0)
	for _, info := range all {
		if info.Modified.After(last) {
			last = info.Modified
		}
	}
	return last, err
}
