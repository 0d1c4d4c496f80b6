// Package pg makes connections to PostgreSQL: physical replication
// connections for streaming and base backups, and ordinary ones for the few
// things that need SQL. It turns the server's refusals into errors that say
// what to do about them.
package pg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walstream/walstream/internal/hint"
)

// DefaultApplicationName is what synchronous_standby_names has to list unless
// another name is configured.
const DefaultApplicationName = "walstream"

// Options describes a connection.
type Options struct {
	// Conninfo is a libpq connection string or URL. PG* environment
	// variables, the service file and .pgpass complete it.
	Conninfo string
	// ApplicationName wins over the conninfo's and PGAPPNAME's; empty
	// leaves those, and [DefaultApplicationName] when there is none.
	ApplicationName string
	// AllowStandby accepts a server in recovery.
	AllowStandby bool
	// Host, when set, is the only one of the conninfo's hosts to use, as
	// [Options.Hosts] names it.
	Host string
}

// ErrStandby is the refusal of a server that is in recovery.
var ErrStandby = errors.New("the server is a standby, in recovery")

// Conn is a connection. It is not safe for concurrent use.
type Conn struct {
	*pgconn.PgConn
}

// ConnectReplication opens a physical replication connection (a walsender).
// Of several hosts it takes the primary with the newest timeline, or with
// AllowStandby the first that can be reached.
func ConnectReplication(ctx context.Context, o Options) (*Conn, error) {
	s, err := o.primary(ctx)
	if err != nil {
		return nil, err
	}
	if s != nil {
		return s.Conn, nil
	}
	cfg, err := parse(o, "replication")
	if err != nil {
		return nil, err
	}
	cfg.RuntimeParams["replication"] = "true"
	return connect(ctx, cfg, o)
}

// ConnectSQL opens an ordinary connection to the conninfo's database, or to
// postgres when it names none. Hosts are chosen as by [ConnectReplication].
func ConnectSQL(ctx context.Context, o Options) (*Conn, error) {
	s, err := o.primary(ctx)
	if err != nil {
		return nil, err
	}
	if s != nil {
		s.Done()
		o.Host = s.Options.Host
	}
	cfg, err := parse(o, "postgres")
	if err != nil {
		return nil, err
	}
	return connect(ctx, cfg, o)
}

// Name is the application name that a connection with these options reports.
func (o Options) Name() (string, error) {
	cfg, err := parse(o, "replication")
	if err != nil {
		return "", err
	}
	return cfg.RuntimeParams["application_name"], nil
}

// dialTimeout is for one of several hosts: one that was switched off must not
// hide for long that another has taken over.
const dialTimeout = 2500 * time.Millisecond

func connect(ctx context.Context, cfg *pgconn.Config, o Options) (*Conn, error) {
	// The driver's own check of target_session_attrs would fail on a
	// walsender: it sends lower-case SHOW or SQL.
	cfg.ValidateConnect = func(ctx context.Context, c *pgconn.PgConn) error {
		if o.AllowStandby {
			return nil
		}
		standby, err := (&Conn{c}).InRecovery(ctx)
		if standby {
			err = ErrStandby
		}
		return err
	}
	// A peer that vanished is noticed within about a minute.
	dialer := net.Dialer{Timeout: cfg.ConnectTimeout, KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}}
	if o.Host != "" && dialer.Timeout == 0 {
		dialer.Timeout = dialTimeout
	}
	cfg.DialFunc = dialer.DialContext
	c, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, explain(cfg, err)
	}
	return &Conn{c}, nil
}

// parse completes the conninfo. A missing database becomes fallbackDB before
// .pgpass is searched: libpq's replication tools look there for "replication".
func parse(o Options, fallbackDB string) (*pgconn.Config, error) {
	cfg, err := pgconn.ParseConfig(o.Conninfo)
	if err == nil && cfg.Database == "" {
		cfg, err = pgconn.ParseConfig(withDatabase(o.Conninfo, fallbackDB))
	}
	if err != nil {
		return nil, hint.Errorf("write it as libpq does, for instance: -d 'host=db1 user=walstream'",
			"connection string: %w", err)
	}
	switch {
	case o.ApplicationName != "":
		cfg.RuntimeParams["application_name"] = o.ApplicationName
	case cfg.RuntimeParams["application_name"] == "":
		cfg.RuntimeParams["application_name"] = DefaultApplicationName
	}
	return cfg, o.only(cfg)
}

func withDatabase(conninfo, db string) string {
	if !strings.HasPrefix(conninfo, "postgres://") && !strings.HasPrefix(conninfo, "postgresql://") {
		return conninfo + " dbname=" + db
	}
	u, err := url.Parse(conninfo)
	if err != nil {
		return conninfo
	}
	u.Path = "/" + db
	return u.String()
}

// InRecovery says whether the server was a standby when the connection was
// made.
func (c *Conn) InRecovery(ctx context.Context) (bool, error) {
	state := c.ParameterStatus("in_hot_standby")
	if state == "" { // before PostgreSQL 14
		var err error
		if state, err = c.Show(ctx, "transaction_read_only"); err != nil {
			return false, err
		}
	}
	return state == "on", nil
}

// Done closes the connection, politely if that takes no longer than a second:
// the server notices a closed socket too. After Hijack it does nothing.
func (c *Conn) Done() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.Close(ctx) // nothing was left to be said
}

// Address is where the connection leads.
func (c *Conn) Address() string { return c.PgConn.Conn().RemoteAddr().String() }

// Address is where cfg leads first, for messages.
func Address(cfg *pgconn.Config) string { return address(cfg.Host, cfg.Port) }

func address(host string, port uint16) string {
	if strings.HasPrefix(host, "/") {
		return fmt.Sprintf("%s/.s.PGSQL.%d", host, port)
	}
	return fmt.Sprintf("%s:%d", host, port)
}
