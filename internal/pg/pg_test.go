package pg

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

func ctx(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// tryReplication opens and closes a replication connection.
func tryReplication(t *testing.T, o Options) error {
	t.Helper()
	c, err := ConnectReplication(ctx(t), o)
	if err != nil {
		return err
	}
	return c.Close(ctx(t))
}

func as(c *testkit.Cluster, user string) string {
	return strings.ReplaceAll(c.Conninfo(), "user=postgres", "user="+user)
}

// clearEnv takes away what the environment would add to a conninfo.
func clearEnv(t *testing.T) {
	for _, name := range []string{"PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGAPPNAME", "PGPASSWORD", "PGSERVICE", "PGOPTIONS"} {
		t.Setenv(name, "") // puts it back at the end
		os.Unsetenv(name)
	}
	t.Setenv("PGPASSFILE", filepath.Join(t.TempDir(), "none"))
}

// TestServer puts questions to one server, with a segment size of its own.
func TestServer(t *testing.T) {
	clearEnv(t)
	c := testkit.Start(t, testkit.Config{SegmentSizeMB: 64})
	c.Psql(t, "CREATE ROLE secret LOGIN REPLICATION PASSWORD 'right'")
	t.Run("row", func(t *testing.T) { testRow(t, c) })
	t.Run("identity", func(t *testing.T) { testIdentity(t, c) })
	t.Run("application name", func(t *testing.T) { testApplicationName(t, c) })
	t.Run("refusals", func(t *testing.T) { testRefusals(t, c) })
	t.Run("pgpass", func(t *testing.T) { testPgpass(t, c) })
}

func testRow(t *testing.T, c *testkit.Cluster) {
	conn, err := ConnectSQL(ctx(t), Options{Conninfo: c.Conninfo()})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Done()
	null := "left"
	var (
		text string
		yes  bool
		n    uint64
		at   time.Time
		lsn  wal.LSN
	)
	err = conn.Row(ctx(t), `SELECT 'a b', true, 18446744073709551615, '2026-11-22T10:00:00.123456+01:00', '16/B374D848'::pg_lsn, NULL`, &text, &yes, &n, &at, &lsn, &null)
	want := time.Date(2026, 11, 22, 9, 0, 0, 123456000, time.UTC)
	if err != nil || text != "a b" || !yes || n != math.MaxUint64 || !at.Equal(want) || lsn.String() != "16/B374D848" || null != "left" {
		t.Errorf("%q %v %d %s %s %q, %v", text, yes, n, at, lsn, null, err)
	}
	for sql, dst := range map[string]any{"SELECT 1, 2": &n, "SELECT 1 WHERE false": &n, "VALUES (1), (2)": &n, "SELECT 'x'": &n, "SELECT 'x' ": &lsn, "nonsense": &n} {
		if err := conn.Row(ctx(t), sql, dst); err == nil || !strings.Contains(err.Error(), sql) {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

// testRefusals has a real server refuse for every reason that only a person
// can mend, and checks that the error says so and what to do.
func testRefusals(t *testing.T, c *testkit.Cluster) {
	c.Psql(t, "CREATE ROLE plain LOGIN; CREATE ROLE barred LOGIN REPLICATION")
	c.Allow("local all,replication secret scram-sha-256", "local all,replication plain,postgres,ghost trust")
	for name, want := range map[string]struct{ conninfo, code, hint string }{
		"wrong password": {as(c, "secret") + " password=wrong", codeInvalidPassword, ".pgpass"},
		"no password":    {as(c, "secret"), "", ".pgpass"},
		"no REPLICATION": {as(c, "plain"), CodeInsufficientRight, `ALTER ROLE "plain" REPLICATION;`},
		"pg_hba":         {as(c, "barred"), codeInvalidAuth, "replication barred"},
		"no role":        {as(c, "ghost"), codeInvalidAuth, `CREATE ROLE "ghost" LOGIN REPLICATION`},
	} {
		err := tryReplication(t, Options{Conninfo: want.conninfo})
		if !Definite(err) || want.code != "" && Code(err) != want.code {
			t.Errorf("%s: %v (%s), want definite %s", name, err, Code(err), want.code)
		}
		if hints := strings.Join(hint.Of(err), "\n"); !strings.Contains(hints, want.hint) {
			t.Errorf("%s: %v\nhints %q, want %q", name, err, hints, want.hint)
		}
		if err != nil && strings.Contains(err.Error()+strings.Join(hint.Of(err), ""), "password=wrong") {
			t.Errorf("%s: the error shows the password: %v", name, err)
		}
	}
	if err := tryReplication(t, Options{Conninfo: as(c, "secret") + " password=right"}); err != nil {
		t.Error(err)
	}
	_, err := ConnectSQL(ctx(t), Options{Conninfo: c.Conninfo() + " dbname=nowhere"})
	if !Definite(err) || Code(err) != codeUndefinedDatabase {
		t.Errorf("no such database: %v", err)
	}
	if _, err := ConnectReplication(ctx(t), Options{Conninfo: "host="}); err == nil {
		t.Error("connected to nothing")
	}
	if _, err := ConnectReplication(ctx(t), Options{Conninfo: "nonsense"}); !Definite(err) || len(hint.Of(err)) == 0 {
		t.Errorf("no conninfo: %v", err)
	}
}

// TestNoWALSenders: a server that could never stream, one where all places
// are taken, and one that is down: only the first is hopeless.
func TestNoWALSenders(t *testing.T) {
	clearEnv(t)
	c := testkit.Start(t, testkit.Config{Settings: []string{"max_wal_senders = 0", "wal_level = minimal"}})
	err := tryReplication(t, Options{Conninfo: c.Conninfo()})
	if !Definite(err) || !strings.Contains(strings.Join(hint.Of(err), ""), "max_wal_senders") {
		t.Errorf("max_wal_senders = 0: %v, hints %q", err, hint.Of(err))
	}
	c.Stop(2)
	c.Configure("max_wal_senders = 1", "wal_level = replica")
	c.Start()
	first, err := ConnectReplication(ctx(t), Options{Conninfo: c.Conninfo()})
	if err != nil {
		t.Fatal(err)
	}
	if err := tryReplication(t, Options{Conninfo: c.Conninfo()}); err == nil || Definite(err) || Code(err) != codeTooManyConnections {
		t.Errorf("all WAL senders taken: %v", err)
	}
	if err := first.Close(ctx(t)); err != nil {
		t.Error(err)
	}
	c.Stop(2)
	if err := tryReplication(t, Options{Conninfo: c.Conninfo()}); err == nil || Definite(err) || !strings.Contains(err.Error(), c.SocketDir) {
		t.Errorf("server down: %v", err)
	}
}

// TestStandby: a server in recovery is refused by both kinds of connection
// unless it is asked for, and passed over when another host is a primary. When
// it has been promoted, the old primary is passed over.
func TestStandby(t *testing.T) {
	clearEnv(t)
	c := testkit.Start(t, testkit.Config{})
	s := c.Standby()
	open := map[string]func(context.Context, Options) (*Conn, error){"replication": ConnectReplication, "sql": ConnectSQL}
	for name, connect := range open {
		if _, err := connect(ctx(t), Options{Conninfo: s.Conninfo()}); !errors.Is(err, ErrStandby) || !Definite(err) || len(hint.Of(err)) == 0 {
			t.Errorf("%s: %v", name, err)
		}
		conn, err := connect(ctx(t), Options{Conninfo: s.Conninfo(), AllowStandby: true})
		if err != nil {
			t.Fatal(err)
		}
		conn.Done()
		leadTo(t, connect, c, s, c)
	}
	s.Promote()
	for _, connect := range open {
		leadTo(t, connect, s, s, c)
		leadTo(t, connect, s, c, s)
	}
	c.Stop(2)
	leadTo(t, ConnectSQL, s, c, s)
	s.Stop(2)
	_, err := ConnectReplication(ctx(t), Options{Conninfo: together(c, s)})
	if err == nil || Definite(err) || !strings.Contains(err.Error(), c.SocketDir) || !strings.Contains(err.Error(), s.SocketDir) {
		t.Errorf("no host answers: %v", err)
	}
}

// together is the conninfo that names the hosts.
func together(list ...*testkit.Cluster) string {
	var dirs []string
	for _, c := range list {
		dirs = append(dirs, c.SocketDir)
	}
	return "host=" + strings.Join(dirs, ",") + " port=5432 user=postgres"
}

func leadTo(t *testing.T, connect func(context.Context, Options) (*Conn, error), want *testkit.Cluster, list ...*testkit.Cluster) {
	t.Helper()
	conn, err := connect(ctx(t), Options{Conninfo: together(list...)})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(conn.Address(), want.SocketDir) {
		t.Errorf("chose %s, the primary is %s", conn.Address(), want.SocketDir)
	}
	conn.Done()
}

func TestHosts(t *testing.T) {
	clearEnv(t)
	for conninfo, want := range map[string][]string{
		"host=a": {""}, "host=a,b port=1": {"a:1", "b:1"}, "host=/s,b port=1,2": {"/s/.s.PGSQL.1", "b:2"},
		"postgres://u@a:1,b:2,a:1/": {"a:1", "b:2"}, "host=a,a port=1": {""},
	} {
		hosts, err := Options{Conninfo: conninfo}.Hosts()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, o := range hosts {
			got = append(got, o.Host)
			cfg, err := parse(o, "x")
			if err != nil || o.Host != "" && Address(cfg) != o.Host {
				t.Errorf("%s: %s leads to %s, %v", conninfo, o.Host, Address(cfg), err)
			}
			for _, way := range cfg.Fallbacks {
				if o.Host != "" && address(way.Host, way.Port) != o.Host {
					t.Errorf("%s: %s leads to %s too", conninfo, o.Host, way.Host)
				}
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", conninfo, diff)
		}
	}
	if _, err := parse(Options{Conninfo: "host=a", Host: "b:1"}, "x"); err == nil {
		t.Error("a host that is not there")
	}
}

// testIdentity compares what a walsender says with SQL and pg_controldata.
func testIdentity(t *testing.T, c *testkit.Cluster) {
	conn, err := ConnectReplication(ctx(t), Options{Conninfo: c.Conninfo()})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Done()
	id, sys, err := conn.Identity(ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	got := c.Psql(t, "SELECT system_identifier, current_setting('server_version_num')::int / 10000 FROM pg_control_system()")
	if want := strings.Join([]string{strconv.FormatUint(id.SystemIdentifier, 10), strconv.Itoa(id.MajorVersion)}, "|"); got != want || id.SegmentSize != 64<<20 || sys.Timeline != 1 {
		t.Errorf("identity %+v %+v, the server says %s", id, sys, got)
	}
	if flush, err := wal.ParseLSN(c.Psql(t, "SELECT pg_current_wal_flush_lsn()")); err != nil || sys.FlushLSN > flush || sys.FlushLSN == 0 {
		t.Errorf("flush LSN %s, the server is at %s, %v", sys.FlushLSN, flush, err)
	}
	if _, err := conn.TimelineHistory(ctx(t), 7); Code(err) != CodeUndefinedFile {
		t.Errorf("a history that is not there: %v", err)
	}
	if _, err := conn.Show(ctx(t), "no_such_setting"); Code(err) != CodeUndefinedObject {
		t.Errorf("a setting that is not there: %v", err)
	}
}

// testPgpass: as libpq's replication tools do, a connection without a database
// looks for the line of "replication"; one with a database for its own.
func testPgpass(t *testing.T, c *testkit.Cluster) {
	c.Allow("local all,replication secret scram-sha-256", "local all,replication postgres trust")
	pass := filepath.Join(t.TempDir(), "pgpass")
	if err := os.WriteFile(pass, []byte("*:*:postgres:secret:right\n*:*:replication:secret:right\n*:*:*:secret:wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PGPASSFILE", pass)
	if err := tryReplication(t, Options{Conninfo: as(c, "secret")}); err != nil {
		t.Error(err)
	}
	sql, err := ConnectSQL(ctx(t), Options{Conninfo: as(c, "secret")})
	if err != nil {
		t.Fatal(err)
	}
	sql.Done()
	if err := tryReplication(t, Options{Conninfo: as(c, "secret") + " dbname=other"}); Code(err) != codeInvalidPassword {
		t.Errorf("the line of another database: %v", err)
	}
}

// testApplicationName: configuration before conninfo before PGAPPNAME before
// our own name, and the server sees it.
func testApplicationName(t *testing.T, c *testkit.Cluster) {
	const url = "postgres:///?application_name=url"
	for _, step := range []struct{ env, conninfo, option, want string }{
		{"", "", "", "walstream"},
		{"env", "", "", "env"},
		{"env", " application_name=conn", "", "conn"},
		{"env", " application_name=conn", "option", "option"},
	} {
		if step.env != "" {
			t.Setenv("PGAPPNAME", step.env)
		}
		o := Options{Conninfo: c.Conninfo() + step.conninfo, ApplicationName: step.option}
		if got, err := o.Name(); got != step.want || err != nil {
			t.Errorf("%+v: %s, %v", step, got, err)
		}
		conn, err := ConnectReplication(ctx(t), o)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Psql(t, "SELECT application_name FROM pg_stat_activity WHERE backend_type = 'walsender'"); got != step.want {
			t.Errorf("%+v: the server sees %q", step, got)
		}
		conn.Done()
		testkit.Wait(t, "the end of the connection", func() (bool, string) {
			n := c.Psql(t, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'")
			return n == "0", n
		})
	}
	if got, err := (Options{Conninfo: url}).Name(); got != "url" || err != nil {
		t.Errorf("URL: %s, %v", got, err)
	}
}

func TestSegmentSize(t *testing.T) {
	got := map[string]segment.Size{}
	for _, text := range []string{"16MB", "1MB", "1GB", "1024kB"} {
		size, err := parseSegmentSize(text)
		if err != nil {
			t.Error(err)
		}
		got[text] = size
	}
	want := map[string]segment.Size{"16MB": 16 << 20, "1MB": 1 << 20, "1GB": 1 << 30, "1024kB": 1 << 20}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, text := range []string{"", "16", "3MB", "2GB", "-16MB", "MB", "99999999999GB"} {
		if size, err := parseSegmentSize(text); err == nil {
			t.Errorf("%q is %d", text, size)
		}
	}
}
