package main

import (
	"context"
	"time"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/receiver"
	"github.com/walstream/walstream/segment"
)

// heartbeatInterval is how often a moment of the server is noted in the
// archive.
const heartbeatInterval = time.Minute

// beat notes moments of the server, each once the archive holds all WAL up to
// it, until ctx ends.
func (d *daemon) beat(ctx context.Context, arch *archive.Archive) error {
	var m receiver.Moment // not noted yet
	var noted time.Time
	for more := true; more; more = pause(ctx, time.Second) {
		if m.Time.IsZero() && time.Since(noted) > heartbeatInterval {
			m = d.recv.HoldSlot().Status().Moment
		}
		if !m.Time.IsZero() && d.archived.holds(m.Insert) {
			st := d.recv.Status()
			err := arch.PutHeartbeat(ctx, archive.Heartbeat{Receiver: d.name, Timeline: m.Insert.Timeline,
				InsertLSN: m.Insert.LSN, Time: m.Time.UTC(), FlushedLSN: st.Flushed})
			if err != nil && ctx.Err() == nil {
				d.log.Debug().Err(err).Msg("heartbeat")
			}
			m, noted = receiver.Moment{}, time.Now()
		}
	}
	return nil
}

// holds says whether all before a position is archived, tails included.
func (e *archivedEnd) holds(pos segment.Position) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.tail.Timeline == pos.Timeline && e.tail.LSN >= pos.LSN
}
