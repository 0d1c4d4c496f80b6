package receiver

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/rs/zerolog"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// Sink is where received WAL goes; [*segment.Spool] is one. One goroutine
// at a time calls Resume, History, SaveHistory, Begin, Skip, Room,
// Append and EndTimeline; Sync and Prepare are called beside it. Any error of a
// sink is final unless it says otherwise: nothing more is acknowledged and
// [Receiver.Run] returns it.
type Sink interface {
	// Resume is the newest timeline and its durable end, false for an empty
	// sink.
	Resume() (segment.Position, bool)
	// History is what a saved history file says, false when there is none.
	History(tli wal.Timeline) (segment.History, bool)
	// SaveHistory makes a history file durable before it returns.
	SaveHistory(tli wal.Timeline, body []byte) error
	// Begin starts a stream at a segment's start.
	Begin(tli wal.Timeline, lsn wal.LSN) error
	// Skip is Begin behind WAL that is archived, or that is gone and was
	// recorded as a gap, and before WAL that is missing in the sink. Begin
	// follows with the first bytes.
	Skip(tli wal.Timeline, lsn wal.LSN) error
	// Room waits until there is room for WAL before end and returns up to
	// where there is. While it waits no WAL is read, but status goes on
	// being sent. It fails when ctx ends.
	Room(ctx context.Context, end wal.LSN) (wal.LSN, error)
	// Append takes bytes over; p is reused after it returns. A
	// [*segment.FullError] is not final.
	Append(tli wal.Timeline, lsn wal.LSN, p []byte) error
	// Sync makes durable what was appended before the call and returns the
	// durable end.
	Sync() (wal.LSN, error)
	// Prepare does beside the others what an Append would have to wait for
	// otherwise. WAL before ahead is about to come. It returns early, without
	// an error, when ctx ends.
	Prepare(ctx context.Context, ahead wal.LSN) error
	// EndTimeline says that the server ended timeline tli at end, and returns
	// the end of what the sink holds of it. It may be said again after a
	// restart.
	EndTimeline(tli wal.Timeline, end wal.LSN) (held wal.LSN, err error)
}

// Config says what to receive and where to put it.
type Config struct {
	// Options leads to the primary. Of several hosts the primary with the
	// newest timeline that goes on with ours is streamed from, and the
	// others are watched meanwhile. AllowStandby is ignored.
	Options pg.Options
	// Slot is the name of the hold slot, that the configuration has checked.
	Slot string
	// HoldMax is how many bytes of WAL the slot may keep on the server for
	// the archive's sake; what is more it gives up, if it is durable in the
	// sink. Zero is no limit.
	HoldMax int64
	// StreamSlot streams through the slot, so that it keeps only what is not
	// durable in the sink.
	StreamSlot bool
	// CreateSlot makes a missing slot at the first connection; without it a
	// missing slot is an error, unless the server is on a newer timeline
	// than Held says: a standby that was promoted meanwhile.
	CreateSlot bool
	// Held is the newest timeline that the sink has WAL of, before it is
	// opened; zero for none. May be nil.
	Held func() wal.Timeline
	// OpenSink is called once, at the first connection, with the identity
	// of the server's cluster and the state of the slot. This is the place
	// to pin or compare the identity: a [*segment.ForeignError] ends Run
	// before anything is stored.
	OpenSink func(context.Context, segment.Identity, SlotState) (Sink, error)
	// ArchiveResume is where to go on when the sink is empty and the slot
	// holds WAL from from on: the end of the complete segments that the
	// archive holds on the way of the given history, without a hole behind
	// from; false when it holds none. May be nil.
	ArchiveResume func(ctx context.Context, h segment.History, from wal.LSN) (segment.Position, bool, error)
	// Newer is the newest timeline known here, in sink or archive, that
	// descends from the given history's, and where it is known; zero when
	// there is none. A server with such a history is an old primary. May be
	// nil.
	Newer func(context.Context, segment.History) (tli wal.Timeline, where string, err error)
	// Covered is how far the archive holds the WAL of the given history
	// from a position on; a recorded gap counts as held. May be nil.
	Covered func(context.Context, segment.History, segment.Position) (wal.LSN, error)
	// OnGap records durably that neither sink nor archive nor server has
	// certain WAL, for the reason given. Then streaming goes on behind it.
	// It may be called again for the same gap. If it is nil, a gap ends Run.
	OnGap func(context.Context, segment.GapError, error) error
	// Confirmed says that what is durable in the sink is not enough: WAL is
	// acknowledged once [Receiver.Confirm] says that it is in the archive.
	Confirmed bool
	Log       zerolog.Logger

	// StatusInterval is the longest time between two status messages; zero
	// means 10 s. A server with a short wal_sender_timeout gets them more
	// often.
	StatusInterval time.Duration
	// SilenceTimeout is how long the server may say nothing, pings
	// included, before the connection is given up; zero means 60 s.
	SilenceTimeout time.Duration
	// SlotInterval is how often the hold slot is looked at; zero means 10 s.
	SlotInterval time.Duration
	// WatchInterval is how often each of the other hosts is looked at while
	// one is streamed from; zero means 1 s.
	WatchInterval time.Duration
	// ConfirmTimeout is how long Confirm may say nothing new, while WAL waits
	// for that, before the connection is given up; zero means 30 s.
	ConfirmTimeout time.Duration
	// Now is the clock of Status; nil means time.Now.
	Now func() time.Time
}

