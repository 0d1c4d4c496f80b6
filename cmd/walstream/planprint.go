package main

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/term"
	"github.com/walstream/walstream/recovery"
	"github.com/walstream/walstream/wal"
)

// planFacts is a plan with the backup's list of parts left out.
type planFacts struct {
	*recovery.Plan
	Backup backupView `json:"backup"`
}

// planView is a plan as --json shows it: with what will be written where.
type planView struct {
	planFacts
	Dir      string             `json:"dir"`
	Settings []recovery.Setting `json:"settings"`
	Expected *recovery.Expected `json:"expected,omitempty"`
	Recovery *recoveryEnd       `json:"recovery,omitempty"`
}

// printPlan shows a plan: all of it before it is carried out, when it is told
// what to expect, afterwards what came of it, also of the recovery if that was
// followed. Passwords are left out.
func (a *app) printPlan(p *recovery.Plan, conf recovery.RestoreConfig, expected *recovery.Expected, end *recoveryEnd) error {
	done := expected == nil
	settings := p.SettingsIn(conf)
	for i, s := range settings {
		if s.Name == "primary_conninfo" {
			settings[i].Value = config.Mask(s.Value)
		}
	}
	if a.json {
		return term.JSON(a.stdout, planView{planFacts{p, viewBackup(&p.Backup)}, conf.Dir, settings, expected, end})
	}
	table := term.NewTable(a.stdout)
	table.Row("target", join(p.Target.String(), p.Target.Inclusion(), "timeline "+p.Timeline.String()+wordFor(p.Target.Timeline)))
	table.Row("backup", backupText(p))
	if !done {
		for i, text := range walTexts(p) {
			table.Row(first(i, "wal"), text)
		}
	}
	table.Row("before", finishText(p.Before, "no transaction finishes between the backup and the target", "last replayed"))
	table.Row("after", finishText(p.After, "no transaction is left out", "first left out"))
	if !done {
		writesRows(table, p, conf, settings)
		seconds := func(s float64) string { return term.Duration(time.Duration(s * float64(time.Second))) }
		table.Row("takes", fmt.Sprintf("%s to read the backup, %s to fetch WAL while it is replayed, as fast as samples were read now;",
			seconds(expected.BackupSeconds), seconds(expected.WALSeconds)))
		table.Row("", "how fast the disk is and PostgreSQL replays, only a restore tells")
	}
	if end != nil {
		table.Row("reached", end.String())
	}
	for i, w := range p.Warnings {
		table.Row(first(i, "WARNING"), w)
	}
	return table.Flush()
}

// writesRows shows what will be written where.
func writesRows(table *term.Table, p *recovery.Plan, conf recovery.RestoreConfig, settings []recovery.Setting) {
	writes := term.Size(p.Backup.PlainBytes) + " to " + conf.Dir
	if fs, err := recovery.FileSystemOf(conf.Dir); err == nil {
		writes += " (" + term.Size(fs.Free) + " free)"
	}
	table.Row("writes", writes)
	if n := len(p.SpoolOnly); n > 0 && conf.Standby == nil {
		table.Row("", term.Count(n, "segment")+" that only the spool holds, to "+recovery.SideDir(conf.Dir))
	}
	for _, t := range p.Changes.Tablespaces {
		table.Row("", "replay makes a tablespace in "+t.Path)
	}
	n := 0
	for _, s := range settings {
		if s.Value != "" && (s.Name == "restore_command" || strings.HasPrefix(s.Name, "recovery_target") || strings.HasPrefix(s.Name, "primary_")) {
			table.Row(first(n, "settings"), s.String())
			n++
		}
	}
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
		text := fmt.Sprintf("%s .. %s, %s, %s stored", r.First, r.Last, term.Count(r.Segments, "segment"), term.Size(r.StoredBytes))
		if r.Switch != 0 {
			text += fmt.Sprintf(", up to the fork at %s", r.Switch)
		}
		texts = append(texts, text)
	}
	end := fmt.Sprintf("ends at %s; there is WAL to %s", p.End, p.WALEnd)
	if p.LastFinish != nil {
		end += ", last transaction " + term.Time(p.LastFinish.Time)
	}
	return append(texts, end)
}

func finishText(f *wal.Finish, none, what string) string {
	if f == nil {
		return none
	}
	verb := "committed"
	if f.Abort {
		verb = "aborted"
	}
	return fmt.Sprintf("xid %d %s %s at %s, %s", f.XID, verb, term.Exact(f.Time), f.LSN, what)
}

func backupText(p *recovery.Plan) string {
	b := p.Backup
	finished := term.Time(b.Finished)
	if before := p.Target.Time.Sub(b.Finished); p.Target.Kind == recovery.KindTime && before > 0 {
		finished = term.Duration(before) + " before the target"
	}
	timeline := ""
	if b.Timeline != p.Timeline {
		timeline = "timeline " + b.Timeline.String()
	}
	return join(b.ID, fmt.Sprintf("PostgreSQL %d", b.MajorVersion), term.Size(b.PlainBytes), timeline, "finished "+finished)
}

// nextSteps tells what a restored cluster does and does not do.
func nextSteps(p *recovery.Plan, conf recovery.RestoreConfig) string {
	var b strings.Builder
	fmt.Fprintf(&b, "restored; start it with PostgreSQL %d:  %spg_ctl -D %s start\n", p.Identity.MajorVersion, asOwner(conf.Dir), hint.Quote(conf.Dir))
	if s := conf.Standby; s != nil {
		if s.Slot != "" {
			fmt.Fprintf(&b, "it needs its slot on the server that it streams from:  SELECT pg_create_physical_replication_slot('%s');\n", s.Slot)
		}
		if s.Conninfo == "" {
			b.WriteString("it follows the archive only; with --primary-conninfo it would stream\n")
		}
		b.WriteString("once it is promoted, the primary's settings for archiving and synchronous standbys are its own\n")
		return b.String()
	}
	if p.Target.Action == recovery.ActionPause {
		b.WriteString("it pauses at the target; look, then make it live:  SELECT pg_wal_replay_resume();\n")
	}
	b.WriteString(harmless)
	return b.String()
}

const harmless = "it archives nothing, waits for no standby and connects to nothing; to change that once it\n" +
	"is live, remove the block of walstream from its postgresql.auto.conf and restart it\n"

// asOwner begins a command that the owner of dir has to run.
func asOwner(dir string) string {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil || int(st.Uid) == os.Geteuid() {
		return ""
	}
	if u, err := user.LookupId(strconv.Itoa(int(st.Uid))); err == nil {
		return "runuser -u " + u.Username + " -- "
	}
	return ""
}
