package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/walstream/walstream/internal/term"
	"github.com/walstream/walstream/receiver"
	"github.com/walstream/walstream/wal"
)

func (a *app) printStatus(v *statusView) error {
	if a.json {
		return term.JSON(a.stdout, v)
	}
	now := time.Now()
	table := term.NewTable(a.stdout)
	table.Row("state", v.stateText(now))
	table.Row("received", lsnText(v.Received), v.behindText())
	table.Row("flushed", lsnText(v.Flushed))
	table.Row("archived", lsnText(v.ArchivedLSN), v.archiveText(now))
	if v.Slot != nil && !v.Slot.Looked.IsZero() {
		table.Row("slot", lsnText(v.Slot.RestartLSN), strings.TrimSpace(v.Slot.Name+" "+v.Slot.WALStatus))
	}
	backup := "none yet"
	if v.Backup != nil {
		backup = v.Backup.ID + ", finished " + term.Age(v.Backup.Finished, now)
	}
	table.Row("backup", backup)
	for _, p := range v.Problems {
		table.Row("PROBLEM", p)
	}
	return table.Flush()
}

func (v *statusView) stateText(now time.Time) string {
	text := string(v.State)
	if !v.Since.IsZero() {
		text += " for " + term.Duration(now.Sub(v.Since))
	}
	if v.State == receiver.Streaming {
		text += " from " + v.Server
	}
	if number, _, _ := strings.Cut(v.ServerVersion, " "); number != "" { // what follows is the packager's
		text += ", PostgreSQL " + number
	}
	if v.Timeline != 0 {
		text += ", timeline " + v.Timeline.String()
	}
	return text
}

func (v *statusView) behindText() string {
	if v.ServerLSN == 0 || v.State != receiver.Streaming {
		return ""
	}
	return term.Size(lsnDistance(v.Received, v.ServerLSN)) + " behind the server"
}

func (v *statusView) archiveText(now time.Time) string {
	text := fmt.Sprintf("%d waiting in the spool", v.Spool.Waiting)
	if v.Flushed != 0 {
		text = term.Size(lsnDistance(v.ArchivedLSN, v.Flushed)) + " behind, " + text
	}
	if !v.Archive.LastSuccess.IsZero() {
		text += ", last put " + term.Age(v.Archive.LastSuccess, now)
	}
	return text
}

// lsnDistance is how many bytes to lies behind from, 0 when it does not.
func lsnDistance(from, to wal.LSN) int64 {
	if to < from {
		return 0
	}
	return int64(to - from)
}

func lsnText(lsn wal.LSN) string {
	if lsn == 0 {
		return "-"
	}
	return lsn.String()
}
