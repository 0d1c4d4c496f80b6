package config

import (
	"fmt"
	"strings"
)

// Example is a configuration file with every key, its meaning and its
// default. Read back, it gives the defaults.
func Example() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Settings of walstream, with their defaults. The place of this file is\n# %s, or what -c/--config says.\n", DefaultFile)
	b.WriteString("# A flag wins over the environment, the environment over this file.\n")
	section := ""
	for _, k := range Keys() {
		names := k.Env()
		if k.Flag != "" {
			names += strings.TrimSuffix(", --"+k.Flag+" of "+k.Command, " of ")
		}
		name, indent := k.Path, ""
		head, leaf, nested := strings.Cut(k.Path, ".")
		if nested {
			name, indent = leaf, "  "
		}
		b.WriteString("\n")
		if nested && head != section {
			fmt.Fprintf(&b, "%s:\n", head)
		}
		section = head
		fmt.Fprintf(&b, "%s# %s\n%s# (%s)\n", indent, k.Help, indent, names)
		text := k.Default
		if text == "" {
			text = `""`
		}
		fmt.Fprintf(&b, "%s%s: %s\n", indent, name, text)
	}
	return b.String()
}
