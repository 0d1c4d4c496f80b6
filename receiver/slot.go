package receiver

import (
	"context"
	"fmt"

	"github.com/walstream/walstream/internal/crashpoint"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// Slot is a physical replication slot of the server that Options leads to.
// Slots of a standby are its own: set Options.AllowStandby to work on those.
type Slot struct {
	Options pg.Options
	Name    string // that the configuration has checked
}

// SlotState is what the server says about a slot.
type SlotState struct {
	Name   string `json:"name"`
	Exists bool   `json:"exists"`
	// RestartLSN is from where on the server keeps WAL, zero when the slot
	// holds nothing.
	RestartLSN wal.LSN `json:"restart_lsn,omitempty"`
	// WALStatus is pg_replication_slots.wal_status and Active whether a
	// connection uses the slot; both need SQL to be allowed.
	WALStatus string `json:"wal_status,omitempty"`
	Active    bool   `json:"active"`
}

// Holds says whether the slot keeps any WAL: a slot that was made without
// RESERVE_WAL or has been invalidated does not.
func (s SlotState) Holds() bool { return s.Exists && s.RestartLSN != 0 && s.WALStatus != "lost" }

// Moved says whether an archive was told to hold the WAL before the slot, in
// segments of this size. The place of a new slot is a checkpoint's redo, a
// record: it never lies where a segment begins, because its header does.
func (s SlotState) Moved(size segment.Size) bool {
	return s.RestartLSN != 0 && size.Offset(s.RestartLSN) == 0
}

// Show asks for the slot's state, by SQL if that is allowed.
func (s Slot) Show(ctx context.Context) (SlotState, error) {
	conn, err := pg.ConnectSQL(ctx, s.Options)
	if err == nil {
		defer conn.Done()
		return s.readSQL(ctx, conn)
	}
	if !pg.Definite(err) {
		return SlotState{}, err
	}
	if conn, err = pg.ConnectReplication(ctx, s.Options); err != nil {
		return SlotState{}, err
	}
	defer conn.Done()
	return s.read(ctx, conn)
}

// Create makes the slot so that it holds WAL from the last checkpoint on. A
// slot that exists and holds WAL is left alone, and created is false; one that
// holds none is replaced.
func (s Slot) Create(ctx context.Context) (created bool, err error) {
	state, err := s.Show(ctx)
	if err != nil {
		return false, err
	}
	conn, err := pg.ConnectReplication(ctx, s.Options)
	if err != nil {
		return false, err
	}
	defer conn.Done()
	return !state.Holds(), s.reserve(ctx, conn, state)
}

// Drop removes the slot. The server then no longer keeps WAL that is not
// archived.
func (s Slot) Drop(ctx context.Context) error {
	conn, err := pg.ConnectReplication(ctx, s.Options)
	if err != nil {
		return err
	}
	defer conn.Done()
	return s.drop(ctx, conn)
}

// read asks on a replication connection; before PostgreSQL 15 that has no
// command for it, and SQL has to be allowed. From 16 on the answer does not
// show every invalidated slot.
func (s Slot) read(ctx context.Context, conn *pg.Conn) (SlotState, error) {
	major, err := conn.Major()
	if err != nil {
		return SlotState{}, err
	}
	if major < 15 {
		sql, err := pg.ConnectSQL(ctx, s.Options)
		if err != nil {
			return SlotState{}, fmt.Errorf("look at slot %s: %w", s.Name, err)
		}
		defer sql.Done()
		return s.readSQL(ctx, sql)
	}
	rows, err := conn.Rows(ctx, `READ_REPLICATION_SLOT "`+s.Name+`"`)
	if pg.Code(err) == pg.CodeObjectNotReady || pg.Code(err) == pg.CodeFeatureNotSupported {
		return SlotState{}, s.unfit(err)
	}
	if err != nil {
		return SlotState{}, err
	}
	if len(rows) != 1 || len(rows[0]) < 2 {
		return SlotState{}, fmt.Errorf("READ_REPLICATION_SLOT %s: unusable answer", s.Name)
	}
	return s.state(rows[0][0], rows[0][1])
}

func (s Slot) readSQL(ctx context.Context, conn *pg.Conn) (SlotState, error) {
	rows, err := conn.Rows(ctx, "SELECT slot_type, coalesce(restart_lsn::text, ''), coalesce(wal_status, ''), active"+
		"\nFROM pg_catalog.pg_replication_slots WHERE slot_name = "+pg.QuoteLiteral(s.Name))
	if err != nil {
		return SlotState{}, err
	}
	if len(rows) == 0 {
		return SlotState{Name: s.Name}, nil
	}
	st, err := s.state(rows[0][0], rows[0][1])
	st.WALStatus, st.Active = rows[0][2], rows[0][3] == "t"
	return st, err
}

// state makes a SlotState of a slot_type, "" for no slot, and a restart_lsn.
func (s Slot) state(kind, restart string) (SlotState, error) {
	st := SlotState{Name: s.Name, Exists: kind != ""}
	if kind != "" && kind != "physical" {
		return st, s.unfit(fmt.Errorf("it is a %s slot", kind))
	}
	if restart == "" {
		return st, nil
	}
	var err error
	st.RestartLSN, err = wal.ParseLSN(restart)
	return st, err
}

// reserve makes the slot hold WAL, given the state it was seen in.
func (s Slot) reserve(ctx context.Context, conn *pg.Conn, seen SlotState) error {
	if seen.Holds() {
		return nil
	}
	if seen.Exists {
		if err := s.drop(ctx, conn); err != nil && pg.Code(err) != pg.CodeUndefinedObject {
			return err
		}
	}
	_, err := conn.Rows(ctx, `CREATE_REPLICATION_SLOT "`+s.Name+`" PHYSICAL RESERVE_WAL`)
	if pg.Code(err) == pg.CodeDuplicateObject { // another receiver was faster
		return nil
	}
	if err == nil {
		crashpoint.Hit(crashpoint.SlotReserved)
	}
	return err
}

func (s Slot) drop(ctx context.Context, conn *pg.Conn) error {
	_, err := conn.Rows(ctx, `DROP_REPLICATION_SLOT "`+s.Name+`"`)
	return err
}

func (s Slot) missing() error {
	return &refusal{hint.Errorf("walstream slot create --slot "+s.Name,
		"replication slot %q does not exist", s.Name)}
}

func (s Slot) unfit(err error) error {
	return &refusal{hint.With(fmt.Errorf("replication slot %q cannot be used: %w", s.Name, err),
		"choose another name: --slot %s_physical", s.Name)}
}
