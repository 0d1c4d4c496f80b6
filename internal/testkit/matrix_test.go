//go:build matrix

package testkit

import (
	"syscall"
	"testing"
)

// A directory is taken over by programs of the version that made it.
func TestAdoptKeepsMajor(t *testing.T) {
	c := Start(t, Config{Major: 18})
	if got := c.Psql(t, "SELECT current_setting('server_version_num')::int / 10000, current_setting('data_checksums')"); got != "18|off" {
		t.Errorf("the server is %s", got)
	}
	c.Stop(syscall.SIGINT)
	if a := Adopt(t, c.DataDir); a.Major != 18 || a.Bin != c.Bin {
		t.Errorf("adopted with PostgreSQL %d of %s", a.Major, a.Bin)
	}
}
