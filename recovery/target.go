package recovery

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/wal"
)

// Kind is what a recovery target is given by.
type Kind string

// The kinds are PostgreSQL's recovery_target_* settings; [KindEnd] is none of
// them, which means all WAL there is.
const (
	KindEnd       Kind = "end"
	KindTime      Kind = "time"
	KindLSN       Kind = "lsn"
	KindXID       Kind = "xid"
	KindName      Kind = "name"
	KindImmediate Kind = "immediate"
)

// Action is PostgreSQL's recovery_target_action.
type Action string

// What a server does when it has reached its target.
const (
	ActionPause    Action = "pause"
	ActionPromote  Action = "promote"
	ActionShutdown Action = "shutdown"
)

// ParseAction reads the name of an action.
func ParseAction(s string) (Action, error) {
	switch a := Action(s); a {
	case ActionPause, ActionPromote, ActionShutdown:
		return a, nil
	}
	return "", hint.Errorf("--target-action pause", "%q is no target action: want pause, promote or shutdown", s)
}

// TargetTimeline says along which timeline to recover: a number, or one of
// PostgreSQL's two words. The zero value is "latest".
type TargetTimeline struct {
	Number  wal.Timeline // 0 when a word decides
	Current bool         // the timeline on which the backup was taken
}

// ParseTargetTimeline reads "latest", "current" or a decimal number.
func ParseTargetTimeline(s string) (TargetTimeline, error) {
	switch s {
	case "latest":
		return TargetTimeline{}, nil
	case "current":
		return TargetTimeline{Current: true}, nil
	}
	tli, err := wal.ParseTimeline(s)
	if err != nil {
		return TargetTimeline{}, hint.Errorf("--target-timeline latest", "%q is no target timeline: want latest, current or a decimal number", s)
	}
	return TargetTimeline{Number: tli}, nil
}

func (t TargetTimeline) String() string {
	switch {
	case t.Number != 0:
		return t.Number.String()
	case t.Current:
		return "current"
	default:
		return "latest"
	}
}

// MarshalText makes the choice a string in JSON.
func (t TargetTimeline) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reverses MarshalText.
func (t *TargetTimeline) UnmarshalText(b []byte) (err error) {
	*t, err = ParseTargetTimeline(string(b))
	return err
}

// Target is where a recovery shall end. Only the field that belongs to Kind
// counts. The zero Kind is KindEnd.
type Target struct {
	Kind Kind      `json:"kind"`
	Time time.Time `json:"time,omitzero"`
	LSN  wal.LSN   `json:"lsn,omitempty"`
	XID  uint32    `json:"xid,omitempty"`
	Name string    `json:"name,omitempty"`
	// Exclusive is recovery_target_inclusive = off: stop just before.
	Exclusive bool           `json:"exclusive,omitempty"`
	Timeline  TargetTimeline `json:"timeline"`
	// Action is what happens at the target: pause when empty. Without a
	// target the server always goes live at the end of WAL.
	Action Action `json:"action,omitempty"`
	// Backup is the ID of the backup to use; empty lets the planner choose.
	Backup string `json:"backup,omitempty"`
	// Zone is where the reader lives: times in messages are shown there.
	// Nil is UTC.
	Zone *time.Location `json:"-"`
}

// ParseXID reads a transaction ID: 32 bits, or the 64 bits with the epoch that
// pg_current_xact_id() shows, of which WAL records hold the lower half.
func ParseXID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || uint32(n) == 0 {
		return 0, fmt.Errorf("%q is no transaction ID: want a decimal number from 1 on", s)
	}
	return uint32(n), nil
}

// show prints a time for the reader of this target.
func (t Target) show(at time.Time) string {
	if t.Zone == nil {
		return ShowTime(at.UTC())
	}
	return ShowTime(at.In(t.Zone))
}

// Validate checks what does not depend on any archive.
func (t Target) Validate() error {
	var err error
	switch t.Kind {
	case KindEnd, "":
		if t.Exclusive {
			err = hint.Errorf("leave --target-exclusive out", "the end of WAL cannot be exclusive")
		} else if t.Action != "" && t.Action != ActionPromote {
			err = hint.Errorf("leave --target-action out", "action %q needs a target: at the end of WAL a server is promoted", t.Action)
		}
	case KindTime:
		if t.Time.IsZero() {
			err = fmt.Errorf("target time is missing")
		}
	case KindLSN:
		if t.LSN == 0 {
			err = fmt.Errorf("target LSN is missing")
		}
	case KindXID:
		if t.XID == 0 {
			err = fmt.Errorf("target xid is missing")
		}
	case KindName:
		err = validName(t.Name)
	case KindImmediate:
	default:
		err = fmt.Errorf("%q is no kind of recovery target", t.Kind)
	}
	if err == nil && t.Exclusive && (t.Kind == KindName || t.Kind == KindImmediate) {
		err = hint.Errorf("leave --target-exclusive out", "a target %s cannot be exclusive", t.Kind)
	}
	return err
}

// validName refuses what pg_create_restore_point refuses (MAXFNAMELEN), and
// what cannot stand in a configuration file.
func validName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("name of the restore point is missing")
	case len(name) > 63:
		return fmt.Errorf("restore point %q: PostgreSQL allows 63 bytes", name)
	case strings.ContainsAny(name, "\n\r\x00"):
		return fmt.Errorf("restore point %q: a line break cannot be written into the configuration", name)
	}
	return nil
}

// String shows the target as a person gave it, times with UTC beside.
func (t Target) String() string {
	switch t.Kind {
	case KindTime:
		return "time " + ShowTime(t.Time)
	case KindLSN:
		return "LSN " + t.LSN.String()
	case KindXID:
		return fmt.Sprintf("transaction %d", t.XID)
	case KindName:
		return fmt.Sprintf("restore point %q", t.Name)
	case KindImmediate:
		return "the end of the backup"
	default:
		return "the end of WAL"
	}
}

// Inclusion says on which side of the target recovery stops: "inclusive",
// "exclusive", or nothing where there is no choice.
func (t Target) Inclusion() string {
	switch {
	case t.Kind != KindTime && t.Kind != KindLSN && t.Kind != KindXID:
		return ""
	case t.Exclusive:
		return "exclusive"
	}
	return "inclusive"
}
