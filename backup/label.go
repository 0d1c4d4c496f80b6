package backup

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/wal"
)

// label is what a backup_label says (build_backup_content in
// access/transam/xlogbackup.c, do_pg_backup_start before PostgreSQL 16).
type label struct {
	start       position
	started     string // in the server's log_timezone: 2026-11-22 01:00:04 CET
	name        string
	fromStandby bool
	incremental bool
}

func parseLabel(body string) (label, error) {
	var l label
	for line := range strings.Lines(body) {
		key, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), ": ")
		var err error
		switch key {
		case "START WAL LOCATION":
			lsn, _, _ := strings.Cut(value, " ")
			l.start.lsn, err = wal.ParseLSN(lsn)
		case "START TIMELINE":
			l.start.timeline, err = wal.ParseTimeline(value)
		case "START TIME":
			l.started = value
		case "LABEL":
			l.name = value
		case "BACKUP FROM":
			l.fromStandby = value == "standby"
		case "INCREMENTAL FROM LSN":
			l.incremental = true
		}
		if err != nil {
			return label{}, fmt.Errorf("backup_label: %w", err)
		}
	}
	if l.start.lsn == 0 || l.start.timeline == 0 || l.started == "" {
		return label{}, fmt.Errorf("backup_label does not say where and when the backup began")
	}
	if l.incremental {
		return label{}, hint.Errorf("make a full one of it with pg_combinebackup, then import that", "the backup is incremental")
	}
	return l, nil
}

// time is when the backup began. The label names the zone by an abbreviation
// only, of which there may be several ("IST"), so it is found out with the time
// at which the label was written according to the manifest: zones differ by
// multiples of a quarter of an hour.
func (l label) time(written time.Time) (time.Time, error) {
	zone := strings.LastIndexByte(l.started, ' ')
	at, err := time.Parse(time.DateTime, l.started[:max(zone, 0)])
	if err != nil {
		return time.Time{}, fmt.Errorf("backup_label: START TIME %q is no time", l.started)
	}
	if name := l.started[zone+1:]; name == "UTC" || name == "GMT" || written.IsZero() {
		return at, nil
	}
	return at.Add(written.Sub(at).Round(15 * time.Minute)), nil
}

// ParseTablespaceMap reads tablespace_map, by the rules of PostgreSQL's
// read_tablespace_map: "oid path" in each line, a backslash before each line
// break and backslash of the path.
func ParseTablespaceMap(body string) ([]Tablespace, error) {
	var found []Tablespace
	var line strings.Builder
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case c == '\\' && i+1 < len(body):
			i++
			line.WriteByte(body[i])
		case c != '\n' && c != '\r':
			line.WriteByte(c)
		case line.Len() > 0:
			oid, path, _ := strings.Cut(line.String(), " ")
			n, err := strconv.ParseUint(oid, 10, 32)
			if err != nil || path == "" {
				return nil, fmt.Errorf("tablespace_map: %q is no tablespace", line.String())
			}
			found = append(found, Tablespace{OID: uint32(n), Location: path})
			line.Reset()
		}
	}
	if line.Len() > 0 {
		return nil, fmt.Errorf("tablespace_map ends within a line")
	}
	return found, nil
}

// FormatTablespaceMap writes what [ParseTablespaceMap] reads.
func FormatTablespaceMap(list []Tablespace) string {
	escape := strings.NewReplacer("\\", "\\\\", "\n", "\\\n", "\r", "\\\r")
	var b strings.Builder
	for _, ts := range list {
		fmt.Fprintf(&b, "%d %s\n", ts.OID, escape.Replace(ts.Location))
	}
	return b.String()
}
