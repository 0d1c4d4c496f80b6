package wal_test

import (
	"bufio"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/wal"
)

// seen is a record as both pg_waldump and the scanner tell it.
type seen struct {
	LSN, Prev wal.LSN
	XID       uint32
	Len       uint32
	Rmgr      string
	Finish    string // "commit" or "abort", the xid and the time
	Point     string // name of a restore point
	Detail    string // of other records that the package decodes
}

var rmgrNames = []string{"XLOG", "Transaction", "Storage", "CLOG", "Database", "Tablespace", "MultiXact", "RelMap",
	"Standby", "Heap2", "Heap", "Btree", "Hash", "Gin", "Gist", "Sequence", "SPGist", "BRIN", "CommitTs",
	"ReplicationOrigin", "Generic", "LogicalMessage"}

const dumpTime = "2006-01-02 15:04:05.000000 MST"

func seenRecord(r *wal.Record) seen {
	s := seen{LSN: r.LSN, Prev: r.Prev, XID: r.XID, Len: r.TotalLen, Rmgr: rmgrNames[r.RmgrID]}
	if f, ok := r.Finish(); ok {
		s.Finish = finishText(f.Abort, f.XID, f.Time)
	}
	if p, ok := r.RestorePoint(); ok {
		s.Point = p.Name
	}
	s.Detail = detail(r)
	return s
}

// detail puts what the package decodes in pg_waldump's words.
func detail(r *wal.Record) string {
	if k, ok := r.Checkpoint(); ok {
		kind := "ONLINE"
		if k.Shutdown {
			kind = "SHUTDOWN"
		}
		return fmt.Sprintf("CHECKPOINT_%s redo %s; tli %s; prev tli %s", kind, k.Redo, k.Timeline, k.PrevTimeline)
	}
	if e, ok := r.EndOfRecovery(); ok {
		return fmt.Sprintf("END_OF_RECOVERY tli %s; prev tli %s; time %s", e.Timeline, e.PrevTimeline, e.Time.Format(dumpTime))
	}
	if start, ok := r.BackupEnd(); ok {
		return "BACKUP_END " + start.String()
	}
	if p, ok := r.ParameterChange(); ok {
		return fmt.Sprintf("PARAMETER_CHANGE max_connections=%d max_worker_processes=%d max_wal_senders=%d max_prepared_xacts=%d max_locks_per_xact=%d wal_level=%s",
			p.MaxConnections, p.MaxWorkerProcesses, p.MaxWALSenders, p.MaxPreparedTransactions, p.MaxLocksPerTransaction,
			[]string{"minimal", "replica", "logical"}[p.WALLevel])
	}
	if s, ok := r.Tablespace(); ok {
		return fmt.Sprintf("CREATE %d %q", s.OID, s.Path)
	}
	if r.Switch() {
		return "SWITCH"
	}
	return ""
}

func finishText(abort bool, xid uint32, at time.Time) string {
	kind := "commit"
	if abort {
		kind = "abort"
	}
	return fmt.Sprintf("%s %d %s", kind, xid, at.Format(dumpTime))
}

var (
	dumpLine   = regexp.MustCompile(`^rmgr: (\S+) +len \(rec/tot\): *\d+/ *(\d+), tx: *(\d+), lsn: (\S+), prev (\S+), desc: (.*)$`)
	dumpFinish = regexp.MustCompile(`^(COMMIT|ABORT)(?:_PREPARED)? (?:(\d+): )?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ UTC)`)
	dumpPoint  = regexp.MustCompile(`^RESTORE_POINT (.*)$`)
	dumpSpace  = regexp.MustCompile(`^CREATE \d+ ".*"$`)
	dumpDetail = regexp.MustCompile(`^(CHECKPOINT_(ONLINE|SHUTDOWN) redo \S+; tli \d+; prev tli \d+|` +
		`END_OF_RECOVERY .*? UTC|BACKUP_END .*|PARAMETER_CHANGE .* wal_level=\w+|SWITCH)`)
)

// dump is what pg_waldump says of a timeline's records from start on.
func dump(t *testing.T, c *testkit.Cluster, tli wal.Timeline, start wal.LSN) []seen {
	t.Helper()
	cmd := testkit.Command(t, filepath.Join(c.Bin, "pg_waldump"), "-p", filepath.Join(c.DataDir, "pg_wal"), "-t", tli.String(), "-s", start.String())
	cmd.Env = append(cmd.Env, "TZ=UTC")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all []seen
	lines := bufio.NewReaderSize(out, 1<<16)
	for {
		line, err := lines.ReadString('\n')
		line = strings.TrimSuffix(line, "\n")
		if s, ok := parseDump(t, line[:min(len(line), 400)]); ok { // what follows are lists and payload
			all = append(all, s)
		}
		if err != nil {
			break
		}
	}
	_ = cmd.Wait() // it always ends in an error: the end of valid WAL
	return all
}

func parseDump(t *testing.T, line string) (seen, bool) {
	m := dumpLine.FindStringSubmatch(line)
	if m == nil {
		if line != "" {
			t.Fatalf("pg_waldump said %.200q", line)
		}
		return seen{}, false
	}
	number := func(s string) uint32 {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		return uint32(n)
	}
	s := seen{LSN: lsn(t, m[4]), Prev: lsn(t, m[5]), XID: number(m[3]), Len: number(m[2]), Rmgr: m[1]}
	if f := dumpFinish.FindStringSubmatch(m[6]); f != nil && m[1] == "Transaction" {
		xid := s.XID
		if f[2] != "" {
			xid = number(f[2])
		}
		at, err := time.Parse(dumpTime, f[3])
		if err != nil {
			t.Fatal(err)
		}
		s.Finish = finishText(f[1] == "ABORT", xid, at)
	}
	if p := dumpPoint.FindStringSubmatch(m[6]); p != nil && m[1] == "XLOG" {
		s.Point = p[1]
	}
	if d := dumpDetail.FindString(m[6]); m[1] == "XLOG" {
		s.Detail = d
	}
	if m[1] == "Tablespace" {
		s.Detail = dumpSpace.FindString(m[6])
	}
	return s, true
}

func lsn(t *testing.T, s string) wal.LSN {
	t.Helper()
	l, err := wal.ParseLSN(s)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
