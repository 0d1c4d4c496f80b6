package testkit

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// Standby makes a streaming standby of c and starts it.
func (c *Cluster) Standby() *Cluster {
	c.t.Helper()
	dir := filepath.Join(Dir(c.t), "data")
	Run(c.t, filepath.Join(c.Bin, "pg_basebackup"), "-d", c.Conninfo()+" application_name=standby", "-D", dir, "-R", "-X", "stream", "-c", "fast")
	s := Adopt(c.t, dir)
	s.Start()
	return s
}

// Follow makes the standby c stream from another primary.
func (c *Cluster) Follow(primary *Cluster) {
	c.t.Helper()
	if err := os.Truncate(filepath.Join(c.DataDir, "postgresql.auto.conf"), 0); err != nil {
		c.t.Fatal(err)
	}
	c.Configure("primary_conninfo = '" + primary.Conninfo() + "'")
	c.Reload()
}

// CaughtUp waits until the standby c has replayed all that primary has flushed
// by now.
func (c *Cluster) CaughtUp(primary *Cluster) {
	c.t.Helper()
	lsn := primary.Psql(c.t, "SELECT pg_current_wal_flush_lsn()")
	Wait(c.t, "the standby to replay "+lsn, func() (bool, string) {
		out := c.Psql(c.t, "SELECT coalesce(pg_last_wal_replay_lsn(), '0/0') >= '"+lsn+"', pg_last_wal_replay_lsn()")
		return out[0] == 't', out
	})
}

// Promote makes the standby c a primary and returns its new timeline, which
// pg_control tells too by then.
func (c *Cluster) Promote() (timeline string) {
	c.t.Helper()
	c.Psql(c.t, "SELECT pg_promote()")
	c.Psql(c.t, "CHECKPOINT")
	return c.Psql(c.t, "SELECT timeline_id FROM pg_control_checkpoint()")
}

// Address is a socket directory whose server can be changed, as behind an
// address that moves.
type Address string

// NewAddress makes an address that leads nowhere yet.
func NewAddress(t testing.TB) Address { return Address(Dir(t)) }

// Conninfo leads to the server that the address points to.
func (a Address) Conninfo() string { return "host=" + string(a) + " port=5432 user=postgres" }

// Point makes the address lead to c.
func (a Address) Point(t testing.TB, c *Cluster) {
	t.Helper()
	link := filepath.Join(string(a), ".s.PGSQL.5432")
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(c.SocketDir, ".s.PGSQL.5432"), link); err != nil {
		t.Fatal(err)
	}
}