// Receiver streams WAL from one primary.
type Receiver struct {
	cfg   Config
	hosts []pg.Options
	board *board
	hold  *HoldSlot

	confirmed *confirmed // nil unless Config.Confirmed

	// The session's alone.
	sink     Sink // opened for identity
	identity segment.Identity
	accepted bool             // the server was good once, its slot included
	removed  *WALRemovedError // why the last session ended, if that is why
	refill   segment.Position // the next one begins there

	holes chan segment.Position // for refill
}

// New checks the configuration; it does not connect.
func New(cfg Config) (*Receiver, error) {
	if cfg.OpenSink == nil {
		return nil, errors.New("receiver: no OpenSink")
	}
	cfg.Options.AllowStandby = false
	cfg.StatusInterval = cmp.Or(cfg.StatusInterval, 10*time.Second)
	cfg.SilenceTimeout = cmp.Or(cfg.SilenceTimeout, time.Minute)
	cfg.SlotInterval = cmp.Or(cfg.SlotInterval, 10*time.Second)
	cfg.WatchInterval = cmp.Or(cfg.WatchInterval, time.Second)
	cfg.ConfirmTimeout = cmp.Or(cfg.ConfirmTimeout, 30*time.Second)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	hosts, err := cfg.Options.Hosts()
	if err != nil {
		return nil, err
	}
	r := &Receiver{cfg: cfg, hosts: hosts, board: newBoard(cfg.Now), holes: make(chan segment.Position, 1)}
	if cfg.Confirmed {
		r.confirmed = &confirmed{changed: make(chan struct{})}
	}
	r.hold = newHoldSlot(Slot{Options: cfg.Options, Name: cfg.Slot}, cfg.SlotInterval, cfg.Log)
	r.hold.covered = cfg.Covered
	r.hold.max, r.hold.streams, r.hold.durable = wal.LSN(cfg.HoldMax), cfg.StreamSlot, r.board.durable
	r.hold.status.Streamed = cfg.StreamSlot
	return r, nil
}

// HoldSlot keeps the slot behind the archive. Its Run belongs beside this
// Run, and may outlast it: it waits until the server is known to be the right
// one.
func (r *Receiver) HoldSlot() *HoldSlot { return r.hold }

// Refill has the WAL of the sink's newest timeline streamed again from a
// position on, because it is missing before what the sink holds. It does not
// wait. What the server has removed becomes a gap.
func (r *Receiver) Refill(from segment.Position) {
	select {
	case r.holes <- from:
	default: // one after the other
	}
}

// Status is the present state. It may be called at any time.
func (r *Receiver) Status() Status { return r.board.read() }

// Run streams until ctx ends, and then returns nil after what was received
// has been made durable and acknowledged. A server that cannot be reached is
// tried again for ever, at least every 3 s. An error ends Run when waiting
// cannot mend it: a definite refusal at the first connection ([pg.Definite], a
// slot that is missing or unfit), a server of another cluster
// ([*segment.ForeignError]), WAL that nobody has any more when there is no
// OnGap ([*segment.GapError]), or any error of the sink. It must be called only
// once.
func (r *Receiver) Run(ctx context.Context) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 100*time.Millisecond, 2*time.Second // and half of it more at random
	if len(r.hosts) > 1 {
		wait.MaxInterval /= 2 // one of them may be promoted any time
	}
	defer r.board.state(Stopped)
	for {
		began := time.Now()
		err := r.session(ctx)
		errors.As(err, &r.removed)
		if r.final(err) {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > wait.MaxInterval { // it had been good
			wait.Reset()
		}
		if err == nil { // the end of a timeline: the next one at once
			continue
		}
		if r.board.failed(err) {
			level := zerolog.WarnLevel
			if alarming(err) {
				level = zerolog.ErrorLevel
			}
			r.cfg.Log.WithLevel(level).Err(err).Func(hint.Log(err)).Msg("not streaming, trying again")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait.NextBackOff()):
		}
	}
}

// final says whether err ends Run.
func (r *Receiver) final(err error) bool {
	if errors.As(err, new(*segment.ForeignError)) || errors.As(err, new(*sinkError)) {
		return true
	}
	if errors.As(err, new(*segment.GapError)) && r.cfg.OnGap == nil {
		return true
	}
	return !r.accepted && (errors.As(err, new(*refusal)) || pg.Definite(err))
}
