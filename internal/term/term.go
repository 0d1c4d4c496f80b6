// Package term is the one look of everything walstream prints for people:
// sizes, durations, times, tables, progress and log lines. The result of a
// command goes to standard output, everything else to standard error. Colour
// only ever marks a state and is left out when NO_COLOR is set or the stream
// is no terminal.
package term

import (
	"encoding/json"
	"io"
	"os"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/term"
)

// IsTerminal says whether w is a terminal.
func IsTerminal(w io.Writer) bool {
	if s, ok := w.(*Screen); ok {
		w = s.w
	}
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// JSON writes v as one indented object with a newline.
func JSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// LogFormat is how log lines look.
type LogFormat int

const (
	// LogText is for people: time, message, fields.
	LogText LogFormat = iota
	// LogJSON is one JSON object a line, for collectors.
	LogJSON
)

// NewLogger makes a logger that writes to w. Colours need color.
func NewLogger(w io.Writer, format LogFormat, level zerolog.Level, color bool) zerolog.Logger {
	if format == LogText {
		w = zerolog.ConsoleWriter{Out: w, NoColor: !color, TimeFormat: time.TimeOnly, TimeLocation: time.Local}
	}
	return zerolog.New(w).Level(level).With().Timestamp().Logger()
}
