// Package hint attaches to an error what a person can do about it. A hint is
// a command or setting that can be pasted, never a repetition of the error.
package hint

import (
	"errors"
	"fmt"

	"github.com/rs/zerolog"
)

type hinted struct {
	err  error
	hint string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

// With returns err carrying a hint; a nil err stays nil. Several hints may be
// attached, the outermost is shown first.
func With(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &hinted{err: err, hint: fmt.Sprintf(format, args...)}
}

// Errorf makes a new hinted error: the hint first, then the message and its
// arguments as for [fmt.Errorf].
func Errorf(hint, format string, args ...any) error {
	return &hinted{err: fmt.Errorf(format, args...), hint: hint}
}

// Of lists the hints of err's chain, outermost first, each once.
func Of(err error) []string {
	var hints []string
	seen := map[string]bool{}
	for err != nil {
		var h *hinted
		if !errors.As(err, &h) {
			break
		}
		if !seen[h.hint] {
			seen[h.hint] = true
			hints = append(hints, h.hint)
		}
		err = h.err
	}
	return hints
}

// Log adds the hints of err to a log event, if there are any: Func(hint.Log(err)).
func Log(err error) func(*zerolog.Event) {
	return func(e *zerolog.Event) {
		if hints := Of(err); len(hints) > 0 {
			e.Strs("hint", hints)
		}
	}
}
