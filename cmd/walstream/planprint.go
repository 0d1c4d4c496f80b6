package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/term"
	"github.com/walstream/walstream/recovery"
	"github.com/walstream/walstream/wal"
)

// planView is a plan as --json shows it: the plan itself, with the backup's
// list of parts left out, and what will be written where.
type planView struct {
	*recovery.Plan
	Backup   backupView         `json:"backup"`
	Dir      string             `json:"dir"`
	Settings []recovery.Setting `json:"settings"`
}

func (a *app) printPlan(p *recovery.Plan, conf recovery.RestoreConfig) error {
	settings := p.SettingsIn(conf)
	if a.json {
		return term.JSON(a.stdout, planView{p, viewBackup(&p.Backup), conf.Dir, settings})
	}
	table := term.NewTable(a.stdout)
	table.Row("target", fmt.Sprintf("%s, timeline %s%s", p.Target, p.Timeline, wordFor(p.Target.Timeline)))
	table.Row("backup", fmt.Sprintf("%s, PostgreSQL %d, %s, timeline %s, finished %s", p.Backup.ID, p.Backup.MajorVersion,
		term.Size(p.Backup.PlainBytes), p.Backup.Timeline, term.Time(p.Backup.Finished)))
	for i, text := range walTexts(p) {
		table.Row(first(i, "wal"), text)
	}
	table.Row("before", finishText("the last transaction that is replayed", p.Before))
	table.Row("after", finishText("the first that is not", p.After))
	writes := term.Size(p.Backup.PlainBytes) + " to " + conf.Dir
	if free, ok := freeBytes(conf.Dir); ok {
		writes += " (" + term.Size(free) + " free)"
	}
	table.Row("writes", writes)
	if len(p.SpoolOnly) > 0 {
		table.Row("", fmt.Sprintf("%d segments that only the spool holds, to %s", len(p.SpoolOnly), recovery.SideDir(conf.Dir)))
	}
	n := 0
	for _, s := range settings {
		if s.Name == "restore_command" || strings.HasPrefix(s.Name, "recovery_target") && s.Value != "" {
			table.Row(first(n, "settings"), fmt.Sprintf("%s = %s", s.Name, s.Value))
			n++
		}
	}
	for i, w := range p.Warnings {
		table.Row(first(i, "WARNING"), w)
	}
	return table.Flush()
}

// first is the label of a row's first line.
func first(i int, label string) string {
	if i > 0 {
		return ""
	}
	return label
}

func wordFor(t recovery.TargetTimeline) string {
	if t.Number != 0 {
		return ""
	}
	return " (" + t.String() + ")"
}

func walTexts(p *recovery.Plan) []string {
	var texts []string
	for _, r := range p.WAL {
		text := fmt.Sprintf("timeline %s: %d segments, %s stored: %s .. %s", r.Timeline, r.Segments, term.Size(r.StoredBytes), r.First, r.Last)
		if r.Switch != 0 {
			text += fmt.Sprintf(", up to the fork at %s", r.Switch)
		}
		texts = append(texts, text)
	}
	end := fmt.Sprintf("recovery ends at %s; WAL reaches to %s", p.End, p.WALEnd)
	if p.LastFinish != nil {
		end += ", last transaction " + recovery.ShowTime(p.LastFinish.Time.Local())
	}
	return append(texts, end)
}

func finishText(what string, f *wal.Finish) string {
	if f == nil {
		return what + ": none known"
	}
	verb := "commit"
	if f.Abort {
		verb = "abort"
	}
	return fmt.Sprintf("%s: %s of xid %d at %s, %s", what, verb, f.XID, f.LSN, recovery.ShowTime(f.Time.Local()))
}

// freeBytes is what an unprivileged user can still write where dir is or will
// be.
func freeBytes(dir string) (int64, bool) {
	var st unix.Statfs_t
	for {
		err := unix.Statfs(dir, &st)
		if err == nil {
			return int64(st.Bavail) * st.Bsize, true
		}
		parent := filepath.Dir(dir)
		if parent == dir || !errors.Is(err, unix.ENOENT) {
			return 0, false
		}
		dir = parent
	}
}

// nextSteps tells what a restored cluster does and does not do.
func nextSteps(p *recovery.Plan, dir string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "restored; start it:  pg_ctl -D %s start\n", hint.Quote(dir))
	if p.Target.Action == recovery.ActionPause {
		b.WriteString("it pauses at the target; look, then make it live:  SELECT pg_wal_replay_resume();\n")
	}
	fmt.Fprintf(&b, "it archives nothing, waits for no standby and connects to nothing; to change that once it is live,\n"+
		"remove the block of walstream from %s and restart it\n", hint.Quote(dir+"/postgresql.auto.conf"))
	return b.String()
}
