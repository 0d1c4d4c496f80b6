package receiver

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// slotAccess is a way to read and move a slot.
type slotAccess interface {
	look(context.Context) (slotSight, error)
	// advance moves the slot of a server on that timeline forward and
	// returns where it is then; its own position counts as use of the slot.
	// It never goes beyond what the server has flushed.
	advance(context.Context, segment.Position) (wal.LSN, error)
	close()
}

// slotSight is what is seen of a slot and its server in one look.
type slotSight struct {
	slot   SlotState
	at     segment.Position  // how far the server has flushed its timeline
	moment Moment            // of it, zero where SQL is not allowed
	sync   map[uint32]string // [HoldStatus.SyncStates]
}

// sqlAccess moves the slot with pg_replication_slot_advance, on one connection
// that is kept.
type sqlAccess struct {
	slot Slot
	conn *pg.Conn
	size segment.Size
}

// check refuses another cluster than the one that was accepted.
func (a *sqlAccess) check(ctx context.Context, want segment.Identity) error {
	have := want
	if err := a.conn.Row(ctx, "SELECT system_identifier FROM pg_catalog.pg_control_system()", &have.SystemIdentifier); err != nil {
		return err
	}
	return have.Match("server "+a.conn.Address(), want)
}

func (a *sqlAccess) look(ctx context.Context) (s slotSight, err error) {
	if s.sync, err = a.syncStates(ctx); err != nil {
		return s, err
	}
	if s.slot, err = a.slot.readSQL(ctx, a.conn); err != nil {
		return s, err
	}
	s.at, s.moment, err = a.position(ctx)
	return s, err
}

// position takes the timeline from the name of the present WAL file. A primary
// keeps its timeline as long as the connection lasts.
func (a *sqlAccess) position(ctx context.Context) (pos segment.Position, m Moment, err error) {
	var file string
	err = a.conn.Row(ctx, "SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), pg_catalog.pg_current_wal_flush_lsn(), "+
		"pg_catalog.to_json(pg_catalog.clock_timestamp()) #>> '{}', pg_catalog.pg_current_wal_insert_lsn()", &file, &pos.LSN, &m.Time, &m.Insert.LSN)
	if err != nil {
		return pos, m, err
	}
	id, err := segment.ParseName(file, a.size)
	pos.Timeline, m.Insert.Timeline = id.Timeline, id.Timeline
	m.Insert.LSN = a.size.BeforeHeader(m.Insert.LSN)
	return pos, m, err
}

func (a *sqlAccess) advance(ctx context.Context, to segment.Position) (at wal.LSN, err error) {
	err = a.conn.Row(ctx, fmt.Sprintf("SELECT end_lsn FROM pg_catalog.pg_replication_slot_advance(%s, '%s')",
		pg.QuoteLiteral(a.slot.Name), to.LSN), &at)
	return at, err
}

func (a *sqlAccess) syncStates(ctx context.Context) (map[uint32]string, error) {
	rows, err := a.conn.Rows(ctx, "SELECT pid, sync_state FROM pg_catalog.pg_stat_replication WHERE sync_state IS NOT NULL")
	if err != nil {
		return nil, err
	}
	states := map[uint32]string{}
	for _, row := range rows {
		pid, err := strconv.ParseUint(row[0], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("pg_stat_replication: %w", err)
		}
		states[uint32(pid)] = row[1]
	}
	return states, nil
}

func (a *sqlAccess) close() { a.conn.Done() }

// errInvalidated is PostgreSQL 18's refusal to use a slot that it has given up.
var errInvalidated = errors.New("the slot has been invalidated")

// protocolAccess moves the slot with a short stream of its own, for servers
// that allow no SQL: walsender takes over the flush position of a status.
type protocolAccess struct{ h *HoldSlot }

func (a protocolAccess) look(ctx context.Context) (s slotSight, err error) {
	conn, sys, err := a.h.walsender(ctx)
	if err != nil {
		return s, err
	}
	defer conn.Done()
	s.slot, err = a.h.at.slot.read(ctx, conn)
	s.at = segment.Position{Timeline: sys.Timeline, LSN: sys.FlushLSN}
	return s, err
}

func (a protocolAccess) advance(ctx context.Context, pos segment.Position) (wal.LSN, error) {
	conn, sys, err := a.h.walsender(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Done()
	if sys.Timeline != pos.Timeline {
		return 0, fmt.Errorf("the server has changed from timeline %s to %s", pos.Timeline, sys.Timeline)
	}
	return a.h.at.slot.moveByProtocol(ctx, conn, sys, pos.LSN)
}

// moveByProtocol streams from the server's end, so that hardly any WAL comes.
// The server would move the slot backward, or ahead of itself: both are
// prevented here.
func (s Slot) moveByProtocol(ctx context.Context, conn *pg.Conn, sys pg.System, to wal.LSN) (wal.LSN, error) {
	front := conn.Frontend()
	front.Send(&pgproto3.Query{String: fmt.Sprintf(`START_REPLICATION SLOT "%s" PHYSICAL %s TIMELINE %s`,
		s.Name, sys.FlushLSN, sys.Timeline)})
	if err := front.Flush(); err != nil {
		return 0, err
	}
	err := await[*pgproto3.CopyBothResponse](ctx, conn)
	if pg.Code(err) == pg.CodeObjectNotReady { // it is physical: read has seen to that
		err = fmt.Errorf("%w: %w", errInvalidated, err)
	}
	if pg.Code(err) != "" { // the connection goes on
		return 0, errors.Join(err, await[*pgproto3.ReadyForQuery](ctx, conn))
	}
	if err != nil {
		return 0, err
	}
	// From here on the slot is ours: nobody moves it after it was read.
	second, err := pg.ConnectReplication(ctx, s.Options)
	if err != nil {
		return 0, err
	}
	defer second.Done()
	state, err := s.read(ctx, second)
	if err != nil {
		return 0, err
	}
	to = max(min(to, sys.FlushLSN), state.RestartLSN)
	status := appendStatus(nil, to, to, time.Now(), false)
	front.Send(&pgproto3.CopyData{Data: status[5:]}) // the driver frames it
	front.Send(&pgproto3.CopyDone{})
	if err := front.Flush(); err != nil {
		return 0, err
	}
	return to, await[*pgproto3.ReadyForQuery](ctx, conn)
}

// await reads messages up to one of type T; an error message of the server
// ends it too.
func await[T pgproto3.BackendMessage](ctx context.Context, conn *pg.Conn) error {
	for {
		m, err := conn.ReceiveMessage(ctx)
		if err != nil {
			return err
		}
		if _, ok := m.(T); ok {
			return nil
		}
		if e, ok := m.(*pgproto3.ErrorResponse); ok {
			return pg.ServerError(e)
		}
	}
}

func (a protocolAccess) close() {} // its connections are short
