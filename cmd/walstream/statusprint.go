package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/term"
	"github.com/walstream/walstream/receiver"
	"github.com/walstream/walstream/wal"
)

func (a *app) printStatus(v *statusView) error {
	if a.json {
		return term.JSON(a.stdout, v)
	}
	return v.print(a.stdout, time.Now())
}

func (v *statusView) print(w io.Writer, now time.Time) error {
	table := term.NewTable(w)
	table.Row("state", v.stateText(now))
	table.Row("received", lsnText(v.Received), v.receivedText(now))
	table.Row("flushed", lsnText(v.Flushed), v.flushedText(now))
	table.Row("archived", lsnText(max(v.ArchivedLSN, v.TailLSN)), v.archiveText(now))
	if v.Archive.Unsafe {
		table.Row("unsafe", v.Archive.Location, "s3.unsafe_no_conditional_put: nothing keeps a second receiver from overwriting WAL there (P3 is off)")
	}
	if v.Spool.Bytes > 0 {
		table.Row("spool", term.Size(v.Spool.Bytes), v.Spool.Dir)
	}
	if v.Slot != nil && !v.Slot.Looked.IsZero() {
		table.Row("slot", lsnText(v.Slot.RestartLSN), v.slotText())
	}
	backup := "none yet; take one: walstream backup"
	switch {
	case v.Backup == nil && v.Archive.Failure != nil:
		backup = "not known"
	case v.Backup != nil:
		backup = v.Backup.ID + ", " + term.Size(v.Backup.PlainBytes) + ", finished " + term.Age(v.Backup.Finished, now)
	}
	table.Row("backup", backup)
	if v.Backup != nil {
		table.Row("recover", v.recoverText(now))
	}
	for _, g := range v.Gaps {
		table.Row("gap", fmt.Sprintf("%s .. %s", g.From, g.To), fmt.Sprintf("timeline %s, %s", g.Timeline, term.Count(int(g.Segments), "segment")))
	}
	for _, p := range v.Problems {
		table.Row("PROBLEM", p)
	}
	for _, h := range v.hints() {
		table.Row("hint", h)
	}
	return table.Flush()
}

// hints are the remedies of what fails now, each once.
func (v *statusView) hints() (hints []string) {
	failures := []*hint.Failure{v.Failure, v.Archive.Failure}
	if v.Slot != nil {
		failures = append(failures, v.Slot.Failure)
	}
	for _, f := range failures {
		if f == nil {
			continue
		}
		for _, h := range f.Hints {
			if !slices.Contains(hints, h) {
				hints = append(hints, h)
			}
		}
	}
	return hints
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
	switch v.SyncState {
	case "sync", "quorum":
		text += ", synchronous"
	case "potential", "async":
		text += ", not synchronous"
	}
	return text
}

func (v *statusView) receivedText(now time.Time) string {
	if v.ServerLSN == 0 || v.State != receiver.Streaming {
		return ""
	}
	return join(term.Size(lsnDistance(v.Received, v.ServerLSN))+" behind the server", ago("heard", v.LastMessage, now))
}

func (v *statusView) flushedText(now time.Time) string {
	if !v.Running || v.Flushed == 0 {
		return ""
	}
	text := "all that was received is durable"
	if left := lsnDistance(v.Flushed, v.Received); left > 0 {
		text = term.Size(left) + " received and not durable yet"
	}
	text = join(text, v.lagText(), ago("acknowledged", v.LastFlush, now))
	if v.FlushP99 != nil {
		text += ", fsync p99 " + secondsText(*v.FlushP99)
	}
	return text
}

// lagText is how far what is durable is behind the server, "" if it is not or
// nobody knows.
func (v *statusView) lagText() string {
	switch {
	case v.LagSeconds == nil || *v.LagSeconds == 0:
		return ""
	case v.LagBytes == nil:
		return "lag " + secondsText(*v.LagSeconds)
	}
	return "lag " + term.Size(*v.LagBytes) + ", " + secondsText(*v.LagSeconds)
}

func secondsText(s float64) string { return term.Duration(time.Duration(s * float64(time.Second))) }

// archiveText: what is not archived is in the spool, and most of the time only
// in the segment that is being filled.
func (v *statusView) archiveText(now time.Time) string {
	left := "nothing yet"
	if end := max(v.ArchivedLSN, v.TailLSN); end != 0 {
		left = term.Size(lsnDistance(end, v.Flushed)) + " in the spool only"
	}
	if v.Ack == "archive" {
		left = join("commits wait for it", left)
	}
	if v.TailLSN > v.ArchivedLSN {
		left = join(left, "complete segments to "+v.ArchivedLSN.String())
	}
	if v.Spool.Waiting > 0 {
		left = join(left, term.Count(v.Spool.Waiting, "segment")+" waiting")
	}
	return join(left, ago("last put", v.Archive.LastSuccess, now))
}

func (v *statusView) slotText() string {
	text := v.Slot.Name
	if v.Slot.WALStatus != "" {
		text += " (" + v.Slot.WALStatus + ")"
	}
	if v.Slot.RestartLSN != 0 && v.ServerLSN != 0 {
		text += " keeps " + term.Size(lsnDistance(v.Slot.RestartLSN, v.ServerLSN)) + " on the server"
	}
	if v.Slot.Streamed {
		text += ", not what is only in the spool (slot_mode: stream)"
	}
	return text
}

func (v *statusView) recoverText(now time.Time) string {
	text := windowsText(v.Recoverable)
	if n := len(v.Recoverable); n > 0 && v.Recoverable[n-1].Open {
		text = join(text, ago("last commit", v.Recoverable[n-1].To, now))
	}
	return text
}

// join puts a comma between what there is.
func join(parts ...string) string {
	var some []string
	for _, p := range parts {
		if p != "" {
			some = append(some, p)
		}
	}
	return strings.Join(some, ", ")
}

func ago(what string, t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return what + " " + term.Age(t, now)
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
