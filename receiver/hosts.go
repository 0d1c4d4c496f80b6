package receiver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/walstream/walstream/internal/pg"
)

// connect takes of the hosts the primary that goes on with what is here.
func (r *Receiver) connect(ctx context.Context) (*pg.Server, error) {
	servers, failed := pg.Survey(ctx, r.hosts)
	var foreign error
	for _, s := range servers {
		foreign = cmp.Or(foreign, s.Identity.Match("server "+s.Address(), servers[0].Identity))
		if r.sink != nil && s.Standby {
			failed = errors.Join(failed, r.remember(ctx, s))
		}
	}
	return pg.Choose(servers, failed, func(s *pg.Server) error {
		if r.sink == nil { // whose WAL is here is not known yet
			return foreign
		}
		return r.suits(ctx, s)
	})
}

// remember makes the history of a timeline that goes on from ours durable, so
// that an old primary is known for one even when this server is away.
func (r *Receiver) remember(ctx context.Context, srv *pg.Server) error {
	have, held := r.sink.Resume()
	if !held || srv.System.Timeline <= have.Timeline || srv.Identity != r.identity {
		return nil
	}
	_, branch := nextStep(srv.History, srv.System.FlushLSN, have, r.identity.SegmentSize)
	_, known := r.sink.History(srv.System.Timeline)
	if branch == nil && !known {
		return saveHistories(ctx, srv, r.sink)
	}
	return nil
}

// suits refuses a server that nothing may be acknowledged to: one of another
// cluster, on another branch, behind, or superseded. Those leave no trace:
// neither in the sink, from where histories are archived, nor in where the
// slot may go.
func (r *Receiver) suits(ctx context.Context, srv *pg.Server) error {
	r.board.connected(srv.Conn, srv.System.FlushLSN)
	if err := srv.Identity.Match("server "+srv.Address(), r.identity); err != nil {
		return err
	}
	if h, known := r.sink.History(srv.System.Timeline); known && !h.Equal(srv.History) {
		return &BranchError{Server: srv.System.Timeline, Ours: srv.System.Timeline}
	}
	if have, held := r.sink.Resume(); held {
		if _, err := nextStep(srv.History, srv.System.FlushLSN, have, r.identity.SegmentSize); err != nil {
			return err
		}
	}
	if r.cfg.Newer == nil {
		return nil
	}
	tli, where, err := r.cfg.Newer(ctx, srv.History)
	if err != nil || tli == 0 {
		return err
	}
	return srv.Superseded(tli, where)
}

// watch looks at the other hosts until ctx ends. It fails with a
// [*pg.SupersededError] when one of them is on a timeline that descends from
// srv's, and when WAL is to be streamed again.
func (r *Receiver) watch(ctx context.Context, srv *pg.Server) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, o := range r.hosts {
		if o.Host != srv.Options.Host {
			g.Go(func() error { return r.newNeighbour(o, srv).run(ctx) })
		}
	}
	g.Go(func() error {
		select {
		case r.refill = <-r.holes:
			return fmt.Errorf("WAL of timeline %s from %s on was lost: streaming it again", r.refill.Timeline, r.refill.LSN)
		case <-ctx.Done():
			return nil
		}
	})
	return g.Wait()
}

// neighbour is a host beside the one that is streamed from, as a rule a
// standby. The hold slot is kept on it too, so that it still has all WAL that
// is not archived should it take over.
type neighbour struct {
	r          *Receiver
	options    pg.Options
	primary    *pg.Server // streamed from; only its words are used
	log        zerolog.Logger
	srv        *pg.Server // nil without a connection
	slotLooked time.Time
	slotErr    error
	trouble    string // last logged
}

func (r *Receiver) newNeighbour(o pg.Options, primary *pg.Server) *neighbour {
	if name, err := o.Name(); err == nil { // New has parsed it
		o.ApplicationName = name + "_watch" // never a synchronous standby
	}
	o.AllowStandby = true
	return &neighbour{r: r, options: o, primary: primary, log: r.cfg.Log.With().Str("server", o.Host).Logger()}
}

func (n *neighbour) run(ctx context.Context) error {
	defer n.close()
	for {
		err := n.look(ctx)
		var superseded *pg.SupersededError
		if errors.As(err, &superseded) && superseded.Timeline == n.primary.System.Timeline {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		n.report(err)
		pause := n.r.cfg.WatchInterval
		if pg.Definite(err) { // spare its log
			pause = n.r.cfg.SlotInterval
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// look is one round, bounded because a host may hang.
func (n *neighbour) look(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if n.srv == nil {
		n.srv, err = pg.Look(ctx, n.options)
	} else {
		err = n.srv.Again(ctx)
	}
	if err == nil {
		err = n.srv.Identity.Match("server "+n.options.Host, n.primary.Identity)
	}
	if err != nil {
		n.close()
		return err
	}
	if err := n.srv.Supersedes(n.primary); err != nil {
		return err
	}
	if !n.srv.Standby {
		return n.primary.Supersedes(n.srv) // the old primary has come back
	}
	if time.Since(n.slotLooked) >= n.r.cfg.SlotInterval {
		n.slotLooked = time.Now()
		if n.slotErr = n.keepSlot(ctx); n.slotErr != nil {
			n.close()
		}
	}
	return n.slotErr
}

// keepSlot moves the slot of a standby to where the primary's is, as far as the
// standby is, and makes it when it holds nothing.
func (n *neighbour) keepSlot(ctx context.Context) error {
	slot := Slot{Options: n.options, Name: n.r.hold.current().Name}
	st, err := slot.read(ctx, n.srv.Conn)
	if err != nil {
		return err
	}
	if !st.Holds() {
		n.log.Info().Str("slot", slot.Name).Msg("making the slot on the standby")
		return slot.reserve(ctx, n.srv.Conn, st) // moved by the next look
	}
	_, err = slot.moveByProtocol(ctx, n.srv.Conn, n.srv.System, n.r.hold.keptOn(n.srv.System.Timeline))
	switch {
	case errors.Is(err, errInvalidated):
		return slot.reserve(ctx, n.srv.Conn, SlotState{Exists: true})
	case pg.Code(err) == pg.CodeObjectInUse: // by another receiver of this cluster
		return nil
	}
	return err
}

// report logs what is wrong with a host when that is news.
func (n *neighbour) report(err error) {
	if err == nil {
		n.trouble = ""
	} else if n.trouble != err.Error() {
		n.trouble = err.Error()
		n.log.Warn().Err(err).Msg("this host is not watched, or the slot on it not kept, trying again")
	}
}

func (n *neighbour) close() {
	if n.srv != nil {
		n.srv.Done()
		n.srv = nil
	}
}
