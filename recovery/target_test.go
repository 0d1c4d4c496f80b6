package recovery

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/walstream/walstream/internal/hint"
)

func berlin(t testing.TB) *time.Location {
	loc, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func TestParseTime(t *testing.T) {
	loc := berlin(t)
	now := time.Date(2026, 11, 22, 12, 0, 0, 123456789, loc)
	for in, want := range map[string]string{
		"2026-11-22 09:41":                 "2026-11-22 09:41:00 CET (08:41:00 UTC)",
		"2026-11-22 09:41:00":              "2026-11-22 09:41:00 CET (08:41:00 UTC)",
		"2026-07-22 09:41:00":              "2026-07-22 09:41:00 CEST (07:41:00 UTC)",
		"2026-11-22T09:41:00":              "2026-11-22 09:41:00 CET (08:41:00 UTC)",
		"2026-11-22 09:41:00.5+01":         "2026-11-22 09:41:00.5 CET (08:41:00.5 UTC)",
		"2026-11-22 09:41:00.123456 -0330": "2026-11-22 14:11:00.123456 CET (13:11:00.123456 UTC)",
		"2026-11-22 00:10+05:45":           "2026-11-21 19:25:00 CET (18:25:00 UTC)",
		"2026-11-22T08:41:00Z":             "2026-11-22 09:41:00 CET (08:41:00 UTC)",
		"2026-11-22 08:41:00 UTC":          "2026-11-22 09:41:00 CET (08:41:00 UTC)",
		"2026-11-22 08:41:00+00":           "2026-11-22 09:41:00 CET (08:41:00 UTC)",
		" 2026-11-22 ":                     "2026-11-22 00:00:00 CET (2026-11-21 23:00:00 UTC)",
		"2126-11-22 09:41":                 "2126-11-22 09:41:00 CET (08:41:00 UTC)", // the planner judges the future
		"2026-10-25 02:30:00+02":           "2026-10-25 02:30:00 CEST (00:30:00 UTC)",
		"2026-10-25 01:59:59":              "2026-10-25 01:59:59 CEST (2026-10-24 23:59:59 UTC)",
		"2026-10-25 03:00:00":              "2026-10-25 03:00:00 CET (02:00:00 UTC)",
		"10 minutes ago":                   "2026-11-22 11:50:00.123456 CET (10:50:00.123456 UTC)",
		"1h ago":                           "2026-11-22 11:00:00.123456 CET (10:00:00.123456 UTC)",
		"2 days ago":                       "2026-11-20 12:00:00.123456 CET (11:00:00.123456 UTC)",
	} {
		got, err := ParseTime(in, loc, now)
		if err != nil || ShowTime(got) != want {
			t.Errorf("%q: %s, %v; want %s", in, ShowTime(got), err, want)
		}
	}
}

func TestParseTimeRefuses(t *testing.T) {
	loc := berlin(t)
	for in, want := range map[string]string{
		"":                               "want a date",
		"now":                            "want a date",
		"infinity":                       "want a date",
		"09:41":                          "want a date",
		"2026-13-22 09:41":               "no such date",
		"2026-02-30 09:41":               "no such date",
		"2026-11-22 24:41":               "no such date",
		"2026-11-22 09:41:61":            "no such date",
		"2026-11-22 09:41:00.1234567":    "six digits",
		"2026-11-22 09:41.5":             "six digits",
		"2026-11-22 09:41 CET":           "neither an offset",
		"2026-11-22 09:41 Europe/Berlin": "neither an offset",
		"2026-11-22 09:41 UTC+3":         "neither an offset",
		"2026-11-22 09:41+25":            "no offset",
		"2026-11-22 09:41+01:75":         "no offset",
		"2026-11-22 09:41; drop table":   "neither an offset",
		"0000-06-01 00:00":               "its year",
		"0001-01-01 00:00+01":            "its year",
		"9999-12-31 23:59-01":            "its year",
		"999999 days ago":                "its year",
	} {
		got, err := ParseTime(in, loc, time.Time{})
		if err == nil || !strings.Contains(err.Error(), want) || len(hint.Of(err)) == 0 {
			t.Errorf("%q: %v, %v; want an error with %q and a hint", in, got, err, want)
		}
	}
}

func TestParseTimeAtClockChanges(t *testing.T) {
	for _, c := range []struct{ in, zone, want, hints string }{
		{"2026-10-25 02:30", "Europe/Berlin", "showed twice", "2026-10-25 02:30:00+02:00' or '2026-10-25 02:30:00+01:00"},
		{"2026-10-25 02:00", "Europe/Berlin", "showed twice", "+02:00' or "},
		{"2026-03-29 02:30", "Europe/Berlin", "skipped", "2026-03-29 02:30:00+01:00' or '2026-03-29 02:30:00+02:00"},
		{"2026-04-05 01:45", "Australia/Lord_Howe", "showed twice", "+11:00' or '2026-04-05 01:45:00+10:30"},
		{"2011-12-30 12:00", "Pacific/Apia", "skipped", "-10:00' or '2011-12-30 12:00:00+14:00"},
	} {
		loc, err := time.LoadLocation(c.zone)
		if err != nil {
			t.Fatal(err)
		}
		_, err = ParseTime(c.in, loc, time.Time{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: %v, want %q", c.in, c.zone, err, c.want)
			continue
		}
		h := hint.Of(err)
		for i, want := range strings.Split(c.hints, " or ") {
			if len(h) != 2 || !strings.Contains(h[i], want) {
				t.Errorf("%s %s: hints %q, want %q", c.in, c.zone, h, c.hints)
			}
		}
	}
}

// FuzzParseTime: what is accepted is read back from what is shown of it.
func FuzzParseTime(f *testing.F) {
	f.Add("2026-11-22 09:41:00.5+01")
	f.Add("2026-10-25 02:30")
	f.Add("3 min ago")
	f.Add("0000-01-01")
	f.Fuzz(func(t *testing.T, s string) {
		at, err := ParseTime(s, berlin(t), time.Date(2026, 11, 22, 9, 41, 0, 0, time.UTC))
		if err != nil {
			return
		}
		if at.Nanosecond()%1000 != 0 {
			t.Fatalf("%q gives %v, finer than a microsecond", s, at)
		}
		again, err := ParseTime(confTime(at), time.UTC, time.Time{})
		if err != nil || !again.Equal(at) {
			t.Fatalf("%q gives %v, written %s, read back %v, %v", s, at, confTime(at), again, err)
		}
	})
}

func TestTargetValidate(t *testing.T) {
	at := time.Date(2026, 11, 22, 9, 41, 0, 0, time.UTC)
	for _, target := range []Target{
		{}, {Kind: KindEnd, Action: ActionPromote}, {Kind: KindTime, Time: at, Exclusive: true}, {Kind: KindLSN, LSN: 1},
		{Kind: KindXID, XID: 1}, {Kind: KindName, Name: "it's 100 %"}, {Kind: KindImmediate, Action: ActionShutdown},
	} {
		if err := target.Validate(); err != nil {
			t.Errorf("%s: %v", target, err)
		}
	}
	for _, target := range []Target{
		{Kind: KindTime}, {Kind: KindLSN}, {Kind: KindXID}, {Kind: KindName}, {Kind: "moon"}, {Exclusive: true},
		{Kind: KindEnd, Action: ActionPause}, {Kind: KindName, Name: "a\nb"}, {Kind: KindName, Name: strings.Repeat("x", 64)},
		{Kind: KindImmediate, Exclusive: true}, {Kind: KindName, Name: "a", Exclusive: true},
	} {
		if err := target.Validate(); err == nil {
			t.Errorf("%s is accepted", target)
		}
	}
}

func TestParseTargetWords(t *testing.T) {
	for _, s := range []string{"latest", "current", "7"} {
		tli, err := ParseTargetTimeline(s)
		if err != nil || tli.String() != s {
			t.Errorf("timeline %q: %v, %v", s, tli, err)
		}
		body, _ := json.Marshal(tli)
		var again TargetTimeline
		if err := json.Unmarshal(body, &again); err != nil || again != tli {
			t.Errorf("timeline %q in JSON: %s, %v, %v", s, body, again, err)
		}
	}
	for _, s := range []string{"", "0", "Latest", "0000000A", "-1"} {
		if tli, err := ParseTargetTimeline(s); err == nil {
			t.Errorf("timeline %q is read as %v", s, tli)
		}
	}
	for in, want := range map[string]uint32{"1": 1, "742": 742, "4294967295": 1<<32 - 1, "4294967996": 700} {
		if xid, err := ParseXID(in); err != nil || xid != want {
			t.Errorf("xid %q: %d, %v, want %d", in, xid, err, want)
		}
	}
	for _, s := range []string{"", "0", "-1", "x", "4294967296"} {
		if xid, err := ParseXID(s); err == nil {
			t.Errorf("xid %q is read as %d", s, xid)
		}
	}
	if a, err := ParseAction("shutdown"); err != nil || a != ActionShutdown {
		t.Errorf("%v, %v", a, err)
	}
	if a, err := ParseAction("stop"); err == nil {
		t.Errorf("action stop is read as %v", a)
	}
}
