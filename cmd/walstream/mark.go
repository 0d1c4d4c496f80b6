package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/internal/term"
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
	p := archive.RestorePoint{Name: name, Timeline: sys.Timeline}
	if err == nil {
		err = arch.Identity().Match("archive "+arch.Store().String(), id)
	}
	if err != nil {
		return p, err
	}
	conn, err := pg.ConnectSQL(ctx, options)
	if err != nil {
		return p, err
	}
	defer conn.Done()
	err = conn.Row(ctx, "SELECT pg_create_restore_point("+pg.QuoteLiteral(name)+"), to_json(clock_timestamp()) #>> '{}'", &p.LSN, &p.Time)
	if pg.Code(err) == pg.CodeInsufficientRight {
		err = hint.With(errors.New("the role may not call pg_create_restore_point"),
			"GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO %s;", pg.QuoteIdent(conn.ParameterStatus("session_authorization")))
	}
	p.Time = p.Time.UTC()
	return p, err
}
