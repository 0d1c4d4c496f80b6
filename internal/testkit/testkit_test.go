package testkit

import (
	"syscall"
	"testing"
)

func TestClusterSurvivesCrash(t *testing.T) {
	c := Start(t, Config{SegmentSizeMB: 1, Settings: []string{"work_mem = 5MB"}})
	c.Psql(t, "CREATE TABLE t AS SELECT generate_series(1, 1000) i")
	if got := c.Psql(t, "SHOW wal_segment_size"); got != "1MB" {
		t.Errorf("wal_segment_size is %s", got)
	}
	if got := c.Psql(t, "SHOW work_mem"); got != "5MB" {
		t.Errorf("work_mem is %s", got)
	}
	c.Stop(syscall.SIGKILL)
	if c.Running() {
		t.Fatal("still running after SIGKILL")
	}
	c.Start()
	if got := c.Psql(t, "SELECT count(*), max(i) FROM t"); got != "1000|1000" {
		t.Errorf("after the crash: %s", got)
	}
	c.Stop(syscall.SIGINT)
}
