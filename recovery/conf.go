package recovery

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/walstream/walstream/internal/controlfile"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/ready"
)

// Setting is one line of the recovery configuration.
type Setting struct {
	Name  string `json:"name"`
	Value string `json:"value"` // as it is meant, not as it is quoted
}

// String is the line as it stands in the configuration.
func (s Setting) String() string { return s.Name + " = " + confQuote(s.Value) }

// confQuote writes s, which has no line break, as a value of postgresql.conf
// by the rules of PostgreSQL's guc-file.l: quotes and backslashes doubled.
func confQuote(s string) string {
	return "'" + strings.NewReplacer(`'`, `''`, `\`, `\\`).Replace(s) + "'"
}

// The lines around the settings. All of them begin with blockMark but blockSaid.
const (
	blockMark    = "# walstream restore: "
	blockBegin   = blockMark + "recovery settings. Remove these lines to let this server"
	blockSaid    = "# archive, have synchronous standbys or subscribe again."
	blockStandby = blockMark + "settings of a standby"
	blockEnd     = blockMark + "end of recovery settings"
)

// Standby makes a restored server join production as a standby, which may take
// over one day.
type Standby struct {
	// Conninfo is its primary_conninfo. Empty lets it follow the archive only.
	Conninfo string
	Slot     string // its primary_slot_name, which may be empty
}

// Settings is everything that decides about the recovery and about what the
// restored server may touch (P10 in docs/guarantees.md): it archives nowhere,
// waits for no standby, follows no primary and applies no subscriptions. A
// standby, if that is not nil, keeps its settings for all of that. Every
// recovery_target setting is there, because a leftover one would be a second
// target. command is the argument vector of a wal-get with its options, to
// which file name and path are added.
func (p *Plan) Settings(command []string, standby *Standby) []Setting {
	list := []Setting{
		{"restore_command", RestoreCommand(command)},
		{"recovery_end_command", ""}, {"archive_cleanup_command", ""}, {"recovery_min_apply_delay", "0"},
		{"external_pid_file", "external.pid"}, // in the data directory: not the source's, and of an empty name PostgreSQL complains
	}
	major := p.Identity.MajorVersion
	if major < 16 {
		list = append(list, Setting{"promote_trigger_file", ""})
	}
	if standby != nil {
		list = append(list, Setting{"recovery_target_timeline", "latest"}, Setting{"primary_conninfo", standby.Conninfo}, Setting{"primary_slot_name", standby.Slot})
		return append(list, targetSettings(Target{})...)
	}
	list = append(list, Setting{"recovery_target_timeline", p.Timeline.String()},
		Setting{"archive_mode", "off"}, Setting{"archive_command", ""},
		Setting{"synchronous_standby_names", ""}, Setting{"primary_conninfo", ""}, Setting{"primary_slot_name", ""},
		Setting{"max_logical_replication_workers", "0"})
	if major >= 15 {
		list = append(list, Setting{"archive_library", ""})
	}
	if major >= 17 {
		list = append(list, Setting{"sync_replication_slots", "off"}, Setting{"synchronized_standby_slots", ""})
	}
	target := p.Target
	if p.Stop != nil {
		target = *p.Stop
		target.Action = p.Target.Action
	}
	return append(list, targetSettings(target)...)
}

// targetSettings puts the target behind the empty settings: to PostgreSQL one
// that is emptied after another was set counts as a second target.
func targetSettings(t Target) []Setting {
	action, inclusive := ActionPromote, "on"
	if t.Action != "" {
		action = t.Action
	}
	if t.Exclusive {
		inclusive = "off"
	}
	list := []Setting{{"recovery_target_action", string(action)}, {"recovery_target_inclusive", inclusive}}
	values := map[Kind]string{
		KindImmediate: "immediate", KindTime: confTime(t.Time), KindLSN: t.LSN.String(), KindXID: fmt.Sprint(t.XID), KindName: t.Name,
	}
	var target []Setting
	for _, kind := range []Kind{KindImmediate, KindTime, KindLSN, KindXID, KindName} {
		name := "recovery_target_" + string(kind)
		if kind == KindImmediate {
			name = "recovery_target"
		}
		if kind == t.Kind {
			target = []Setting{{name, values[kind]}}
		} else {
			list = append(list, Setting{name, ""})
		}
	}
	return append(list, target...)
}

// confTime writes a time with its offset, so that the server's zone does not
// matter.
func confTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000000+00") }

// takeReady is shell that puts a segment into place which a [Prefetcher] has
// ready, and fails if there is none: that takes half the time of a question. It
// looks only for what was fetched since the server was started, see [ServerStart].
// Up to mv all words are the shell's own.
const takeReady = `{ read -r x; read -r x; read -r x; } <postmaster.pid && x=pg_wal/` + ready.Name + `/%f.$x && [ -e "$x" ] && mv -f "$x" %p 2>/dev/null`

// RestoreCommand makes a restore_command of an argument vector: each word
// quoted for the shell, each % doubled. It is run unless the file is ready.
// Whatever its exit code is, PostgreSQL sees 0, 1 for "there is no such file",
// or 200, which stops it: it takes 1 to 125 for the end of WAL, and a crash or a
// missing binary must not look like that.
func RestoreCommand(command []string) string {
	words := make([]string, len(command))
	for i, w := range command {
		words[i] = strings.ReplaceAll(hint.Quote(w), "%", "%%")
	}
	return takeReady + " || " + strings.Join(words, " ") + " %f %p || { [ $? -eq 1 ] && exit 1; exit 200; }"
}

var settingLine = regexp.MustCompile(`^\s*([A-Za-z_][A-Za-z0-9_.]*)\s*(?:=|\s)`)

// mergeAutoConf puts the settings at the end of a postgresql.auto.conf. Lines
// that set one of them go, and so does the block of an earlier restore. begin
// is what stands above the settings.
func mergeAutoConf(old, begin string, settings []Setting) (string, error) {
	names := map[string]bool{}
	for _, s := range settings {
		names[s.Name] = true
	}
	var b strings.Builder
	for line := range strings.Lines(old) {
		line = strings.TrimRight(line, "\r\n")
		if m := settingLine.FindStringSubmatch(line); m != nil && names[strings.ToLower(m[1])] {
			continue
		}
		if strings.HasPrefix(line, blockMark) || line == blockSaid {
			continue
		}
		b.WriteString(line + "\n")
	}
	b.WriteString(begin + "\n")
	for _, s := range settings {
		if strings.ContainsAny(s.Value, "\n\r\x00") {
			return "", fmt.Errorf("setting %s: what has a line break cannot stand in postgresql.conf", s.Name)
		}
		b.WriteString(s.String() + "\n")
	}
	b.WriteString(blockEnd + "\n")
	return b.String(), nil
}

var movesData = regexp.MustCompile(`(?mi)^\s*(data_directory|include|include_dir|include_if_exists)\b`)

// keepHome makes a postgresql.conf out of a backup lead to dir. One that names
// a data directory names that of the source, and "pg_ctl -D dir start" would
// start that one. The setting is not allowed in postgresql.auto.conf.
func keepHome(conf []byte, dir string) ([]byte, error) {
	if !movesData.Match(conf) {
		return conf, nil
	}
	if strings.ContainsAny(dir, "\n\r\x00") {
		return nil, fmt.Errorf("data_directory: %q cannot stand in postgresql.conf: it has a line break", dir)
	}
	line := Setting{"data_directory", dir}.String()
	return fmt.Appendf(conf, "\n# Written by walstream restore, so that this server cannot be the one it was restored from.\n%s\n", line), nil
}

// minimalConf is what a data directory needs to be started and may lack:
// Debian keeps these files outside of it, so they are in no backup.
func minimalConf(c controlfile.Control) map[string]string {
	conf := "# Written by walstream restore: the backup held no postgresql.conf.\n" +
		"# These must not be lower than they were on the primary.\n"
	for _, l := range limits(c.Settings) {
		conf += fmt.Sprintf("%s = %d\n", l.name, l.value)
	}
	return map[string]string{
		"postgresql.conf": conf,
		"pg_hba.conf": `# Written by walstream restore: the backup held no pg_hba.conf.
local   all           all                  peer
local   replication   all                  peer
host    all           all   127.0.0.1/32   scram-sha-256
host    all           all   ::1/128        scram-sha-256
`,
		"pg_ident.conf": "# Written by walstream restore: the backup held no pg_ident.conf.\n",
	}
}
