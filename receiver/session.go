package receiver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// setupTimeout bounds everything before the stream begins, so that a server
// which accepts connections and then hangs is given up.
const setupTimeout = 30 * time.Second

// session is one connection: it streams one timeline. A nil error says that
// this has ended, or ctx.
func (r *Receiver) session(ctx context.Context) error {
	r.board.connecting()
	setup, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	conn, err := pg.ConnectReplication(setup, r.cfg.Options)
	if err != nil {
		return err
	}
	defer conn.Done()
	st, interval, err := r.prepare(setup, conn)
	if err != nil {
		return err
	}
	s, err := r.open(conn, st, interval)
	if err != nil {
		return err
	}
	defer func() { _ = s.conn.Close() }() // all that mattered has been answered
	if err := s.run(ctx); err != nil {
		return err
	}
	if ctx.Err() == nil && (st.End == 0 || s.next != st.End) {
		return fmt.Errorf("the server ended the stream of timeline %s at %s, not at its end", s.timeline, s.next)
	}
	return nil
}

// prepare asks who the server is, refuses what must be refused, and decides
// what to stream. At the first good connection it opens the sink.
func (r *Receiver) prepare(ctx context.Context, conn *pg.Conn) (step, time.Duration, error) {
	id, sys, err := conn.Identity(ctx)
	if err != nil {
		return step{}, 0, err
	}
	r.board.connected(conn.Address(), conn.ParameterStatus("server_version"), sys.FlushLSN)
	if err := r.accept(ctx, conn, id); err != nil {
		return step{}, 0, err
	}
	h, body, err := history(ctx, conn, sys.Timeline)
	if err != nil {
		return step{}, 0, err
	}
	// A server on another branch, or behind, leaves no trace: neither in the
	// sink, from where histories are archived, nor in where the slot may go.
	if have, held := r.sink.Resume(); held {
		if _, err := nextStep(h, sys.FlushLSN, have, r.identity.SegmentSize); err != nil {
			return step{}, 0, err
		}
	}
	if err := saveHistories(ctx, conn, r.sink, h, body); err != nil {
		return step{}, 0, err
	}
	r.hold.follow(id, h)
	st, err := r.choose(ctx, conn, h, sys)
	if err != nil {
		return step{}, 0, err
	}
	timeout, err := conn.Show(ctx, "wal_sender_timeout")
	if err != nil {
		return step{}, 0, err
	}
	return st, statusInterval(timeout, min(r.cfg.StatusInterval, r.cfg.SilenceTimeout/4)), nil
}

// accept compares the server with what was accepted before. The first time it
// opens the sink, which knows what is pinned, and sees to the slot.
func (r *Receiver) accept(ctx context.Context, conn *pg.Conn, id segment.Identity) error {
	if r.accepted {
		return id.Match("server "+conn.Address(), r.identity)
	}
	slot := r.hold.slot
	state, err := slot.read(ctx, conn)
	if err != nil {
		return err
	}
	if !state.Exists && !r.cfg.CreateSlot {
		return slot.missing()
	}
	if err := r.openSink(ctx, conn, id, state); err != nil {
		return err
	}
	if err := slot.reserve(ctx, conn, state); err != nil {
		return err
	}
	r.accepted = true
	return nil
}

func (r *Receiver) openSink(ctx context.Context, conn *pg.Conn, id segment.Identity, slot SlotState) (err error) {
	if r.sink != nil {
		return id.Match("server "+conn.Address(), r.identity)
	}
	r.sink, err = r.cfg.OpenSink(ctx, id, slot)
	r.identity = id
	return fromSink(err)
}

// choose finds what to stream: the sink's timelines that the server has ended
// are ended here too, until one is left that has more.
func (r *Receiver) choose(ctx context.Context, conn *pg.Conn, h segment.History, sys pg.System) (step, error) {
	have, held := r.sink.Resume()
	if !held {
		var err error
		if have, err = r.firstPosition(ctx, conn, h, sys); err != nil {
			return step{}, err
		}
	}
	for {
		st, err := nextStep(h, sys.FlushLSN, have, r.identity.SegmentSize)
		if err != nil {
			return step{}, err
		}
		if !st.Done {
			r.board.resuming(have, held)
			return st, nil
		}
		if held {
			if err := r.end(have.Timeline, st.End); err != nil {
				return step{}, err
			}
		}
		have, held = st.Next, false
	}
}

// end closes a timeline in the sink. WAL behind the fork is kept there.
func (r *Receiver) end(tli wal.Timeline, fork wal.LSN) error {
	held, err := r.sink.EndTimeline(tli, fork)
	if err != nil {
		return fromSink(err)
	}
	if held > fork {
		r.board.update(func(st *Status) { st.Orphan = &Orphan{Timeline: tli, Fork: fork, End: held} })
		r.cfg.Log.Error().Stringer("timeline", tli).Stringer("fork", fork).Stringer("end", held).
			Msg("the new primary never had WAL that was received: kept, but not part of its history; acknowledged commits may be in it")
	}
	return nil
}

// firstPosition is where to begin with an empty sink: behind the archive, else
// where the slot holds WAL, else where the server is now.
func (r *Receiver) firstPosition(ctx context.Context, conn *pg.Conn, h segment.History, sys pg.System) (segment.Position, error) {
	state, err := r.hold.slot.read(ctx, conn)
	if err != nil {
		return segment.Position{}, err
	}
	if r.cfg.ArchiveResume != nil {
		pos, ok, err := r.cfg.ArchiveResume(ctx, h, state.RestartLSN)
		if err != nil {
			return pos, fmt.Errorf("resume from the archive: %w", err)
		}
		if ok {
			return pos, nil
		}
	}
	lsn := sys.FlushLSN
	if state.RestartLSN != 0 {
		lsn = state.RestartLSN
	}
	return segment.Position{Timeline: h.TimelineAt(lsn), LSN: lsn}, nil
}

// open takes the connection over from the driver.
func (r *Receiver) open(conn *pg.Conn, st step, interval time.Duration) (*stream, error) {
	raw, err := conn.Hijack()
	if err != nil {
		return nil, fmt.Errorf("take over the connection: %w", err)
	}
	if raw.Frontend.ReadBufferLen() > 0 {
		return nil, errors.Join(errors.New("take over the connection: the server sent something unasked"), raw.Conn.Close())
	}
	pc := &patientConn{Conn: raw.Conn, silence: r.cfg.SilenceTimeout}
	s := &stream{
		conn: pc, in: newFrameReader(pc), sink: r.sink, board: r.board, log: r.cfg.Log, every: interval,
		fb:       &feedback{conn: raw.Conn, timeout: r.cfg.SilenceTimeout, now: r.cfg.Now},
		timeline: st.Timeline, next: st.Start, dirty: make(chan struct{}, 1),
	}
	s.fb.received.Store(uint64(st.Start))
	return s, nil
}
