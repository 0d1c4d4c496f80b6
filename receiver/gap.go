package receiver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// passTimeout bounds the search for where a stream can go on: it lists the
// archive and asks the server some tens of times.
const passTimeout = 5 * time.Minute

// pass finds where to go on when the server has said that it no longer has the
// WAL at st: behind what the archive holds, else with the oldest WAL that the
// server does have, and what lies between is a gap.
func (r *Receiver) pass(ctx context.Context, conn *pg.Conn, h segment.History, flush wal.LSN, have segment.Position, st step) (step, error) {
	size := r.identity.SegmentSize
	if st.Start < flush {
		if ok, err := serves(ctx, conn, segment.At(st.Timeline, st.Start, size), size); ok || err != nil {
			return st, err // somebody gave the file back to the server
		}
	}
	from := have.LSN
	if r.cfg.Covered != nil {
		var err error
		if from, err = r.cfg.Covered(ctx, h, have); err != nil {
			return st, fmt.Errorf("does the archive hold what the server has removed: %w", err)
		}
	}
	if from > flush {
		return st, &BehindError{Timeline: h.Timeline, Server: flush, Ours: from}
	}
	first, err := oldest(ctx, conn, h, from, flush, size)
	if err != nil {
		return st, err
	}
	if to := first.Start(size); to > from {
		if err := r.gap(ctx, h, from, to); err != nil {
			return st, err
		}
	} else {
		r.cfg.Log.Info().Stringer("lsn", from).Msg("the archive holds what the server has removed: going on behind it")
	}
	st = step{Timeline: first.Timeline, Start: first.Start(size)}
	st.End, _ = h.EndOf(st.Timeline)
	return st, fromSink(r.sink.Skip(st.Timeline, st.Start))
}

// gap records that WAL from from to to is nowhere.
func (r *Receiver) gap(ctx context.Context, h segment.History, from, to wal.LSN) error {
	for _, g := range splitGap(h, from, to, r.identity.SegmentSize) {
		if r.cfg.OnGap == nil {
			return hint.With(fmt.Errorf("%w: %w", &g, r.removed), "%s",
				"copy the missing segments from a standby or another archive into pg_wal of the server and start again; or go on behind them, with a new backup: WALSTREAM_ON_GAP=backup walstream receive")
		}
		if err := r.cfg.OnGap(ctx, g, r.removed.Err); err != nil {
			return fmt.Errorf("record a gap: %w: %w", &g, err)
		}
		r.cfg.Log.Error().Stringer("timeline", g.Timeline).Stringer("from", g.Have).Stringer("to", g.Got).Err(r.removed.Err).
			Msg("gap: the server had removed WAL that nobody has; no backup from before can be restored to a point behind it")
	}
	return nil
}

// splitGap is the missing bytes [from, to) on the way of h, by timeline. The
// segment in which a timeline begins is missing on that one.
func splitGap(h segment.History, from, to wal.LSN, size segment.Size) (gaps []segment.GapError) {
	for from < to {
		g := segment.GapError{Timeline: h.SegmentAt(from, size).Timeline, Have: from, Got: to}
		if fork, ok := h.EndOf(g.Timeline); ok {
			g.Got = min(to, size.Floor(fork))
		}
		gaps = append(gaps, g)
		from = g.Got
	}
	return gaps
}

// oldest is the first segment on the way of h, from that of from on, that the
// server still has. It removes the oldest first.
func oldest(ctx context.Context, conn *pg.Conn, h segment.History, from, flush wal.LSN, size segment.Size) (segment.ID, error) {
	low, high := uint64(from)/uint64(size), uint64(flush)/uint64(size) // high it is writing
	for low < high {
		middle := low + (high-low)/2
		ok, err := serves(ctx, conn, h.SegmentAt(segment.ID{No: middle}.Start(size), size), size)
		if err != nil {
			return segment.ID{}, err
		}
		if ok {
			high = middle
		} else {
			low = middle + 1
		}
	}
	return h.SegmentAt(segment.ID{No: high}.Start(size), size), nil
}

// serves says whether the server can stream from a segment's start on, by
// asking for it and taking the first message only.
func serves(ctx context.Context, conn *pg.Conn, id segment.ID, size segment.Size) (bool, error) {
	front := conn.Frontend()
	front.Send(&pgproto3.Query{String: startReplication(id.Timeline, id.Start(size))})
	if err := front.Flush(); err != nil {
		return false, err
	}
	err := explainStream(await[*pgproto3.CopyData](ctx, conn), id.Timeline, id.Start(size))
	if err != nil && !errors.As(err, new(*WALRemovedError)) {
		return false, err
	}
	if err == nil {
		front.Send(&pgproto3.CopyDone{})
		if ferr := front.Flush(); ferr != nil {
			return false, ferr
		}
	}
	return err == nil, await[*pgproto3.ReadyForQuery](ctx, conn)
}

func startReplication(tli wal.Timeline, lsn wal.LSN) string {
	return fmt.Sprintf("START_REPLICATION PHYSICAL %s TIMELINE %s", lsn, tli)
}
