package backup

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/rs/zerolog"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/wal"
)

// request is what BASE_BACKUP is asked for.
type request struct {
	label      string
	checkpoint Checkpoint
	maxRate    int64 // KiB a second, 0 is unlimited
}

// command is the request in the syntax of that major version: PostgreSQL 15
// put the options into parentheses and gave some of them other names. It asks
// for the single-stream format of the answer (TARGET 'client') where there is
// one, and not to wait for the server's own archiver: the archive is asked
// instead.
func (r request) command(major int) string {
	options := []string{
		"LABEL " + pg.QuoteLiteral(r.label), "PROGRESS", "TABLESPACE_MAP",
		"MANIFEST 'yes'", "MANIFEST_CHECKSUMS '" + checksumAlgorithm + "'",
	}
	if r.maxRate > 0 {
		options = append(options, fmt.Sprintf("MAX_RATE %d", r.maxRate))
	}
	if !singleStream(major) {
		options = append(options, "NOWAIT")
		if r.checkpoint == Fast {
			options = append(options, "FAST")
		}
		return "BASE_BACKUP " + strings.Join(options, " ")
	}
	options = append(options, "CHECKPOINT "+pg.QuoteLiteral(string(r.checkpoint)), "WAIT 0", "TARGET 'client'")
	return "BASE_BACKUP (" + strings.Join(options, ", ") + ")"
}

// position is where a backup starts or stops.
type position struct {
	lsn      wal.LSN
	timeline wal.Timeline
}

// stream is the answer to BASE_BACKUP, read message by message. Its methods
// must be called in the order start, next until the end, finish.
// (PostgreSQL: basebackup_copy.c, before 15 basebackup.c.)
type stream struct {
	conn  *pg.Conn
	major int // of the server
	log   zerolog.Logger

	begin       position
	tablespaces []Tablespace // without the data directory itself
	archives    []uint32     // tablespaces in the order of their tar streams, 0 is the data directory
	estimate    int64        // bytes that will come, roughly

	copies  int  // begun so far, before PostgreSQL 15
	copying bool // in the last of them
}

// start sends the command and waits until the server has done its checkpoint
// and the stream begins.
func (s *stream) start(ctx context.Context, r request) error {
	s.conn.Frontend().Send(&pgproto3.Query{String: r.command(s.major)})
	if err := s.conn.Frontend().Flush(); err != nil {
		return err
	}
	var err error
	if s.begin, err = s.position(ctx); err != nil {
		return err
	}
	if err := s.readTablespaces(ctx); err != nil || !singleStream(s.major) {
		return err
	}
	return s.beginCopy(ctx)
}

func (s *stream) beginCopy(ctx context.Context) error {
	msg, err := s.receive(ctx)
	if err != nil {
		return err
	}
	if _, ok := msg.(*pgproto3.CopyOutResponse); !ok {
		return unexpected(msg)
	}
	return nil
}

// finish reads what follows the stream: where the backup stops, and whether
// the server found damaged pages on the way, which it reports as an error only
// after it has sent everything.
func (s *stream) finish(ctx context.Context) (end position, damaged bool, err error) {
	if end, err = s.position(ctx); err != nil {
		return end, false, err
	}
	for {
		msg, err := s.receive(ctx)
		switch {
		case pg.Code(err) == pg.CodeDataCorrupted:
			s.log.Error().Err(err).Msg("the server found damaged pages; the backup is kept and marked")
			damaged = true
			continue
		case err != nil:
			return end, damaged, err
		}
		switch msg := msg.(type) {
		case *pgproto3.CommandComplete:
		case *pgproto3.ReadyForQuery:
			return end, damaged, nil
		default:
			return end, damaged, unexpected(msg)
		}
	}
}

// position reads one result of an LSN and a timeline.
func (s *stream) position(ctx context.Context) (position, error) {
	rows, err := s.rows(ctx)
	if err != nil {
		return position{}, err
	}
	if len(rows) != 1 || len(rows[0]) != 2 {
		return position{}, fmt.Errorf("unusable answer %q", rows)
	}
	lsn, err := wal.ParseLSN(rows[0][0])
	if err != nil {
		return position{}, err
	}
	tli, err := wal.ParseTimeline(rows[0][1])
	return position{lsn, tli}, err
}

// readTablespaces reads the list of tar streams to come: OID, location and
// estimated KiB of each; the data directory has neither OID nor location.
func (s *stream) readTablespaces(ctx context.Context) error {
	rows, err := s.rows(ctx)
	if err != nil {
		return err
	}
	for _, row := range rows {
		if len(row) != 3 {
			return fmt.Errorf("unusable tablespace %q", row)
		}
		if kib, err := strconv.ParseInt(row[2], 10, 64); err == nil {
			s.estimate += kib << 10
		}
		if row[0] == "" {
			s.archives = append(s.archives, 0)
			continue
		}
		oid, err := strconv.ParseUint(row[0], 10, 32)
		if err != nil {
			return fmt.Errorf("unusable tablespace %q: %w", row, err)
		}
		s.archives = append(s.archives, uint32(oid))
		s.tablespaces = append(s.tablespaces, Tablespace{OID: uint32(oid), Location: row[1]})
	}
	return nil
}

// rows reads one result set, NULL as "".
func (s *stream) rows(ctx context.Context) ([][]string, error) {
	var rows [][]string
	for {
		msg, err := s.receive(ctx)
		if err != nil {
			return nil, err
		}
		switch msg := msg.(type) {
		case *pgproto3.RowDescription:
		case *pgproto3.DataRow:
			row := make([]string, len(msg.Values))
			for i, v := range msg.Values {
				row[i] = string(v)
			}
			rows = append(rows, row)
		case *pgproto3.CommandComplete:
			return rows, nil
		default:
			return nil, unexpected(msg)
		}
	}
}

// receive reads a message. Warnings are logged, the server's errors returned.
func (s *stream) receive(ctx context.Context) (pgproto3.BackendMessage, error) {
	for {
		msg, err := s.conn.ReceiveMessage(ctx)
		if err != nil {
			return nil, err
		}
		switch msg := msg.(type) {
		case *pgproto3.NoticeResponse:
			s.log.Warn().Str("code", msg.Code).Str("detail", msg.Detail).Msg("server: " + msg.Message)
		case *pgproto3.ParameterStatus:
		case *pgproto3.ErrorResponse:
			return nil, explain(pgconn.ErrorResponseToPgError(msg))
		default:
			return msg, nil
		}
	}
}

func unexpected(msg pgproto3.BackendMessage) error {
	return fmt.Errorf("unexpected message %T from the server", msg)
}

// explain adds what to do about a refusal, the server's own hint if it has one.
func explain(err *pgconn.PgError) error {
	switch {
	case err.Hint != "":
		return hint.With(err, "%s", err.Hint)
	case err.Code == pg.CodeInsufficientRight:
		return hint.With(err, "give PostgreSQL's operating system user the right to read it, or move it out of the data directory")
	}
	return err
}
