package pg

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walstream/walstream/internal/hint"
)

// A server that cannot be reached is named once, and the reason once, although
// the driver tries twice: with TLS and without.
func TestUnreachable(t *testing.T) {
	clearEnv(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	dir := t.TempDir()
	socket := filepath.Join(dir, ".s.PGSQL.5432")
	for conninfo, want := range map[string][2]string{
		fmt.Sprintf("host=127.0.0.1 port=%d user=x", port): {
			fmt.Sprintf("connect to 127.0.0.1:%d: connection refused", port), fmt.Sprintf("pg_isready -h 127.0.0.1 -p %d", port)},
		"user=x host=" + dir: {"connect to " + socket + ": no such file or directory", "pg_isready -h " + dir + " -p 5432"},
	} {
		err := tryReplication(t, Options{Conninfo: conninfo})
		if err == nil || err.Error() != want[0] || Definite(err) {
			t.Errorf("%v, want %s", err, want[0])
		}
		if hints := strings.Join(hint.Of(err), "\n"); !strings.Contains(hints, want[1]) {
			t.Errorf("hints %q, want %q", hints, want[1])
		}
	}
}

// Something that is no PostgreSQL, or one that crashes, closes the connection.
func TestClosedConnection(t *testing.T) {
	clearEnv(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 1024))
			c.Close()
		}
	}()
	defer func() { l.Close(); <-done }()
	port := l.Addr().(*net.TCPAddr).Port
	err = tryReplication(t, Options{Conninfo: fmt.Sprintf("host=127.0.0.1 port=%d user=x sslmode=disable", port)})
	if err == nil || !strings.HasSuffix(err.Error(), ": the server closed the connection") {
		t.Errorf("%v", err)
	}
}

func TestLines(t *testing.T) {
	tcp := &pgconn.Config{Host: "db1", Port: 5433, User: "walstream", Database: "postgres"}
	repl := &pgconn.Config{Host: "db1", User: "walstream", RuntimeParams: map[string]string{"replication": "true"}}
	socket := &pgconn.Config{Host: "/run/postgresql", Port: 5432, User: "walstream", Database: "postgres"}
	odd := &pgconn.Config{Host: "fe80::1", Port: 5432, User: `it's\ a: "user"`, Database: "all"}
	const text = `no pg_hba.conf entry for replication connection from host "%s", user "walstream", no encryption`
	for want, got := range map[string]string{
		"db1:5433:*:walstream:PASSWORD":                                      passLine(tcp),
		`fe80\:\:1:5432:*:it's\\ a\: "user":PASSWORD`:                        passLine(odd),
		`host "all" "it's\ a: ""user""" 192.0.2.7/32 scram-sha-256`:          hbaLine(odd, fmt.Sprintf(text, "192.0.2.7")),
		"localhost:5432:*:walstream:PASSWORD":                                passLine(socket),
		"host replication walstream 192.0.2.7/32 scram-sha-256":              hbaLine(repl, fmt.Sprintf(text, "192.0.2.7")),
		"host postgres walstream 2001:db8::7/128 scram-sha-256":              hbaLine(tcp, fmt.Sprintf(text, "2001:db8::7")),
		"host replication walstream <address of this host>/32 scram-sha-256": hbaLine(repl, "kein Eintrag in pg_hba.conf"),
		"local postgres walstream scram-sha-256":                             hbaLine(socket, fmt.Sprintf(text, "[local]")),
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
