package recovery

import (
	"fmt"
	"strings"
)

// confQuote writes s as a value of postgresql.conf, by the rules of
// PostgreSQL's guc-file.l: quotes doubled, backslashes too, and no line break.
func confQuote(s string) (string, error) {
	if strings.ContainsAny(s, "\n\r\x00") {
		return "", fmt.Errorf("%q cannot stand in postgresql.conf: it has a line break", s)
	}
	return "'" + strings.NewReplacer(`'`, `''`, `\`, `\\`).Replace(s) + "'", nil
}
