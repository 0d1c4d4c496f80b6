package archive

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// endOfDir sorts behind every name in a directory: no name holds a tilde.
const endOfDir = "~"

// Timelines lists the timelines of which the archive holds WAL or a history
// file, in ascending order. It costs one short listing for each.
func (a *Archive) Timelines(ctx context.Context) ([]wal.Timeline, error) {
	var found []wal.Timeline
	for after := walPrefix; ; {
		name, err := first(a.store.List(ctx, walPrefix, after))
		if err != nil {
			return nil, err
		}
		if name == "" {
			return found, nil
		}
		after = name
		hex, _, _ := strings.Cut(strings.TrimPrefix(name, walPrefix), "/")
		hex = strings.TrimSuffix(hex, historySuffix)
		tli, err := segment.ParseHistoryName(hex + historySuffix)
		if err != nil {
			continue // not ours
		}
		found = append(found, tli)
		after = walPrefix + hex + "/" + endOfDir
	}
}

// Histories reads the history files of all timelines of the archive and of those
// given, and says of which there is none that can be used, and why: also if they
// contradict each other, or the WAL that there is. Any other failure is an error.
func (a *Archive) Histories(ctx context.Context, more ...wal.Timeline) (known map[wal.Timeline]segment.History, unknown map[wal.Timeline]error, err error) {
	timelines, err := a.Timelines(ctx)
	if err != nil {
		return nil, nil, err
	}
	timelines = append(timelines, more...)
	slices.Sort(timelines)
	known, unknown = map[wal.Timeline]segment.History{}, map[wal.Timeline]error{}
	for _, tli := range slices.Compact(timelines) {
		h, _, err := a.History(ctx, tli)
		if err == nil {
			err = a.CheckHistory(ctx, h)
		}
		switch {
		case err == nil:
			known[tli] = h
		case errors.Is(err, ErrNotExist):
			unknown[tli] = fmt.Errorf("%s is missing", HistoryName(tli))
		case errors.As(err, new(*CorruptError)):
			unknown[tli] = err
		default:
			return nil, nil, err
		}
	}
	for tli, h := range known {
		for _, sw := range h.Ancestors {
			if before := known[sw.Timeline]; !h.Extends(before) {
				unknown[tli] = &CorruptError{Object: HistoryName(tli), What: "it contradicts " + HistoryName(sw.Timeline)}
			}
		}
	}
	maps.DeleteFunc(known, func(tli wal.Timeline, _ segment.History) bool { return unknown[tli] != nil })
	return known, unknown, nil
}

// CheckHistory compares a history with the WAL of its timeline, which begins in
// the segment of the fork: what history files say has no checksum.
func (a *Archive) CheckHistory(ctx context.Context, h segment.History) error {
	fork, _ := h.StartOf(h.Timeline)
	if fork == 0 {
		return nil
	}
	for p, err := range a.Pieces(ctx, h.Timeline, 0) {
		if err != nil {
			return err
		}
		if first := p.ID.Start(a.identity.SegmentSize); first+wal.LSN(a.identity.SegmentSize) <= fork {
			return &CorruptError{Object: HistoryName(h.Timeline), What: "fork", Have: fork.String(), Want: "none behind WAL of the timeline, at " + first.String()}
		}
		break
	}
	return nil
}

func first(list iter.Seq2[Info, error]) (string, error) {
	for info, err := range list {
		return info.Name, err
	}
	return "", nil
}

// Pieces lists what the archive holds of a timeline's WAL from segment number
// from on: in ascending order of segments, of one segment its tails by their
// start and then the complete segment. Names that are no segment object are
// passed over. An error ends it.
func (a *Archive) Pieces(ctx context.Context, tli wal.Timeline, from uint64) iter.Seq2[Piece, error] {
	prefix := walPrefix + tli.Hex() + "/"
	after := ""
	if from > 0 {
		after = prefix + segment.ID{Timeline: tli, No: from - 1}.Name(a.identity.SegmentSize) + endOfDir
	}
	return func(yield func(Piece, error) bool) {
		for info, err := range a.store.List(ctx, prefix, after) {
			if err != nil {
				yield(Piece{}, err)
				return
			}
			p, ok := a.piece(info)
			if !ok {
				continue
			}
			if !yield(p, nil) {
				return
			}
		}
	}
}

// Name is the piece's object, where it is not encrypted.
func (p Piece) Name(size segment.Size) string {
	if p.Tail {
		return TailName(p.ID, size, p.From, p.To)
	}
	return SegmentName(p.ID, size)
}

// name is the piece's object in this archive.
func (a *Archive) name(p Piece) string { return a.SealedName(p.Name(a.identity.SegmentSize)) }

// piece is what a listed object holds, if it is one of this archive's WAL.
func (a *Archive) piece(info Info) (Piece, bool) {
	plain := strings.TrimSuffix(info.Name, ageSuffix)
	p, err := ParseSegmentName(plain, a.identity.SegmentSize)
	p.StoredSize = info.Size
	return p, err == nil && a.SealedName(plain) == info.Name
}

// Range is the segments numbered First to Last, both included, of a timeline.
type Range struct {
	Timeline    wal.Timeline
	First, Last uint64
}

// Missing lists the segments of a timeline, numbered first to last, that the
// archive does not hold whole, as ranges in ascending order.
func (a *Archive) Missing(ctx context.Context, tli wal.Timeline, first, last uint64) ([]Range, error) {
	var holes []Range
	next := first
	for p, err := range a.Pieces(ctx, tli, first) {
		if err != nil {
			return nil, err
		}
		if p.ID.No > last {
			break
		}
		if p.Tail {
			continue
		}
		if p.ID.No > next {
			holes = append(holes, Range{tli, next, p.ID.No - 1})
		}
		next = p.ID.No + 1
	}
	if next <= last {
		holes = append(holes, Range{tli, next, last})
	}
	return holes, nil
}
