package receiver

import (
	"fmt"
	"time"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// goal is how far the slot of a server that has flushed up to at may move from
// restart: as far as the archive holds WAL, and over that if the server would
// have to keep more than HoldMax, but never beyond what is durable here.
func (h *HoldSlot) goal(at segment.Position, restart wal.LSN) (to wal.LSN, over bool) {
	to = h.allowed(at.Timeline)
	if to > at.LSN {
		// The server is behind the archive: it lost WAL, or is an old copy,
		// and what it has since then is not in the archive.
		to = 0
	}
	if h.max == 0 || at.LSN <= max(to, restart)+h.max {
		return to, h.overMax() && restart > to
	}
	size := h.identity.SegmentSize
	if here := h.durable(); here.Timeline == at.Timeline {
		// Where a segment begins, so that the slot still tells that there
		// is an archive.
		if next := size.Floor(min(here.LSN, size.Ceil(at.LSN-h.max))); next > max(to, restart) {
			return next, true
		}
	}
	return to, h.overMax() && restart > to
}

func (h *HoldSlot) overMax() bool { return !h.Status().OverMax.IsZero() }

func (h *HoldSlot) noteOver(over bool, to wal.LSN) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch was := !h.status.OverMax.IsZero(); {
	case over && !was:
		h.status.OverMax = time.Now()
		h.log.Error().Uint64("hold_max", uint64(h.max)).Stringer("to", to).
			Msg("the archive is so far behind that the slot leaves it: what is not archived is on the receiver's disk only")
	case !over && was:
		h.status.OverMax = time.Time{}
		h.log.Info().Msg("the slot holds again what is not archived")
	}
}

// inUse takes it that another receiver of the cluster moves the slot now,
// unless that lasts: then somebody streams through it.
func (h *HoldSlot) inUse(err error) error {
	if h.busy.IsZero() {
		h.busy = time.Now()
	}
	if time.Since(h.busy) < 6*h.every {
		return nil
	}
	return hint.With(fmt.Errorf("another connection streams through slot %s, which therefore does not keep what is not archived: %w", h.at.slot.Name, err),
		"give this receiver a slot of its own: --slot %s_hold --create-slot", h.at.slot.Name)
}
