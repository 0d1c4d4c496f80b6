package receiver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/walstream/walstream/internal/crashpoint"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// HoldSlot keeps a replication slot at what the archive holds, so that the
// primary keeps everything else. The slot is moved only by [HoldSlot.Advance]
// and only forward, in any case looked at and touched regularly: a slot that
// is missing or has lost its WAL is made anew.
type HoldSlot struct {
	every   time.Duration
	log     zerolog.Logger
	ready   chan struct{}                                                             // closed by follow
	covered func(context.Context, segment.History, segment.Position) (wal.LSN, error) // [Config.Covered]
	wake    chan struct{}                                                             // Advance was called

	access slotAccess // Run's alone, like the next two
	at     holdPlace  // where access leads
	noSQL  bool       // the server lets us use the replication protocol only

	identity segment.Identity // set before ready is closed

	streams bool    // the slot is streamed through: it is only looked at
	max     wal.LSN // that the server may keep; zero is no limit
	// durable is up to where the receiver's disk holds WAL.
	durable func() segment.Position
	busy    time.Time // since when another connection uses the slot

	making sync.Mutex // held while the slot is made anew, before mu

	mu      sync.Mutex
	slot    Slot            // of the server that is followed
	history segment.History // of the server's timeline
	since   wal.LSN         // from here to target all is archived
	target  segment.Position
	status  HoldStatus
	kept    segment.Position // as status says, and on which timeline
}

// HoldStatus is what is known of the hold slot.
type HoldStatus struct {
	SlotState
	// Target is the position the slot may move to.
	Target wal.LSN `json:"target_lsn,omitempty"`
	// Looked is when the server last answered.
	Looked time.Time `json:"looked,omitzero"`
	// SyncStates is the sync_state in pg_stat_replication of each walsender,
	// by its process, when the slot was last looked at. It is nil where SQL,
	// and empty where these details (pg_read_all_stats), are not allowed.
	SyncStates map[uint32]string `json:"-"`
	// Moment is of the server when the slot was last looked at; zero where SQL
	// is not allowed.
	Moment Moment `json:"-"`
	// Failure is why the slot cannot be looked at or moved.
	Failure *hint.Failure `json:"failure,omitempty"`
	// Streamed says that the slot keeps only what is not durable in the sink.
	Streamed bool `json:"streamed,omitempty"`
	// OverMax is since when the server would have to keep more than HoldMax,
	// so that the slot has left behind what is not archived; zero while it
	// has not.
	OverMax time.Time `json:"over_max,omitzero"`
	// Recreated counts how often the slot was found missing or lost; WAL
	// that was not archived may have gone each time.
	Recreated int `json:"recreated"`
}

// Moment is a time by the server's clock, and where its WAL ended then, whether
// it was written or not.
type Moment struct {
	Time   time.Time
	Insert segment.Position
}

func newHoldSlot(slot Slot, every time.Duration, log zerolog.Logger) *HoldSlot {
	return &HoldSlot{
		slot: slot, every: every, log: log.With().Str("slot", slot.Name).Logger(),
		ready: make(chan struct{}), wake: make(chan struct{}, 1),
		status:  HoldStatus{SlotState: SlotState{Name: slot.Name}},
		durable: func() segment.Position { return segment.Position{} },
	}
}

// holdPlace is a server in one stage of its life.
type holdPlace struct {
	slot     Slot
	timeline wal.Timeline
}

// follow says that the server was found to be the right one.
func (h *HoldSlot) follow(srv *pg.Server) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.history.Timeline == 0 {
		h.identity = srv.Identity // the same from now on
		close(h.ready)
	}
	h.history, h.slot.Options = srv.History, srv.Options
}

func (h *HoldSlot) place() holdPlace {
	h.mu.Lock()
	defer h.mu.Unlock()
	return holdPlace{h.slot, h.history.Timeline}
}

func (h *HoldSlot) current() Slot { return h.place().slot }

