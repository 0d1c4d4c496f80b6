package wal

import (
	"fmt"
	"strconv"
	"strings"
)

// LSN is a log sequence number: a byte position in the WAL of one cluster,
// counted from its very beginning. Zero is "no position" (PostgreSQL's
// InvalidXLogRecPtr).
type LSN uint64

// ParseLSN reads PostgreSQL's text form, two hexadecimal halves with a slash
// ("16/B374D848"). It is strict: nothing may stand before, between or behind.
// The zero-padded form of PostgreSQL 19 is accepted too.
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	if !ok || !hexDigits(hi) || !hexDigits(lo) {
		return 0, fmt.Errorf("%q is no LSN: want two hexadecimal numbers with a slash, as in 16/B374D848", s)
	}
	h, _ := strconv.ParseUint(hi, 16, 32)
	l, _ := strconv.ParseUint(lo, 16, 32)
	return LSN(h<<32 | l), nil
}

func hexDigits(s string) bool {
	if len(s) == 0 || len(s) > 8 {
		return false
	}
	for _, c := range s {
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F') {
			return false
		}
	}
	return true
}

// String is PostgreSQL's text form, upper case and without padding.
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// MarshalText makes an LSN a string in JSON, so that no reader loses digits.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reverses MarshalText.
func (l *LSN) UnmarshalText(b []byte) (err error) {
	*l, err = ParseLSN(string(b))
	return err
}

// Timeline is a PostgreSQL timeline ID. Timeline 1 is a cluster's first; zero
// is "no timeline".
type Timeline uint32

// String is the decimal form that PostgreSQL prints and that
// recovery_target_timeline takes.
func (t Timeline) String() string { return strconv.FormatUint(uint64(t), 10) }

// Hex is the form that file names carry: 8 upper-case hexadecimal digits.
func (t Timeline) Hex() string { return fmt.Sprintf("%08X", uint32(t)) }

// ParseTimeline reads the decimal form; zero is refused.
func ParseTimeline(s string) (Timeline, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is no timeline: want a decimal number from 1 on", s)
	}
	return Timeline(n), nil
}

// MarshalText makes a timeline a string in JSON: it is a name, not a quantity.
func (t Timeline) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reverses MarshalText. Zero is read too: a field may say that
// there is no timeline.
func (t *Timeline) UnmarshalText(b []byte) error {
	if string(b) == "0" {
		*t = 0
		return nil
	}
	tli, err := ParseTimeline(string(b))
	*t = tli
	return err
}
