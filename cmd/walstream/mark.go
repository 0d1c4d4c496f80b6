package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/internal/term"
	"github.com/walstream/walstream/wal"
)

// maxPointName is MAXFNAMELEN - 1, PostgreSQL's limit in bytes.
const maxPointName = 63

// point is a restore point as the archive keeps it, so that it can be found
// without reading WAL.
type point struct {
	Name     string       `json:"name"`
	LSN      wal.LSN      `json:"lsn"` // end of the record
	Timeline wal.Timeline `json:"timeline"`
	Time     time.Time    `json:"time"` // the server's clock
}

func (a *app) markCommand() *cobra.Command {
	return &cobra.Command{
		Use: "mark NAME", Short: "Name the present moment, for restore --target-name", Args: wants("NAME"),
		Long: `Make a named restore point on the primary (pg_create_restore_point) and note it
in the archive. "walstream restore --target-name NAME" goes back to it.`,
		RunE: a.runs(func(ctx context.Context, args []string) error { return a.mark(ctx, args[0]) }),
	}
}

func (a *app) mark(ctx context.Context, name string) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	if name == "" || len(name) > maxPointName || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return &usageError{fmt.Errorf("restore point %q: want 1 to %d bytes without control characters", name, maxPointName)}
	}
	arch, err := a.openArchive(ctx, c)
	if err != nil {
		return err
	}
	if err := refuseTwice(ctx, arch.Store(), name); err != nil {
		return err
	}
	p, err := createPoint(ctx, c, arch, name)
	if err != nil {
		return fmt.Errorf("restore point %q: %w", name, err)
	}
	body, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if err := arch.Store().Put(ctx, p.object(), bytes.NewReader(append(body, '\n'))); err != nil {
		return hint.With(fmt.Errorf("restore point %q was made at %s but not noted in the archive: %w", name, p.LSN, err),
			"it can be used all the same: walstream restore DIR --target-name %s", hint.Quote(name))
	}
	if a.json {
		return term.JSON(a.stdout, p)
	}
	_, err = fmt.Fprintf(a.stdout, "restore point %q at %s on timeline %s, %s\n", name, p.LSN, p.Timeline, term.Time(p.Time))
	return err
}

// createPoint makes the restore point after it has made sure that the server
// is the one that the archive belongs to.
func createPoint(ctx context.Context, c *config.Loaded, arch *archive.Archive, name string) (point, error) {
	options := server(c, "mark")
	repl, err := pg.ConnectReplication(ctx, options)
	if err != nil {
		return point{}, err
	}
	id, sys, err := repl.Identity(ctx)
	// The answer is all that was wanted of this connection.
	_ = repl.Close(ctx)
	if err == nil {
		err = arch.Identity().Match("archive "+arch.Store().String(), id)
	}
	if err != nil {
		return point{}, err
	}
	conn, err := pg.ConnectSQL(ctx, options)
	if err != nil {
		return point{}, err
	}
	defer func() { _ = conn.Close(ctx) }() // nothing is pending on it
	rows, err := conn.Rows(ctx, "SELECT pg_create_restore_point("+pg.QuoteLiteral(name)+"), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
	if err != nil {
		if pg.Code(err) == pg.CodeInsufficientRight {
			err = hint.With(errors.New("the role may not call pg_create_restore_point"),
				"GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO %s;", pg.QuoteIdent(conn.ParameterStatus("session_authorization")))
		}
		return point{}, err
	}
	return parsePoint(rows, point{Name: name, Timeline: sys.Timeline})
}

func parsePoint(rows [][]string, p point) (point, error) {
	if len(rows) != 1 || len(rows[0]) != 2 {
		return p, errors.New("pg_create_restore_point: unusable answer")
	}
	micros, err := strconv.ParseInt(rows[0][1], 10, 64)
	if err == nil {
		p.LSN, err = wal.ParseLSN(rows[0][0])
	}
	if err != nil {
		return p, fmt.Errorf("pg_create_restore_point: unusable answer: %w", err)
	}
	p.Time = time.UnixMicro(micros).UTC()
	return p, nil
}

// object is the name under which the point is noted. Bytes that object names
// cannot have become underscores; the contents hold the name itself.
func (p point) object() string {
	safe := strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return '_'
	}, p.Name)
	return archive.PointsPrefix + archive.LSNHex(p.LSN) + "-" + safe + ".json"
}

// refuseTwice keeps names unambiguous: PostgreSQL stops at the first restore
// point of the wanted name that it meets.
func refuseTwice(ctx context.Context, store archive.Store, name string) error {
	suffix := strings.TrimPrefix(point{Name: name}.object(), archive.PointsPrefix+archive.LSNHex(0))
	for info, err := range store.List(ctx, archive.PointsPrefix, "") {
		if err != nil {
			return err
		}
		if !strings.HasSuffix(info.Name, suffix) {
			continue
		}
		p, err := readPoint(ctx, store, info.Name)
		if err != nil {
			return err
		}
		if p.Name == name {
			return hint.Errorf("walstream mark "+hint.Quote(name+"-2"), "restore point %q exists already, at %s", name, p.LSN)
		}
	}
	return nil
}

func readPoint(ctx context.Context, store archive.Store, object string) (point, error) {
	r, err := store.Get(ctx, object, 0, 1<<16)
	if err != nil {
		return point{}, err
	}
	defer r.Close()
	body, err := io.ReadAll(r)
	if err != nil {
		return point{}, fmt.Errorf("get %s: %w", object, err)
	}
	var p point
	if err := json.Unmarshal(body, &p); err != nil {
		return point{}, fmt.Errorf("%s is no restore point: %w", object, err)
	}
	return p, nil
}
