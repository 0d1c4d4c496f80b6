package main

import (
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/hint"
)

var (
	commandInHint = regexp.MustCompile(`\bwalstream(?: [a-z]+)+`)
	dirInHint     = regexp.MustCompile(`\bDIR\b`)
)

// pasteable completes the commands of walstream in a hint: with the settings
// that this run has from flags, so that they work where this one was typed,
// and with its DIR. Passwords are left out.
func (a *app) pasteable(h string) string {
	if a.cmd == nil { // the command line itself was wrong
		return h
	}
	if a.cmd.Name() == "restore" {
		h = dirInHint.ReplaceAllLiteralString(h, hint.Quote(a.args[0]))
	}
	const and = " && "
	parts := strings.Split(h, and)
	for i, part := range parts {
		parts[i] = commandInHint.ReplaceAllStringFunc(part, func(words string) string {
			cmd, _, err := a.root.Find(strings.Fields(words)[1:])
			if err != nil || cmd == a.root || cmd.Name() == "example" {
				return words
			}
			return cmd.CommandPath() + a.flagsFor(cmd, part+" ") + strings.TrimPrefix(words, cmd.CommandPath())
		})
	}
	return strings.Join(parts, and)
}

// flagsFor are the flags of this run that a command in the hint h needs too: the
// settings, and if it is this very command all others. One target replaces
// another.
func (a *app) flagsFor(cmd *cobra.Command, h string) string {
	var b strings.Builder
	aimed := strings.Contains(h, "--target-")
	add := func(f *pflag.Flag) {
		target := strings.HasPrefix(f.Name, "target-") && f.Name != "target-action" || f.Name == "backup"
		if !f.Changed || strings.Contains(h, " --"+f.Name+" ") || aimed && target {
			return
		}
		values := []string{f.Value.String()}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			values = list.GetSlice()
		}
		for _, v := range values {
			b.WriteString(" --" + f.Name)
			if f.Value.Type() != "bool" {
				b.WriteString(" " + hint.Quote(config.Mask(v)))
			}
		}
	}
	a.root.PersistentFlags().VisitAll(func(f *pflag.Flag) {
		if f.Value.Type() != "bool" {
			add(f)
		}
	})
	if cmd == a.cmd {
		cmd.LocalNonPersistentFlags().VisitAll(add)
	}
	return b.String()
}
