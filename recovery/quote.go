package recovery

import (
	"fmt"
	"strings"
)

// shellQuote makes s one word of a POSIX shell.
func shellQuote(s string) string {
	special := func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("%+,-./:=@_", c))
	}
	if s != "" && !strings.ContainsFunc(s, special) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// confQuote writes s as a value of postgresql.conf, by the rules of
// PostgreSQL's guc-file.l: quotes doubled, backslashes too, and no line break.
func confQuote(s string) (string, error) {
	if strings.ContainsAny(s, "\n\r\x00") {
		return "", fmt.Errorf("%q cannot stand in postgresql.conf: it has a line break", s)
	}
	return "'" + strings.NewReplacer(`'`, `''`, `\`, `\\`).Replace(s) + "'", nil
}
