package pg

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
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
	return errors.Is(err, ErrStandby) || errors.Is(err, errWALLevel) || errors.Is(err, errVersion) || errors.As(err, new(*pgconn.ParseConfigError))
}

var errWALLevel = errors.New("the server allows no WAL senders")

// explain adds to a failed connection the address, the server's own words and
// what to do about it.
func explain(cfg *pgconn.Config, err error) error {
	where, user := Address(cfg), cfg.User
	if errors.Is(err, ErrStandby) {
		return hint.Errorf("give the primary's address in -d/--dbname",
			"connect to %s: %w", where, ErrStandby)
	}
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return hint.With(fmt.Errorf("connect to %s: %w", where, &connectError{err}),
			"does a server listen there? pg_isready -h %s -p %d", hint.Quote(cfg.Host), cfg.Port)
	}
	err = fmt.Errorf("connect to %s as %s: %w", where, user, e)
	switch e.Code {
	case codeInvalidPassword:
		return hint.With(err, "put the right password into ~/.pgpass (mode 600): %s", passLine(cfg))
	case codeInvalidAuth:
		if strings.Contains(e.Message, "does not exist") {
			return hint.With(err, "CREATE ROLE %s LOGIN REPLICATION PASSWORD '…';", QuoteIdent(user))
		}
		return hint.With(err, "put first into pg_hba.conf, then SELECT pg_reload_conf(): %s", hbaLine(cfg, e.Message))
	case CodeInsufficientRight:
		return hint.With(err, "ALTER ROLE %s REPLICATION;", QuoteIdent(user))
	case codeTooManyConnections:
		if strings.Contains(e.Message, "max_wal_senders") && strings.Contains(e.Message, "currently 0") {
			err = fmt.Errorf("%w: %w", errWALLevel, err)
		}
		return hint.With(err, "restart PostgreSQL after: ALTER SYSTEM SET max_wal_senders = 10; ALTER SYSTEM SET wal_level = 'replica';")
	}
	return err
}

// passLine is the line of .pgpass that belongs to a connection. Sockets are
// found there as localhost.
func passLine(cfg *pgconn.Config) string {
	escape := strings.NewReplacer(`\`, `\\`, ":", `\:`).Replace
	host := cfg.Host
	if strings.HasPrefix(host, "/") {
		host = "localhost"
	}
	return fmt.Sprintf("%s:%d:*:%s:PASSWORD", escape(host), cfg.Port, escape(cfg.User))
}

// hbaFrom is where the server says the connection comes from, in English.
var hbaFrom = regexp.MustCompile(`from host "([^"]+)"`)

// hbaLine is the line of pg_hba.conf that lets a connection in.
func hbaLine(cfg *pgconn.Config, message string) string {
	who := hbaName(cfg.Database)
	if cfg.RuntimeParams["replication"] != "" {
		who = "replication"
	}
	who += " " + hbaName(cfg.User)
	from := "<address of this host>/32"
	if m := hbaFrom.FindStringSubmatch(message); m != nil {
		from = m[1] + "/32"
		if strings.Contains(m[1], ":") {
			from = m[1] + "/128"
		}
	}
	if strings.HasPrefix(cfg.Host, "/") {
		return "local " + who + " scram-sha-256"
	}
	return "host " + who + " " + from + " scram-sha-256"
}

var plainName = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// hbaName quotes a name for pg_hba.conf, where more than one would expect has a
// meaning.
func hbaName(s string) string {
	if plainName.MatchString(s) && s != "all" {
		return s
	}
	return QuoteIdent(s)
}

// connectError is a connection that was not made. Its text is only what is at
// the bottom, each reason once: the driver tries every address of a host, some
// twice, and repeats them all.
type connectError struct{ err error }

func (e *connectError) Unwrap() error { return e.err }

func (e *connectError) Error() string {
	var reasons []string
	for _, r := range roots(e.err) {
		text := r.Error()
		if errors.Is(r, io.EOF) || errors.Is(r, io.ErrUnexpectedEOF) {
			text = "the server closed the connection"
		}
		if !slices.Contains(reasons, text) {
			reasons = append(reasons, text)
		}
	}
	return strings.Join(reasons, ", ")
}

// roots lists the errors at the bottom of err.
func roots(err error) []error {
	switch e := err.(type) { //nolint:errorlint // the chain itself is the subject
	case interface{ Unwrap() error }:
		if next := e.Unwrap(); next != nil {
			return roots(next)
		}
	case interface{ Unwrap() []error }:
		var list []error
		for _, next := range e.Unwrap() {
			list = append(list, roots(next)...)
		}
		return list
	}
	return []error{err}
}

// QuoteIdent quotes a name for SQL.
func QuoteIdent(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// QuoteLiteral quotes s for SQL and for replication commands, with
// standard_conforming_strings on.
func QuoteLiteral(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
