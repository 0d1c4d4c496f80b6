package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

func newTestApp() *app {
	a := &app{stdout: io.Discard, stderr: io.Discard}
	a.root = a.newRoot()
	a.root.InitDefaultHelpCmd()
	a.root.InitDefaultCompletionCmd()
	return a
}

// each calls f for every command.
func each(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, c := range cmd.Commands() {
		each(c, f)
	}
}

const repository = "../.."

// documents are the texts that tell users what to type.
func documents(t *testing.T) map[string]string {
	t.Helper()
	docs := map[string]string{}
	for _, pattern := range []string{"README.md", "docs/*.md", "archive/FORMAT.md", "internal/demo/demo.sh"} {
		names, err := filepath.Glob(filepath.Join(repository, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			body, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			docs[name] = string(body)
		}
	}
	if len(docs) < 3 {
		t.Fatalf("only %d documents found", len(docs))
	}
	return docs
}

var (
	fence      = regexp.MustCompile("(?ms)^ *```[^\n]*\n(.*?)^ *```")
	inline     = regexp.MustCompile("`(walstream [^`]+)`")
	shellLine  = regexp.MustCompile(`(?m)(?:^\s*(?:\$ )?|\brun |\()(walstream [a-z][^\n]*)`)
	flagInLine = regexp.MustCompile(`\s(--[a-z][a-z-]+|-[a-z]\b)`)
)

// commandLines finds the invocations of walstream in a text: in Markdown
// inline code and fenced blocks, in a script everything.
func commandLines(name, text string) []string {
	code := []string{text}
	var lines []string
	if strings.HasSuffix(name, ".md") {
		code = nil
		for _, m := range fence.FindAllStringSubmatch(text, -1) {
			code = append(code, m[1])
		}
		for _, m := range inline.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			lines = append(lines, m[1])
		}
	}
	for _, c := range code {
		for _, m := range shellLine.FindAllStringSubmatch(c, -1) {
			lines = append(lines, m[1])
		}
	}
	return lines
}

// Every command and flag that the documentation shows exists.
func TestDocumentsNameOnlyWhatExists(t *testing.T) {
	a := newTestApp()
	known := 0
	for name, text := range documents(t) {
		for _, line := range commandLines(name, text) {
			line, _, _ = strings.Cut(line, ":  ") // the picture in the README has columns
			cmd, _, err := a.root.Find(strings.Fields(line)[1:])
			if err != nil || cmd == a.root {
				t.Errorf("%s shows %q, which does not exist", name, line)
				continue
			}
			known++
			for _, m := range flagInLine.FindAllStringSubmatch(line, -1) {
				if !hasFlag(cmd, m[1]) {
					t.Errorf("%s shows %q, but %s has no flag %s", name, line, cmd.CommandPath(), m[1])
				}
			}
		}
	}
	if known < 10 {
		t.Errorf("only %d command lines found", known)
	}
}

func TestCommandLinesAreFound(t *testing.T) {
	text := "walstream keeps it.\n`walstream a --b` and `walstream`\n```sh\n$ walstream c -d\n  walstream e | x\n```\nwalstream is\n"
	want := []string{"walstream a --b", "walstream c -d", "walstream e | x"}
	if diff := cmp.Diff(want, commandLines("x.md", text)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"walstream f)"}, commandLines("x.sh", "# walstream never\nx=(walstream f)\n")); diff != "" {
		t.Error(diff)
	}
	cmd, _, err := newTestApp().root.Find([]string{"restore", "DIR"})
	if err != nil || hasFlag(cmd, "--target-tim") || hasFlag(cmd, "-x") || !hasFlag(cmd, "--target-time") || !hasFlag(cmd, "-n") || !hasFlag(cmd, "-d") || !hasFlag(cmd, "--json") {
		t.Errorf("flags of restore are not told apart: %v", err)
	}
}

func hasFlag(cmd *cobra.Command, flag string) bool {
	cmd.InitDefaultHelpFlag()
	if long, ok := strings.CutPrefix(flag, "--"); ok {
		return cmd.Flags().Lookup(long) != nil || cmd.InheritedFlags().Lookup(long) != nil
	}
	short := strings.TrimPrefix(flag, "-")
	return cmd.Flags().ShorthandLookup(short) != nil || cmd.InheritedFlags().ShorthandLookup(short) != nil
}

// What does not work yet is in no help text.
func TestHelpNamesNothingThatDoesNotWork(t *testing.T) {
	later := regexp.MustCompile(`(?i)\b(incremental|retention|dump|schedules?|tail_interval|hold_max|max_size|ack|metrics|webhook|copy)\b`)
	seen := 0
	each(newTestApp().root, func(cmd *cobra.Command) {
		if strings.HasPrefix(cmd.CommandPath(), "walstream completion") {
			return // cobra's own
		}
		seen++
		if word := later.FindString(cmd.Name() + " " + cmd.Short + " " + cmd.Long + " " + cmd.Example + " " + cmd.LocalFlags().FlagUsages()); word != "" {
			t.Errorf("the help of %q names %q", cmd.CommandPath(), word)
		}
	})
	if seen < 15 {
		t.Errorf("only %d commands", seen)
	}
}

// Each command can be run or holds others, says in a line what it does, and
// has that line in the list.
func TestEveryCommandIsDescribed(t *testing.T) {
	each(newTestApp().root, func(cmd *cobra.Command) {
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") || !cmd.Runnable() && !cmd.HasSubCommands() {
			t.Errorf("%s: runnable %v, %q", cmd.CommandPath(), cmd.Runnable(), cmd.Short)
		}
	})
}
