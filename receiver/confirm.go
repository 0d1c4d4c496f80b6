package receiver

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// confirmed is how far the archive holds WAL without a hole, for a receiver
// that acknowledges nothing else.
type confirmed struct {
	mu      sync.Mutex
	pos     segment.Position
	changed chan struct{} // closed when pos rises
}

// Confirm says that everything before a position is in the archive. With
// [Config.Confirmed] it is acknowledged now. It does not block.
func (r *Receiver) Confirm(pos segment.Position) {
	c := r.confirmed
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pos.Before(pos) {
		c.pos = pos
		close(c.changed)
		c.changed = make(chan struct{})
	}
}

// of is the confirmed end of a timeline; 0 when nothing of it is known.
func (c *confirmed) of(tli wal.Timeline) (wal.LSN, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pos.Timeline != tli {
		return 0, c.changed
	}
	return c.pos.LSN, c.changed
}

// tellConfirmed acknowledges what is confirmed as soon as it is. If nothing is
// for a long time although something waits, it fails: a server that is to shut
// down waits for us.
func (s *stream) tellConfirmed(ended context.Context) error {
	if s.confirmed == nil {
		return nil
	}
	tick := time.NewTicker(s.patience / 30)
	defer tick.Stop()
	good := time.Now()
	for {
		end, changed := s.confirmed.of(s.timeline)
		if err := s.acknowledge(); err != nil {
			return err
		}
		for waits := true; waits; {
			select {
			case <-changed:
				good, waits = time.Now(), false
			case now := <-tick.C:
				if end >= wal.LSN(s.fb.received.Load()) {
					good = now
				} else if now.Sub(good) > s.patience {
					return fmt.Errorf("the archive has confirmed nothing behind %s for %s: disconnected, so that the server could shut down; commits wait", end, s.patience)
				}
			case <-ended.Done():
				return nil
			}
		}
	}
}
