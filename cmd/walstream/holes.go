package main

import (
	"context"
	"time"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// fillHoles makes sure, until ctx ends, that archive and spool together hold
// all WAL from where the slot is: at the start, because somebody may have
// deleted something, and whenever the uploader misses a file. What neither has
// is streamed again. With ack: archive nothing is confirmed meanwhile: the
// uploader goes by what the spool has.
func (d *daemon) fillHoles(ctx context.Context) error {
	const patience = 10 * time.Second // until a hole is asked for again
	var (
		asked segment.Position
		when  time.Time
	)
	for {
		var again <-chan time.Time
		if !d.whole() {
			again = time.After(time.Second)
			slot := d.recv.HoldSlot().Status()
			if slot.Looked.IsZero() && slot.Failure == nil { // no server yet
				again = time.After(100 * time.Millisecond)
			} else if hole, next, err := d.findHole(ctx, slot.RestartLSN); err != nil && ctx.Err() == nil {
				d.log.Debug().Err(err).Msg("looking for holes")
			} else if next != 0 && (hole != asked || time.Since(when) > patience) {
				d.refill(hole, next)
				asked, when = hole, time.Now()
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.doubt:
		case <-again:
		}
	}
}

// findHole looks for the first WAL from the slot on that neither archive nor
// spool has, although one of them has what begins at next, which is zero if
// there is no such hole, or it is being filled.
func (d *daemon) findHole(ctx context.Context, slot wal.LSN) (hole segment.Position, next wal.LSN, err error) {
	d.mu.Lock()
	losses := d.losses
	d.mu.Unlock()
	h := d.spool.NewestHistory()
	size := d.identity.SegmentSize
	at := func(lsn wal.LSN) segment.Position {
		return segment.Position{Timeline: h.SegmentAt(lsn, size).Timeline, LSN: lsn}
	}
	begin, stored := d.archived.known(slot)
	if begin == 0 {
		_, begin, _ = d.spool.Follow(h, 0)
	}
	archived, err := d.archiveCovers(ctx, h, at(size.Floor(begin)))
	filling := false
	for end := archived; err == nil; {
		hole.LSN, next, filling = d.spool.Follow(h, end)
		if end, err = d.archiveCovers(ctx, h, at(hole.LSN)); end == hole.LSN { // not only now
			break
		}
	}
	if err != nil || filling && next != 0 {
		return hole, 0, err
	}
	if _, onTheWay := h.StartOf(stored.Timeline); next == 0 && (onTheWay && archived >= stored.LSN || stored.LSN == 0) {
		d.trust(losses)
	}
	return at(size.Floor(hole.LSN)), next, nil
}

// refill has a hole streamed again, if the spool can take it.
func (d *daemon) refill(hole segment.Position, next wal.LSN) {
	if have, _ := d.spool.Resume(); hole.Timeline == have.Timeline {
		d.recv.Refill(hole)
	} else {
		spool := hint.Quote(d.conf.SpoolDir)
		err := hint.Errorf("stop the receiver and start it with an empty spool, it streams again what the slot keeps: mv "+spool+" "+spool+".old",
			"neither archive nor spool has the WAL of timeline %s from %s to %s", hole.Timeline, hole.LSN, next)
		d.log.Error().Err(err).Func(hint.Log(err)).Msg("the slot stays before a hole in the archive")
	}
}

// lost is told that a file was deleted from the spool before it was archived.
func (d *daemon) lost() {
	d.mu.Lock()
	d.losses++
	d.complete = false
	d.mu.Unlock()
	wake(d.doubt)
}

// trust says that there was no hole after so many losses.
func (d *daemon) trust(losses int) {
	d.mu.Lock()
	d.complete = losses == d.losses
	d.mu.Unlock()
	_, stored := d.archived.known(0)
	d.tailStored(stored)
}

func (d *daemon) whole() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.complete
}

// tailStored is told how far the archive holds WAL, tails included.
func (d *daemon) tailStored(end segment.Position) {
	d.archived.reach(end)
	if d.whole() {
		d.recv.Confirm(end)
	}
}
