package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	envPrefix = "WALSTREAM_"
	envSpool  = envPrefix + "SPOOL" // alias of spool.dir
)

// Sources is where settings come from.
type Sources struct {
	// File is a file that must exist. Empty means DefaultFile, if there is
	// one.
	File        string
	DefaultFile string
	// Environ holds name=value pairs as [os.Environ] gives them. A variable
	// with an empty value counts as not set.
	Environ []string
	// Flags holds the flags that were given, by the path of their key.
	Flags map[string]string
	// Dir is the directory against which relative paths in flags and
	// environment are read.
	Dir string
}

// Value is one setting as it was found.
type Value struct {
	Key    string `json:"key"`
	Value  string `json:"value"`  // passwords masked
	Origin string `json:"origin"` // "default", "flag --slot", "environment WALSTREAM_SLOT", "FILE:LINE"
}

// Loaded is a valid configuration and how it came about.
type Loaded struct {
	Config
	// File is the absolute path of the file that was read, empty if none.
	File string
	// Values lists every setting in the order of [Keys].
	Values []Value
	// Warnings are sentences about what is suspicious but no error.
	Warnings []string
}

// FromFlag says whether the setting was given on the command line.
func (l *Loaded) FromFlag(key string) bool {
	for _, v := range l.Values {
		if v.Key == key {
			return strings.HasPrefix(v.Origin, "flag ")
		}
	}
	return false
}

// Environ is the settings whose paths begin with prefix and that are not the
// default, as variables of an environment.
func (l *Loaded) Environ(prefix string) (environ []string) {
	for i, k := range Keys() {
		if v := l.Values[i]; strings.HasPrefix(k.Path, prefix) && v.Value != k.Default {
			environ = append(environ, k.Env()+"="+v.Value)
		}
	}
	return environ
}

// Error lists everything that is wrong with a configuration.
type Error struct {
	Problems []string // each names its place and key
}

func (e *Error) Error() string { return strings.Join(e.Problems, "\n") }

// setting is the winning text of a key.
type setting struct {
	text   string
	origin string
}

type loader struct {
	src      Sources
	keys     []Key
	settings map[string]setting
	problems []string
	warnings []string
}

// Load reads all sources and validates every value. Its error is an [*Error]
// with every problem found; a file that cannot be read is one.
func Load(src Sources) (*Loaded, error) {
	l := &loader{src: src, keys: Keys(), settings: map[string]setting{}}
	for _, k := range l.keys {
		l.settings[k.Path] = setting{k.Default, "default"}
	}
	file, err := l.readFile()
	if err != nil {
		return nil, err
	}
	l.readEnviron()
	for _, k := range l.keys {
		if text, ok := src.Flags[k.Path]; ok {
			l.settings[k.Path] = setting{l.absolute(k, text), "flag --" + k.Flag}
			if Mask(text) != text && k.secrets {
				l.warnings = append(l.warnings, fmt.Sprintf("the password in --%s is visible to every user of this machine: put it into ~/.pgpass", k.Flag))
			}
		}
	}
	return l.finish(file)
}

// finish validates the winners. A value that loses is not looked at.
func (l *loader) finish(file string) (*Loaded, error) {
	out := &Loaded{File: file, Warnings: l.warnings}
	for _, k := range l.keys {
		s := l.settings[k.Path]
		err := k.set(&out.Config, s.text)
		if k.relative && strings.ContainsAny(s.text, "\r\n") {
			err = fmt.Errorf("%q has a line break: no restore_command can hold that", Mask(s.text))
		}
		if err != nil {
			l.problem(s.origin, "%s: %v", k.Path, err)
		}
		shown := s.text
		if k.secrets {
			shown = Mask(shown)
		}
		out.Values = append(out.Values, Value{Key: k.Path, Value: shown, Origin: s.origin})
	}
	if len(l.problems) > 0 {
		return nil, &Error{Problems: l.problems}
	}
	return out, nil
}

func (l *loader) problem(where, format string, args ...any) {
	l.problems = append(l.problems, where+": "+fmt.Sprintf(format, args...))
}

func (l *loader) readFile() (string, error) {
	name := l.src.File
	if name == "" {
		name = l.src.DefaultFile
		if name == "" {
			return "", nil
		}
	}
	body, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) && l.src.File == "" {
		return "", nil
	}
	if err != nil {
		return "", &Error{Problems: []string{fmt.Sprintf("configuration: %v", err)}}
	}
	abs, err := filepath.Abs(name)
	if err != nil {
		return "", fmt.Errorf("configuration: %w", err)
	}
	l.parseFile(name, body)
	return abs, nil
}

func (l *loader) readEnviron() {
	env := map[string]string{}
	for _, pair := range l.src.Environ {
		name, text, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(name, envPrefix) && text != "" {
			env[name] = text
		}
	}
	var names []string
	for _, k := range l.keys {
		name := k.Env()
		names = append(names, name)
		if k.Path == "spool.dir" {
			names = append(names, envSpool)
			if env[name] == "" && env[envSpool] != "" {
				name = envSpool
			} else if env[envSpool] != "" && env[envSpool] != env[name] {
				l.problem("environment", "%s and %s differ: set one of them", name, envSpool)
			}
		}
		if text := env[name]; text != "" {
			l.settings[k.Path] = setting{l.absolute(k, text), "environment " + name}
		}
	}
	for _, pair := range l.src.Environ {
		name, _, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(name, envPrefix) && !slices.Contains(names, name) {
			l.warnings = append(l.warnings, fmt.Sprintf("environment variable %s is unknown%s", name, didYouMean(name, names)))
		}
	}
}

func (l *loader) absolute(k Key, text string) string {
	if !k.relative || text == "" || l.src.Dir == "" || strings.Contains(text, "://") || filepath.IsAbs(text) {
		return text
	}
	return filepath.Join(l.src.Dir, text)
}
