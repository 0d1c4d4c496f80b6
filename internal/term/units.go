package term

import (
	"fmt"
	"time"
)

// Size is n bytes in IEC units with one decimal: 0 B, 41.0 GiB.
func Size(n int64) string {
	if n > -1024 && n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	units := []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	v, i := float64(n)/1024, 0
	for (v >= 1023.95 || v <= -1023.95) && i < len(units)-1 {
		v /= 1024
		i++
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}

// Duration is d with its two leading units: 210 ms, 12.3 s, 8m12s, 7h32m,
// 3d4h.
func Duration(d time.Duration) string {
	if d < 0 {
		return "-" + Duration(-d)
	}
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Truncate(100*time.Millisecond).Seconds())
	}
	d = d.Truncate(time.Second)
	day := 24 * time.Hour
	switch {
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case d < day:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	default:
		return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
	}
}

// Age says how long before now t was: 0.2 s ago, 41 s ago, 3 h ago.
func Age(t, now time.Time) string {
	d := now.Sub(t)
	if d < 0 {
		return "in " + Duration(-d)
	}
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s ago", d.Truncate(100*time.Millisecond).Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", d/time.Hour)
	default:
		return fmt.Sprintf("%d days ago", d/(24*time.Hour))
	}
}

// Time is t to the second in the local zone, with the zone named.
func Time(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 MST") }

// Exact is t to the microsecond, PostgreSQL's precision, in the local zone.
func Exact(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05.999999 MST") }

// Minute is t to the minute in the local zone, with the zone named.
func Minute(t time.Time) string { return t.Local().Format("2006-01-02 15:04 MST") }

// Span is from one time to another in the local zone, each to the second; what
// both have in common is said once.
func Span(from, to time.Time) string {
	from, to = from.Local(), to.Local()
	begin, end := "2006-01-02 15:04:05 MST", "2006-01-02 15:04:05 MST"
	if from.Format("MST") == to.Format("MST") {
		begin = time.DateTime
		if from.Format(time.DateOnly) == to.Format(time.DateOnly) {
			end = "15:04:05 MST"
		}
	}
	return from.Format(begin) + " .. " + to.Format(end)
}

// Count is n of a thing, in the plural unless it is one.
func Count[N ~int | ~int64 | ~uint64](n N, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}
