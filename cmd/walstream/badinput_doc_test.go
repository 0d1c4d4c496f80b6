package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// documented is a row of docs/errors.md. An ellipsis stands for anything.
type documented struct {
	code    string
	message string
	hints   []string
	met     bool
}

// pattern is what text stands for in docs/errors.md.
func pattern(text string) *regexp.Regexp {
	return regexp.MustCompile("(?s)^" + strings.ReplaceAll(regexp.QuoteMeta(text), "…", ".*") + "$")
}

var (
	errorRow    = regexp.MustCompile("(?m)^\\| (\\d+) \\| `([^`]+)` \\| ([^|]+) \\| ([^|]*)\\|$")
	inBackticks = regexp.MustCompile("`([^`]+)`")
)

// readErrors reads a section of docs/errors.md.
func readErrors(t *testing.T, section string) []*documented {
	t.Helper()
	body, err := os.ReadFile(filepath.Join(repository, "docs/errors.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(body), "\n## "+section+"\n")
	if !ok {
		t.Fatalf("docs/errors.md has no section %q", section)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	var rows []*documented
	for _, m := range errorRow.FindAllStringSubmatch(text, -1) {
		d := &documented{code: m[1], message: m[2]}
		for _, h := range inBackticks.FindAllStringSubmatch(m[4], -1) {
			d.hints = append(d.hints, h[1])
		}
		rows = append(rows, d)
	}
	return rows
}

// document finds the row that explains what was said.
func document(t *testing.T, rows []*documented, code int, message string, hints []string) {
	t.Helper()
	for _, d := range rows {
		if d.code == fmt.Sprint(code) && pattern(d.message).MatchString(message) && d.explains(hints) {
			d.met = true
			return
		}
	}
	t.Errorf("docs/errors.md explains it nowhere:\n| %d | `%s` |  | `%s` |", code, message, strings.Join(hints, "`, `"))
}

// explains says whether the remedies are those that were printed.
func (d *documented) explains(hints []string) bool {
	for i, h := range hints {
		if i < len(d.hints) && !pattern(d.hints[i]).MatchString(h) {
			return false
		}
	}
	return len(hints) >= len(d.hints)
}
