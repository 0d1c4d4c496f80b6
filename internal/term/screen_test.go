package term

import (
	"bytes"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

func TestScreen(t *testing.T) {
	var b bytes.Buffer
	s := NewScreen(&b)
	for _, step := range []struct {
		write func() (int, error)
		want  string
	}{
		{func() (int, error) { return s.Write([]byte("line\n")) }, "line\n"},
		{func() (int, error) { return barOf{s}.Write([]byte("\r50 %")) }, "\r50 %"},
		{func() (int, error) { return s.Write([]byte("line\n")) }, "\r\x1b[Kline\n"},
		{func() (int, error) { return s.Write([]byte("line\n")) }, "line\n"},
	} {
		b.Reset()
		if _, err := step.write(); err != nil || b.String() != step.want {
			t.Errorf("%q (%v), want %q", &b, err, step.want)
		}
	}
}

// A log line does not stand behind the bar, and the bar comes back under it.
func TestLogLineAboveBar(t *testing.T) {
	var b bytes.Buffer
	s := NewScreen(&b)
	log := NewLogger(s, LogText, zerolog.InfoLevel, false)
	p := NewProgress(s, log, "backup")
	p.Set(1<<20, 4<<20)
	p.draw()
	log.Info().Msg("hello")
	p.Set(2<<20, 4<<20)
	p.draw()
	p.clear()
	bar, rest, ok := strings.Cut(b.String(), clearLine)
	if !ok || !strings.Contains(bar, "25%") || !strings.Contains(rest, "INF hello\n") || !strings.Contains(rest, "50%") {
		t.Errorf("%q", &b)
	}
}
