package pg

import (
	"context"
	"net"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walstream/walstream/internal/hint"
)

// reporting connects to a server that says it is of that version.
func reporting(t *testing.T, version string) *Conn {
	t.Helper()
	client, server := net.Pipe()
	t.Cleanup(func() { client.Close() })
	go func() {
		defer server.Close()
		b := pgproto3.NewBackend(server, server)
		if _, err := b.ReceiveStartupMessage(); err != nil {
			return
		}
		b.Send(&pgproto3.AuthenticationOk{})
		b.Send(&pgproto3.ParameterStatus{Name: "server_version", Value: version})
		b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		_ = b.Flush() // the client hangs up when it has seen enough
	}()
	cfg, err := pgconn.ParseConfig("host=127.0.0.1 user=test sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	cfg.DialFunc = func(context.Context, string, string) (net.Conn, error) { return client, nil }
	c, err := pgconn.ConnectConfig(ctx(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &Conn{c}
}

func TestMajor(t *testing.T) {
	for version, want := range map[string]int{
		"13.0": 13, "15.18 (Debian 15.18-0+deb12u1)": 15, "18beta1": 18, "18.4": 18,
		"9.6.24": 0, "12.22": 0, "19devel": 0, "": 0, "devel": 0,
	} {
		major, err := reporting(t, version).Major()
		if major != want || (err == nil) != (want != 0) {
			t.Errorf("%q is %d, %v", version, major, err)
		}
		if numbered := version != "" && version[0] <= '9'; err != nil && numbered && (!Definite(err) || len(hint.Of(err)) == 0) {
			t.Errorf("%q: no definite refusal with a hint: %v", version, err)
		}
	}
}
