package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// parseFile walks the YAML tree itself instead of decoding into a struct: so
// each problem has its line, and each value its origin.
func (l *loader) parseFile(name string, body []byte) {
	dec := yaml.NewDecoder(bytes.NewReader(body))
	var doc yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return // empty, or comments only
	}
	if err != nil {
		l.problem(syntax(name, err))
		return
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		l.problem(name, "more than one YAML document")
		return
	}
	l.walk(name, "", doc.Content[0])
}

var yamlLine = regexp.MustCompile(`^yaml: line (\d+): `)

func syntax(name string, err error) (where, text string) {
	msg := err.Error()
	if m := yamlLine.FindStringSubmatch(msg); m != nil {
		return name + ":" + m[1], strings.TrimPrefix(msg, m[0])
	}
	return name, strings.TrimPrefix(msg, "yaml: ")
}

// walk takes over the mapping n, whose keys lie below prefix ("" or "spool.").
func (l *loader) walk(file, prefix string, n *yaml.Node) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		what := "the file"
		if prefix != "" {
			what = strings.TrimSuffix(prefix, ".")
		}
		l.problem(at(file, n), "%s: want one of the keys %s, each with a value", what, strings.Join(l.level(prefix), ", "))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		path := prefix + k.Value
		if line := seen[k.Value]; line > 0 {
			l.problem(at(file, k), "%s is there twice, first in line %d", path, line)
			continue
		}
		seen[k.Value] = k.Line
		l.entry(file, prefix, k, v)
	}
}

func (l *loader) entry(file, prefix string, k, v *yaml.Node) {
	path := prefix + k.Value
	if v.Kind == yaml.AliasNode {
		v = v.Alias
	}
	i := slices.IndexFunc(l.keys, func(k Key) bool { return k.Path == path })
	switch {
	case strings.Contains(k.Value, "."), i < 0 && len(l.level(path+".")) == 0:
		l.problem(at(file, k), "unknown key %s%s", path, didYouMean(k.Value, l.level(prefix)))
	case i < 0:
		l.walk(file, path+".", v)
	case !isNull(v):
		l.take(file, l.keys[i], v)
	}
}

// take sets k to the value v.
func (l *loader) take(file string, k Key, v *yaml.Node) {
	values := []*yaml.Node{v}
	if v.Kind == yaml.SequenceNode && k.list {
		values = v.Content
	}
	var texts []string
	for _, v := range values {
		if v.Kind != yaml.ScalarNode {
			l.problem(at(file, v), "%s: want a single value", k.Path)
			return
		}
		texts = append(texts, v.Value)
	}
	l.settings[k.Path] = setting{strings.Join(texts, ","), at(file, v)}
}

// level lists the names that may stand directly below prefix.
func (l *loader) level(prefix string) []string {
	var names []string
	for _, k := range l.keys {
		rest, ok := strings.CutPrefix(k.Path, prefix)
		if !ok {
			continue
		}
		name, _, _ := strings.Cut(rest, ".")
		names = append(names, name)
	}
	return slices.Compact(names) // a section's keys stand together
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

func at(file string, n *yaml.Node) string { return fmt.Sprintf("%s:%d", file, n.Line) }
