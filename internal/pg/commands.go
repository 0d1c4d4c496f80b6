package pg

import (
	"context"
	"encoding"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pglogrepl"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// System is the answer to IDENTIFY_SYSTEM.
type System struct {
	SystemIdentifier uint64
	Timeline         wal.Timeline
	// FlushLSN is how far the server has flushed its WAL.
	FlushLSN wal.LSN
}

// IdentifySystem asks a walsender who and where it is.
func (c *Conn) IdentifySystem(ctx context.Context) (System, error) {
	r, err := pglogrepl.IdentifySystem(ctx, c.PgConn)
	if err != nil {
		return System{}, fmt.Errorf("IDENTIFY_SYSTEM: %w", err)
	}
	id, err := strconv.ParseUint(r.SystemID, 10, 64)
	if err != nil || r.Timeline <= 0 {
		return System{}, fmt.Errorf("IDENTIFY_SYSTEM: unusable answer %q, timeline %d", r.SystemID, r.Timeline)
	}
	return System{SystemIdentifier: id, Timeline: wal.Timeline(r.Timeline), FlushLSN: wal.LSN(r.XLogPos)}, nil
}

// Show reads one setting of the server; it works on walsenders too.
func (c *Conn) Show(ctx context.Context, name string) (string, error) {
	var value string
	err := c.Row(ctx, "SHOW "+name, &value)
	return value, err
}

// Row runs one command and reads its answer, one row, into dst: pointers to
// strings, truth values, integers and what unmarshals text. NULL leaves what is
// there.
func (c *Conn) Row(ctx context.Context, command string, dst ...any) error {
	rows, err := c.Rows(ctx, command)
	if err != nil {
		return err
	}
	if len(rows) != 1 || len(rows[0]) != len(dst) {
		return fmt.Errorf("%s: unusable answer", command)
	}
	for i, text := range rows[0] {
		if text == "" {
			continue
		}
		switch to := dst[i].(type) {
		case *string:
			*to = text
		case *bool:
			*to = text == "t"
		case encoding.TextUnmarshaler:
			err = to.UnmarshalText([]byte(text))
		default:
			_, err = fmt.Sscan(text, to)
		}
		if err != nil {
			return fmt.Errorf("%s: unusable answer: %w", command, err)
		}
	}
	return nil
}

// Rows runs one command by the simple protocol and returns its rows as text,
// NULL as "".
func (c *Conn) Rows(ctx context.Context, command string) ([][]string, error) {
	results, err := c.Exec(ctx, command).ReadAll()
	if err != nil {
		verb, _, _ := strings.Cut(command, "\n")
		return nil, fmt.Errorf("%s: %w", verb, err)
	}
	var rows [][]string
	for _, r := range results {
		for _, raw := range r.Rows {
			row := make([]string, len(raw))
			for i, v := range raw {
				row[i] = string(v)
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// errVersion is the refusal of a server of another major version than those
// that are supported.
var errVersion = errors.New("walstream supports PostgreSQL 13 to 18")

// Major is the server's major version, from the version it reported when the
// connection was made. A version that is not supported is refused.
func (c *Conn) Major() (int, error) {
	v := c.ParameterStatus("server_version")
	digits := strings.IndexFunc(v, func(r rune) bool { return r < '0' || r > '9' })
	if digits < 0 {
		digits = len(v)
	}
	major, err := strconv.Atoi(v[:digits])
	if err != nil {
		return 0, fmt.Errorf("server_version %q: no major version in it", v)
	}
	switch {
	case major < 13:
		return 0, hint.With(fmt.Errorf("server %s is PostgreSQL %s: %w", c.Address(), v, errVersion), "pg_upgrade to one of them")
	case major > 18:
		return 0, hint.With(fmt.Errorf("server %s is PostgreSQL %s: %w", c.Address(), v, errVersion), "use a newer release of walstream")
	}
	return major, nil
}

// Identity is what pins spool and archive to the server's cluster.
func (c *Conn) Identity(ctx context.Context) (segment.Identity, System, error) {
	sys, err := c.IdentifySystem(ctx)
	if err != nil {
		return segment.Identity{}, sys, err
	}
	major, err := c.Major()
	if err != nil {
		return segment.Identity{}, sys, err
	}
	text, err := c.Show(ctx, "wal_segment_size")
	if err != nil {
		return segment.Identity{}, sys, err
	}
	size, err := parseSegmentSize(text)
	if err != nil {
		return segment.Identity{}, sys, err
	}
	return segment.Identity{SystemIdentifier: sys.SystemIdentifier, MajorVersion: major, SegmentSize: size}, sys, nil
}

func parseSegmentSize(text string) (segment.Size, error) {
	units := map[string]int{"kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}
	for unit, factor := range units {
		if n, err := strconv.Atoi(strings.TrimSuffix(text, unit)); err == nil && strings.HasSuffix(text, unit) {
			if size := segment.Size(n * factor); size.Valid() {
				return size, nil
			}
		}
	}
	return 0, fmt.Errorf("wal_segment_size %q is not a size PostgreSQL can have", text)
}

// TimelineHistory fetches the history file of tli, byte for byte. Timeline 1
// has none and must not be asked for.
func (c *Conn) TimelineHistory(ctx context.Context, tli wal.Timeline) ([]byte, error) {
	r, err := pglogrepl.TimelineHistory(ctx, c.PgConn, int32(tli))
	if err != nil {
		return nil, fmt.Errorf("TIMELINE_HISTORY %s: %w", tli, err)
	}
	return r.Content, nil
}