// Advance allows the slot to move to pos: all WAL from since to there is
// archived. A slot that holds WAL before since moves only if the archive has
// that too. It does not wait; positions below earlier ones of the timeline,
// and those of an older one, are ignored.
func (h *HoldSlot) Advance(since wal.LSN, pos segment.Position) {
	h.mu.Lock()
	if pos.Timeline > h.target.Timeline || pos.Timeline == h.target.Timeline && pos.LSN > h.target.LSN {
		h.since, h.target = since, pos
	}
	h.mu.Unlock()
	wake(h.wake)
}

// allowed is how far the slot of a server on timeline tli may move; zero when
// that is not known. A server that was restored to a point below the target
// has other WAL from there on, of which nothing is archived yet.
func (h *HoldSlot) allowed(tli wal.Timeline) wal.LSN {
	h.mu.Lock()
	defer h.mu.Unlock()
	if tli != h.history.Timeline {
		return 0
	}
	if h.target.Timeline == tli {
		return h.target.LSN
	}
	fork, _ := h.history.EndOf(h.target.Timeline)
	return min(h.target.LSN, fork)
}

// Status is the present state. It may be called at any time.
func (h *HoldSlot) Status() HoldStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	st := h.status
	st.Target = h.target.LSN
	return st
}

// Run keeps the slot until ctx ends; then it moves it a last time. It waits
// until the receiver has accepted the server. Trouble with the slot is never
// an error here: it is logged, shown in Status and tried again. It must be
// called only once.
func (h *HoldSlot) Run(ctx context.Context) error {
	defer h.close()
	select {
	case <-h.ready:
	case <-ctx.Done():
		return nil
	}
	t := time.NewTicker(h.every)
	defer t.Stop()
	for {
		h.look(ctx)
		select {
		case <-ctx.Done():
			if st := h.Status(); st.Target > st.RestartLSN {
				h.look(context.WithoutCancel(ctx))
			}
			return nil
		case <-h.wake:
		case <-t.C:
		}
	}
}

// look is one round. It is bounded, so that a server which hangs does not keep
// Run from ending.
func (h *HoldSlot) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := h.keep(ctx)
	if err != nil {
		h.close()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil || errors.Is(err, context.Canceled) {
		h.status.Failure = nil
		return
	}
	before := h.status.Failure
	h.status.Failure = before.Again(err, time.Now())
	if before == nil || before.Error != h.status.Failure.Error {
		h.log.Warn().Err(err).Func(hint.Log(err)).Msg("slot not moved, trying again")
	}
}

func (h *HoldSlot) keep(ctx context.Context) error {
	if err := h.connect(ctx); err != nil {
		return err
	}
	remade := h.Status().Recreated
	seen, err := h.access.look(ctx)
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.status.SyncStates, h.status.Moment = seen.sync, seen.moment
	h.mu.Unlock()
	st, at := seen.slot, seen.at
	if !st.Holds() && !h.streams {
		if st, err = h.recreate(ctx, st, remade); err != nil {
			return err
		}
	}
	h.note(st)
	if h.streams {
		return nil
	}
	to, over := h.goal(at, st.RestartLSN)
	var hole error
	if to > st.RestartLSN && !over {
		if hole = h.unbroken(ctx, st.RestartLSN); hole != nil {
			to = 0
		}
	}
	h.noteOver(over, to)
	to = max(to, st.RestartLSN) // its own position again is a touch
	to, err = h.access.advance(ctx, segment.Position{Timeline: at.Timeline, LSN: to})
	if errors.Is(err, errInvalidated) {
		st.WALStatus = "lost"
		if st, err = h.recreate(ctx, st, remade); err == nil {
			h.note(st)
		}
		return err
	}
	if pg.Code(err) == pg.CodeObjectInUse {
		return cmp.Or(h.inUse(err), hole)
	}
	h.busy = time.Time{}
	if pg.Code(err) == pg.CodeObjectNotReady {
		return hole // another receiver has moved it further ("minimum is")
	}
	if err != nil {
		return err
	}
	if to > st.RestartLSN {
		crashpoint.Hit(crashpoint.SlotAdvanced)
	}
	st.RestartLSN = to
	h.note(st)
	return hole
}

