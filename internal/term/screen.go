package term

import (
	"io"
	"sync"
)

// Screen is standard error as a progress bar and lines of text share it:
// before a line is written, the bar is taken away. It may be used
// concurrently.
type Screen struct {
	w io.Writer

	mu  sync.Mutex
	bar bool // the cursor is in a line with a bar
}

// NewScreen makes w a screen.
func NewScreen(w io.Writer) *Screen { return &Screen{w: w} }

// clearLine goes to the beginning of the line and empties it (ECMA-48).
const clearLine = "\r\x1b[K"

// Redraw replaces what a terminal shows by the lines of page, at once.
func Redraw(w io.Writer, page []byte) error {
	_, err := w.Write(append([]byte("\x1b[H\x1b[2J"), page...)) // home, then erase all
	return err
}

// Write writes lines.
func (s *Screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bar {
		s.bar = false
		if _, err := io.WriteString(s.w, clearLine); err != nil {
			return 0, err
		}
	}
	return s.w.Write(p)
}

// barOf writes the bar of a screen.
type barOf struct{ *Screen }

func (b barOf) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bar = true
	return b.w.Write(p)
}
