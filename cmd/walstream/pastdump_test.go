package main

import (
	"bufio"
	"cmp"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

var (
	dumped   = regexp.MustCompile(`^rmgr: (\S+) +len \(rec/tot\): *\d+/ *(\d+), tx: *(\d+), lsn: ([0-9A-F/]+), prev \S+, desc: (\S+) ?(.*)$`)
	finished = regexp.MustCompile(`^(?:(\d+): )?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+) UTC`)
)

// dump adds a timeline, whose segments are in dir.
func (p *past) dump(t *testing.T, c *testkit.Cluster, dir string, e era) {
	t.Helper()
	tli := wal.Timeline(len(p.eras) + 1)
	path := slices.Clone(p.paths[e.parent])
	path = slices.DeleteFunc(path, func(r logged) bool { return r.lsn >= e.fork })
	from := e.fork
	if from == 0 {
		names, err := filepath.Glob(filepath.Join(dir, "00000001????????????????"))
		if err != nil || len(names) == 0 {
			t.Fatalf("no WAL in %s: %v", dir, err)
		}
		oldest, err := segment.ParseName(filepath.Base(names[0]), mib)
		if err != nil {
			t.Fatal(err)
		}
		from = oldest.Start(mib)
	}
	cmd := testkit.Command(t, filepath.Join(c.Bin, "pg_waldump"), "-p", dir, "-t", tli.String(), "-s", from.String())
	cmd.Env = append(cmd.Env, "TZ=UTC")
	out, err := cmd.Output() // the end of WAL is an error to it
	lines := bufio.NewScanner(strings.NewReader(string(out)))
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		if m := dumped.FindStringSubmatch(lines.Text()); m == nil {
			t.Fatalf("pg_waldump says %q", lines.Text())
		} else if r := record(t, tli, m); e.end == 0 || r.lsn < e.end {
			path = append(path, r)
		}
	}
	if len(path) == 0 {
		t.Fatalf("pg_waldump shows nothing of timeline %s from %s on: %v", tli, from, err)
	}
	last := path[len(path)-1].end
	if e.end == 0 {
		e.end = last
	}
	if last < e.end {
		t.Fatalf("pg_waldump shows timeline %s up to %s, not to %s: %v", tli, last, e.end, err)
	}
	p.eras = append(p.eras, e)
	p.paths[tli] = path
}

// record reads a line of pg_waldump.
func record(t *testing.T, tli wal.Timeline, m []string) logged {
	t.Helper()
	lsn, err := wal.ParseLSN(m[4])
	length, err2 := strconv.Atoi(m[2])
	xid, err3 := strconv.ParseUint(m[3], 10, 32)
	if err := cmp.Or(err, err2, err3); err != nil {
		t.Fatalf("%v in %q", err, m[0])
	}
	r := logged{tli: tli, lsn: lsn, end: behind(lsn, length), xid: uint32(xid)}
	switch rmgr, what := m[1], m[5]; {
	case rmgr == "XLOG" && what == "RESTORE_POINT":
		r.point = m[6]
	case rmgr == "XLOG" && what == "BACKUP_END":
		r.backupFrom, err = wal.ParseLSN(m[6])
	case rmgr == "XLOG" && what == "SWITCH":
		r.end = segmentOf(lsn) + megabyte
	case rmgr == "Transaction" && what == "PREPARE":
		r.prepare = true
	case rmgr == "Transaction" && (strings.HasPrefix(what, "COMMIT") || strings.HasPrefix(what, "ABORT")):
		f := finished.FindStringSubmatch(m[6])
		if f == nil {
			t.Fatalf("no time in %q", m[0])
		}
		r.finish, r.commit = true, strings.HasPrefix(what, "COMMIT")
		if r.prepared = f[1] != ""; r.prepared {
			xid, _ := strconv.ParseUint(f[1], 10, 32)
			r.xid = uint32(xid)
		}
		r.time, err = time.Parse("2006-01-02 15:04:05.999999", f[2])
	}
	if err != nil {
		t.Fatalf("%v in %q", err, m[0])
	}
	return r
}

// behind is the end of a record of that length: page headers lie in between.
func behind(at wal.LSN, length int) wal.LSN {
	const page = 8192
	for {
		room := page - int(at%page)
		if length <= room {
			return (at + wal.LSN(length) + 7) &^ 7
		}
		length -= room
		at += wal.LSN(room)
		if at%megabyte == 0 {
			at += 40
		} else {
			at += 24
		}
	}
}
