package main

import (
	"context"
	"errors"
	"fmt"
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

func (a *app) markCommand() *cobra.Command {
	return &cobra.Command{
		Use: "mark NAME", Short: "Name the present moment, for restore --target-name", Args: wants("NAME"),
		Long: `Make a named restore point on the primary (pg_create_restore_point) and note it
in the archive. "walstream restore --target-name NAME" goes back to it.`,
		RunE: a.configured(a.mark),
	}
}

func (a *app) mark(ctx context.Context, c *config.Loaded, args []string) error {
	name := args[0]
	if name == "" || len(name) > maxPointName || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return &usageError{fmt.Errorf("restore point %q: want 1 to %d bytes without control characters", name, maxPointName)}
	}
	arch, err := a.openArchive(ctx, c)
	if err != nil {
		return err
	}
	have, err := arch.RestorePoints(ctx, name)
	if err != nil {
		return err
	}
	if len(have) > 0 {
		// PostgreSQL stops at the first one of the wanted name that it meets.
		return hint.Errorf("walstream mark "+hint.Quote(name+"-2"), "restore point %q exists already, at %s", name, have[0].LSN)
	}
	p, err := createPoint(ctx, c, arch, name)
	if err != nil {
		return fmt.Errorf("restore point %q: %w", name, err)
	}
	if err := arch.PutRestorePoint(ctx, p); err != nil {
		return hint.With(fmt.Errorf("restore point %q was made at %s but not noted in the archive: %w", name, p.LSN, err),
			"it can be used all the same: walstream restore DIR --target-name %s", hint.Quote(name))
	}
	return a.result(p, "restore point %q at %s on timeline %s, %s\n", name, p.LSN, p.Timeline, term.Time(p.Time))
}

// createPoint makes the restore point after it has made sure that the server
// is the one that the archive belongs to.
func createPoint(ctx context.Context, c *config.Loaded, arch *archive.Archive, name string) (archive.RestorePoint, error) {
	options := server(c, "mark")
	id, sys, err := serverIdentity(ctx, options)
	if err == nil {
		err = arch.Identity().Match("archive "+arch.Store().String(), id)
	}
	if err != nil {
		return archive.RestorePoint{}, err
	}
	conn, err := pg.ConnectSQL(ctx, options)
	if err != nil {
		return archive.RestorePoint{}, err
	}
	defer conn.Done()
	rows, err := conn.Rows(ctx, "SELECT pg_create_restore_point("+pg.QuoteLiteral(name)+"), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
	if pg.Code(err) == pg.CodeInsufficientRight {
		err = hint.With(errors.New("the role may not call pg_create_restore_point"),
			"GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO %s;", pg.QuoteIdent(conn.ParameterStatus("session_authorization")))
	}
	if err != nil {
		return archive.RestorePoint{}, err
	}
	return parsePoint(rows, archive.RestorePoint{Name: name, Timeline: sys.Timeline})
}

func parsePoint(rows [][]string, p archive.RestorePoint) (archive.RestorePoint, error) {
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
