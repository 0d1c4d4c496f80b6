package pg

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walstream/walstream/internal/hint"
)

// SQLSTATE codes that callers branch on.
const (
	CodeObjectInUse         = "55006"
	CodeObjectNotReady      = "55000" // object_not_in_prerequisite_state
	CodeUndefinedObject     = "42704"
	CodeDuplicateObject     = "42710"
	CodeUndefinedFile       = "58P01"
	CodeInternal            = "XX000"
	CodeDataCorrupted       = "XX001"
	CodeFeatureNotSupported = "0A000"
	codeInvalidAuth         = "28000"
	codeInvalidPassword     = "28P01"
	CodeInsufficientRight   = "42501"
	codeTooManyConnections  = "53300"
	codeUndefinedDatabase   = "3D000"
)

// Code is the SQLSTATE of the server's answer in err's chain, "" when the
// error is not one.
func Code(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// ServerError is the error that a message of the server's stands for.
func ServerError(m *pgproto3.ErrorResponse) error { return pgconn.ErrorResponseToPgError(m) }

// Definite says that waiting will not mend a failed connection: the server
// answered and refused for a reason that only a person can remove. Anything
// else (unreachable, starting up, shutting down, too many connections) may
// pass by itself.
func Definite(err error) bool {
	switch Code(err) {
	case codeInvalidAuth, codeInvalidPassword, CodeInsufficientRight, codeUndefinedDatabase, CodeFeatureNotSupported:
		return true
	}
	var badConninfo *pgconn.ParseConfigError
	return errors.Is(err, ErrStandby) || errors.Is(err, errWALLevel) || errors.As(err, &badConninfo)
}

var errWALLevel = errors.New("the server allows no WAL senders")

// explain adds to a failed connection the address, the server's own words and
// what to do about it.
func explain(cfg *pgconn.Config, err error) error {
	where, user := Address(cfg), cfg.User
	replication := cfg.RuntimeParams["replication"] != ""
	if errors.Is(err, ErrStandby) {
		return hint.Errorf("give the primary's address in -d/--dbname",
			"connect to %s: %w", where, ErrStandby)
	}
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return fmt.Errorf("connect to %s: %w", where, plain(err))
	}
	err = fmt.Errorf("connect to %s as %s: %w", where, user, e)
	switch e.Code {
	case codeInvalidPassword:
		return hint.With(err, "put the password of %s into ~/.pgpass or PGPASSWORD", user)
	case codeInvalidAuth:
		if strings.Contains(e.Message, "does not exist") {
			return hint.With(err, "CREATE ROLE %s LOGIN REPLICATION PASSWORD '…';", quoteIdent(user))
		}
		db := "replication"
		if !replication {
			db = cfg.Database
		}
		return hint.With(err, "add to pg_hba.conf: host %s %s <address of this host>/32 scram-sha-256, then: SELECT pg_reload_conf();", db, user)
	case CodeInsufficientRight:
		return hint.With(err, "ALTER ROLE %s REPLICATION;", quoteIdent(user))
	case codeTooManyConnections:
		if strings.Contains(e.Message, "max_wal_senders") && strings.Contains(e.Message, "currently 0") {
			err = fmt.Errorf("%w: %w", errWALLevel, err)
		}
		return hint.With(err, "ALTER SYSTEM SET max_wal_senders = 10; ALTER SYSTEM SET wal_level = 'replica'; then restart PostgreSQL")
	}
	return err
}

// plain takes the driver's own framing off a connection error, which repeats
// user and database and would show them twice.
func plain(err error) error {
	var ce *pgconn.ConnectError
	if errors.As(err, &ce) && ce.Unwrap() != nil {
		return ce.Unwrap()
	}
	return err
}

func quoteIdent(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// QuoteLiteral quotes s for SQL and for replication commands, with
// standard_conforming_strings on.
func QuoteLiteral(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