// unbroken fails if the archive lacks WAL between from, where the slot is, and
// what this process has archived.
func (h *HoldSlot) unbroken(ctx context.Context, from wal.LSN) error {
	h.mu.Lock()
	since, history := h.since, h.history
	h.mu.Unlock()
	if from >= since || h.covered == nil {
		return nil
	}
	size := h.identity.SegmentSize
	start := size.Floor(from)
	end, err := h.covered(ctx, history, segment.Position{Timeline: history.SegmentAt(start, size).Timeline, LSN: start})
	if err != nil {
		return fmt.Errorf("does the archive hold all WAL from %s on? %w", from, err)
	}
	if end < since {
		return hint.Errorf("walstream list wal", "the archive lacks WAL from %s on, before what was archived at %s", max(from, end), since)
	}
	return nil
}

func (h *HoldSlot) note(st SlotState) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.status.SlotState, h.status.Looked = st, time.Now()
	h.kept = segment.Position{Timeline: h.at.timeline, LSN: st.RestartLSN}
}

// keptOn is where the slot of the server that is followed was seen last, if
// that is on timeline tli; zero otherwise.
func (h *HoldSlot) keptOn(tli wal.Timeline) wal.LSN {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.kept.Timeline != tli {
		return 0
	}
	return h.kept.LSN
}

// recreate makes a slot that holds nothing anew. It was seen so when the slot
// had been remade that often.
func (h *HoldSlot) recreate(ctx context.Context, was SlotState, remade int) (SlotState, error) {
	conn, _, err := h.walsender(ctx)
	if err != nil {
		return was, err
	}
	defer conn.Done()
	if err := h.remake(ctx, conn, h.at.slot, was, remade); err != nil {
		return was, err
	}
	return h.at.slot.read(ctx, conn)
}

// remake is called by Run and by the stream that connects again, which may both
// have seen the lost slot: the second must not drop what the first has made,
// because a slot made later may keep less.
func (h *HoldSlot) remake(ctx context.Context, conn *pg.Conn, slot Slot, was SlotState, remade int) error {
	h.making.Lock()
	defer h.making.Unlock()
	if h.Status().Recreated != remade {
		return nil
	}
	h.log.Error().Bool("exists", was.Exists).Str("wal_status", was.WALStatus).
		Msg("the slot holds no WAL, making it anew: what is not archived yet may be gone from the server")
	if err := slot.reserve(ctx, conn, was); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.status.Recreated++
	return nil
}

// connect opens the way to the slot: SQL if the server lets us, otherwise the
// replication protocol from then on.
func (h *HoldSlot) connect(ctx context.Context) error {
	if at := h.place(); at != h.at { // after a failover even the same address may lead elsewhere
		h.close()
		h.at = at
	}
	if h.access != nil {
		return nil
	}
	if h.noSQL {
		h.access = protocolAccess{h}
		return nil
	}
	conn, err := pg.ConnectSQL(ctx, h.at.slot.Options)
	if pg.Definite(err) && !errors.Is(err, pg.ErrStandby) {
		h.log.Info().Err(err).Msg("no SQL for the slot, moving it by the replication protocol")
		h.noSQL = true
		return h.connect(ctx)
	}
	if err != nil {
		return err
	}
	a := &sqlAccess{slot: h.at.slot, conn: conn, size: h.identity.SegmentSize}
	if err := a.check(ctx, h.identity); err != nil {
		a.close()
		return err
	}
	h.access = a
	return nil
}

// walsender is a replication connection to the cluster that was accepted, and
// where that is.
func (h *HoldSlot) walsender(ctx context.Context) (*pg.Conn, pg.System, error) {
	conn, err := pg.ConnectReplication(ctx, h.at.slot.Options)
	if err != nil {
		return nil, pg.System{}, err
	}
	id, sys, err := conn.Identity(ctx)
	if err == nil {
		err = id.Match("server "+conn.Address(), h.identity)
	}
	if err != nil {
		conn.Done()
		return nil, sys, fmt.Errorf("slot %s: %w", h.at.slot.Name, err)
	}
	return conn, sys, nil
}

func (h *HoldSlot) close() {
	if h.access != nil {
		h.access.close()
		h.access = nil
	}
}
