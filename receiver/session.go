package receiver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/walstream/walstream/internal/hint"
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
	limit := setupTimeout
	if r.removed != nil {
		limit = passTimeout
	}
	setup, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	srv, err := r.connect(setup)
	if err != nil {
		return err
	}
	defer srv.Done()
	st, interval, err := r.prepare(setup, srv)
	if err != nil {
		return err
	}
	s, err := r.open(srv, st, interval)
	if err != nil {
		return err
	}
	defer func() { _ = s.conn.Close() }() // all that mattered has been answered
	refill := r.refill
	err = s.run(ctx)
	if s.begun && r.refill == refill { // from now on the sink knows where to go on
		r.refill = segment.Position{}
	}
	if err != nil {
		return err
	}
	if ctx.Err() == nil && (st.End == 0 || s.next != st.End) {
		return fmt.Errorf("the server ended the stream of timeline %s at %s, not at its end", s.timeline, s.next)
	}
	return nil
}

// prepare refuses a server that must be refused, and decides what to stream
// from it. At the first good connection it opens the sink.
func (r *Receiver) prepare(ctx context.Context, srv *pg.Server) (st step, interval time.Duration, err error) {
	first, again := r.sink == nil, r.accepted
	err = r.accept(ctx, srv)
	if err == nil && first { // connect could not tell yet
		err = r.suits(ctx, srv)
	}
	if err == nil {
		err = saveHistories(ctx, srv, r.sink)
	}
	if err == nil && (r.cfg.StreamSlot || again) {
		err = r.keepSlot(ctx, srv)
	}
	if err != nil {
		return st, 0, err
	}
	r.hold.follow(srv)
	if st, err = r.choose(ctx, srv.Conn, srv.History, srv.System); err != nil {
		return st, 0, err
	}
	timeout, err := srv.Show(ctx, "wal_sender_timeout")
	return st, statusInterval(timeout, min(r.cfg.StatusInterval, r.cfg.SilenceTimeout/4)), err
}

// accept compares the server with what was accepted before. The first time it
// opens the sink, which knows what is pinned, and sees to the slot.
func (r *Receiver) accept(ctx context.Context, srv *pg.Server) error {
	if r.accepted {
		return nil // connect has compared it
	}
	slot := Slot{Options: srv.Options, Name: r.cfg.Slot}
	state, err := slot.read(ctx, srv.Conn)
	if err != nil {
		return err
	}
	if !state.Exists && !r.cfg.CreateSlot {
		if !r.failedOver(srv) {
			return slot.missing()
		}
		r.cfg.Log.Error().Str("slot", slot.Name).Stringer("timeline", srv.System.Timeline).
			Msg("the new primary has no slot, making it: what is not archived yet may be gone from the server")
	}
	if r.sink == nil {
		if r.sink, err = r.cfg.OpenSink(ctx, srv.Identity, state); err != nil {
			r.sink = nil
			return &sinkError{err} // also a full disk: there is nothing yet that could be archived to make room
		}
		r.identity = srv.Identity
	}
	if err := slot.reserve(ctx, srv.Conn, state); err != nil {
		return err
	}
	r.accepted = true
	return nil
}

// failedOver says whether the server was promoted since WAL was last received.
func (r *Receiver) failedOver(srv *pg.Server) bool {
	if r.cfg.Held == nil {
		return false
	}
	held := r.cfg.Held()
	return held != 0 && held < srv.System.Timeline
}

// keepSlot makes the slot anew when it is missing or has been given up: before
// anything is acknowledged to a new primary that is to keep what is not
// archived. Trouble with a slot that is not streamed through ends nothing; the
// hold slot tells of it and tries again.
func (r *Receiver) keepSlot(ctx context.Context, srv *pg.Server) error {
	slot := Slot{Options: srv.Options, Name: r.cfg.Slot}
	look := func(ctx context.Context) (SlotState, error) { return slot.read(ctx, srv.Conn) }
	if r.cfg.StreamSlot {
		look = slot.Show // which sees more
	}
	remade := r.hold.Status().Recreated
	st, err := look(ctx)
	if err == nil && !st.Holds() {
		err = r.hold.remake(ctx, srv.Conn, slot, st, remade)
	}
	if err != nil && !r.cfg.StreamSlot {
		r.cfg.Log.Warn().Str("slot", slot.Name).Err(err).Func(hint.Log(err)).Msg("what the server keeps is not known")
		return nil
	}
	return err
}

// choose finds what to stream: the sink's timelines that the server has ended
// are ended here too, until one is left that has more.
func (r *Receiver) choose(ctx context.Context, conn *pg.Conn, h segment.History, sys pg.System) (step, error) {
	have, held := r.sink.Resume()
	back := r.refill.LSN != 0 && (!held || r.refill.Timeline == have.Timeline && r.refill.LSN < have.LSN)
	if back {
		have, held = r.refill, true // all behind it may be archived by now
	}
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
		if !st.Done && r.removed != nil {
			start := st.Start
			if st, err = r.pass(ctx, conn, h, sys.FlushLSN, have, st); err != nil {
				return step{}, err
			}
			if st.Start != start { // all before is archived, or recorded as a gap
				have, held = segment.Position{Timeline: st.Timeline, LSN: st.Start}, true
			}
			r.removed = nil
		}
		if !st.Done && back {
			if err := r.sink.Skip(st.Timeline, st.Start); err != nil {
				return step{}, fromSink(err)
			}
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
		have, held, back = st.Next, false, false
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
	state, err := r.hold.current().read(ctx, conn)
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
func (r *Receiver) open(srv *pg.Server, st step, interval time.Duration) (*stream, error) {
	raw, err := srv.Hijack()
	if err != nil {
		return nil, fmt.Errorf("take over the connection: %w", err)
	}
	if raw.Frontend.ReadBufferLen() > 0 {
		return nil, errors.Join(errors.New("take over the connection: the server sent something unasked"), raw.Conn.Close())
	}
	conn, err := newWire(raw.Conn, r.cfg.SilenceTimeout)
	if err != nil {
		return nil, fmt.Errorf("take over the connection: %w", err)
	}
	s := &stream{
		conn: conn, in: newFrameReader(conn), sink: r.sink, board: r.board, log: r.cfg.Log, every: interval,
		fb: &feedback{conn: conn, now: r.cfg.Now}, silence: r.cfg.SilenceTimeout,
		timeline: st.Timeline, next: st.Start, portion: wal.LSN(r.identity.SegmentSize) / 2,
		dirty: make(chan struct{}, 1), chores: make(chan struct{}, 1),
		watch: func(ctx context.Context) error { return r.watch(ctx, srv) },
		start: startReplication(st.Timeline, st.Start),
	}
	if s.confirmed = r.confirmed; s.confirmed != nil {
		s.patience = r.cfg.ConfirmTimeout
		s.fb.limit = func() wal.LSN { end, _ := s.confirmed.of(s.timeline); return end }
	}
	if r.cfg.StreamSlot {
		s.start = strings.Replace(s.start, " ", fmt.Sprintf(" SLOT %q ", r.cfg.Slot), 1)
	}
	s.fb.received.Store(uint64(st.Start))
	return s, nil
}
