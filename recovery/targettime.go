package recovery

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/walstream/walstream/internal/hint"
)

// ShowTime prints a time in its own zone, and in UTC when that is another.
func ShowTime(t time.Time) string {
	layout := "2006-01-02 15:04:05.999999"
	s := t.Format(layout + " MST")
	if _, offset := t.Zone(); offset == 0 {
		return s
	}
	if t.UTC().YearDay() != t.YearDay() {
		return s + t.UTC().Format(" ("+layout+" UTC)")
	}
	return s + t.UTC().Format(" (15:04:05.999999 UTC)")
}

var (
	timeForm = regexp.MustCompile(`^(\d{4}-\d{2}-\d{2})(?:[Tt ]+(\d{2}:\d{2})(:\d{2})?(\.\d+)?)? *(.*)$`)
	offsetRE = regexp.MustCompile(`^([+-])(\d{2})(?::?(\d{2}))?$`)
	agoForm  = regexp.MustCompile(`^(\d{1,6}) *(s|sec|second|min|minute|h|hour|d|day)s? +ago$`)
)

// ParseTime reads a target time: RFC 3339, PostgreSQL's "2026-11-22
// 09:41:00.5+01" with or without seconds, or "10 minutes ago" counted back
// from now. Without an offset the time is meant in loc; a local time that the
// clocks there skipped or showed twice is refused. Of zone names only UTC and
// Z are taken, because abbreviations mean different things to different
// servers. The result is in loc.
func ParseTime(s string, loc *time.Location, now time.Time) (time.Time, error) {
	s = strings.TrimSpace(s)
	t, err := parseTime(s, loc, now)
	if year := t.UTC().Year(); year < 1 || year > 9999 { // the settings that are written are in UTC, and PostgreSQL has no year 0
		return time.Time{}, badTime(s, "its year is not one of 1 to 9999")
	}
	return t, err
}

func parseTime(s string, loc *time.Location, now time.Time) (time.Time, error) {
	if m := agoForm.FindStringSubmatch(s); m != nil {
		return ago(m[1], m[2], now).In(loc), nil
	}
	m := timeForm.FindStringSubmatch(s)
	if m == nil {
		return time.Time{}, badTime(s, "want a date and a time of day")
	}
	if len(m[4]) > 7 || m[4] != "" && m[3] == "" {
		return time.Time{}, badTime(s, "PostgreSQL's times have up to six digits behind the seconds")
	}
	clock := m[2]
	if clock == "" {
		clock = "00:00"
	}
	if m[3] == "" {
		m[3] = ":00"
	}
	wall, err := time.Parse("2006-01-02 15:04:05.999999", m[1]+" "+clock+m[3]+m[4])
	if err != nil {
		return time.Time{}, badTime(s, "there is no such date or time of day")
	}
	return inZone(s, wall, m[5], loc)
}

func badTime(s, why string) error {
	return hint.Errorf("--target-time '2026-11-22 09:41:00+01'", "%q is no target time: %s", s, why)
}

func ago(count, unit string, now time.Time) time.Time {
	n, _ := strconv.ParseInt(count, 10, 64) // the pattern allows nothing else
	seconds := map[byte]int64{'s': 1, 'm': 60, 'h': 3600, 'd': 86400}[unit[0]]
	return time.Unix(now.Unix()-n*seconds, int64(now.Nanosecond())).Truncate(time.Microsecond)
}

// inZone places a wall clock reading, given as if it were UTC.
func inZone(s string, wall time.Time, zone string, loc *time.Location) (time.Time, error) {
	switch strings.ToUpper(zone) {
	case "":
		return local(s, wall, loc)
	case "Z", "UTC":
		return wall.In(loc), nil
	}
	m := offsetRE.FindStringSubmatch(zone)
	if m == nil {
		return time.Time{}, badTime(s, fmt.Sprintf("zone %q is neither an offset from UTC nor UTC itself", zone))
	}
	hours, _ := strconv.Atoi(m[2])
	minutes, _ := strconv.Atoi("0" + m[3])
	if hours > 15 || minutes > 59 {
		return time.Time{}, badTime(s, fmt.Sprintf("there is no offset %s from UTC", zone))
	}
	offset := hours*3600 + minutes*60
	if m[1] == "-" {
		offset = -offset
	}
	return at(wall, offset).In(loc), nil
}

func at(wall time.Time, offset int) time.Time {
	return wall.Add(-time.Duration(offset) * time.Second)
}

// local finds the instant at which the clocks of loc showed wall. Around a
// change of the offset there are none or two.
func local(s string, wall time.Time, loc *time.Location) (time.Time, error) {
	_, before := wall.Add(-24 * time.Hour).In(loc).Zone()
	_, after := wall.Add(24 * time.Hour).In(loc).Zone()
	first, second := at(wall, before).In(loc), at(wall, after).In(loc)
	shows := func(t time.Time) bool { return t.Format(time.DateTime) == wall.Format(time.DateTime) }
	switch {
	case before == after || shows(first) && !shows(second):
		return first, nil
	case shows(second) && !shows(first):
		return second, nil
	}
	what := "showed twice"
	if !shows(first) {
		what = "skipped"
	}
	layout := "2006-01-02 15:04:05.999999"
	err := fmt.Errorf("%q is a time that the clocks in %s %s", s, loc, what)
	err = hint.With(err, "by the clock after the change: --target-time '%s%s'", wall.Format(layout), offsetText(after))
	return time.Time{}, hint.With(err, "by the clock before the change: --target-time '%s%s'", wall.Format(layout), offsetText(before))
}

func offsetText(seconds int) string {
	return time.Unix(0, 0).In(time.FixedZone("", seconds)).Format("-07:00")
}
