package term

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1: "1 B", 1023: "1023 B", 1024: "1.0 KiB", 16 << 20: "16.0 MiB", 41 << 30: "41.0 GiB",
		1<<20 - 1: "1.0 MiB", 1<<30 - 1<<10: "1.0 GiB", 10590618: "10.1 MiB", -2048: "-2.0 KiB", math.MaxInt64: "8.0 EiB",
	} {
		if got := Size(n); got != want {
			t.Errorf("Size(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.0 ms", 3100 * time.Microsecond: "3.1 ms", 210 * time.Millisecond: "210 ms", 999 * time.Millisecond: "999 ms",
		time.Second: "1.0 s", 59990 * time.Millisecond: "59.9 s", 8*time.Minute + 12*time.Second: "8m12s",
		time.Hour - time.Millisecond: "59m59s", 7*time.Hour + 32*time.Minute: "7h32m", 76 * time.Hour: "3d4h", -time.Minute: "-1m0s",
	} {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestAge(t *testing.T) {
	now := time.Date(2026, 11, 22, 9, 41, 0, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		0: "0.0 s ago", 200 * time.Millisecond: "0.2 s ago", 41 * time.Second: "41 s ago", 3*time.Minute + 59*time.Second: "3 min ago",
		8 * time.Hour: "8 h ago", 47 * time.Hour: "47 h ago", 49 * time.Hour: "2 days ago", -2 * time.Minute: "in 2m0s",
	} {
		if got := Age(now.Add(-d), now); got != want {
			t.Errorf("Age(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestTimeNamesLocalZone(t *testing.T) {
	at := time.Date(2026, 11, 22, 8, 41, 0, 0, time.UTC)
	for _, got := range []string{Time(at), Minute(at), Exact(at)} {
		zone, _ := at.Local().Zone()
		if !strings.HasSuffix(got, " "+zone) || !strings.Contains(got, at.Local().Format("2006-01-02 15:04")) {
			t.Errorf("%q", got)
		}
	}
}

func TestSpan(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	local := time.Local
	time.Local = berlin
	defer func() { time.Local = local }()
	from := time.Date(2026, 10, 24, 22, 30, 0, 0, time.UTC)
	for after, want := range map[time.Duration]string{
		time.Minute:     "2026-10-25 00:30:00 .. 00:31:00 CEST",
		2 * time.Hour:   "2026-10-25 00:30:00 .. 02:30:00 CEST",
		3 * time.Hour:   "2026-10-25 00:30:00 CEST .. 2026-10-25 02:30:00 CET",
		-24 * time.Hour: "2026-10-25 00:30:00 .. 2026-10-24 00:30:00 CEST",
	} {
		if got := Span(from, from.Add(after)); got != want {
			t.Errorf("%s later: %s, want %s", after, got, want)
		}
	}
}

func TestCount(t *testing.T) {
	for n, want := range map[int]string{0: "0 segments", 1: "1 segment", 2: "2 segments"} {
		if got := Count(n, "segment"); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestTable(t *testing.T) {
	var b bytes.Buffer
	table := NewTable(&b, "BACKUP", "SIZE", "STATE")
	table.Row("20261121T010001Z", "40.8 GiB", "ok")
	table.Row("x", "", "")
	if err := table.Flush(); err != nil {
		t.Fatal(err)
	}
	want := "BACKUP            SIZE      STATE\n20261121T010001Z  40.8 GiB  ok\nx\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", &b, want)
	}
}

func TestTableTellsWriteError(t *testing.T) {
	r, w := io.Pipe()
	r.CloseWithError(syscall.ENOSPC)
	table := NewTable(w, "A")
	if err := table.Flush(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
}

func TestJSONKeepsMarkup(t *testing.T) {
	var b bytes.Buffer
	if err := JSON(&b, map[string]string{"a": "<&>"}); err != nil || b.String() != "{\n  \"a\": \"<&>\"\n}\n" {
		t.Errorf("%v %q", err, &b)
	}
}

func TestLoggerFormats(t *testing.T) {
	var b bytes.Buffer
	log := NewLogger(&b, LogJSON, zerolog.InfoLevel, false)
	log.Info().Str("slot", "s").Msg("hello")
	log.Debug().Msg("not shown")
	var line map[string]any
	if err := json.Unmarshal(b.Bytes(), &line); err != nil || line["slot"] != "s" {
		t.Errorf("%v in %q", err, &b)
	}
	b.Reset()
	log = NewLogger(&b, LogText, zerolog.InfoLevel, false)
	log.Info().Str("slot", "s").Msg("hello")
	if got := b.String(); !strings.Contains(got, "INF hello slot=s") || strings.Contains(got, "\x1b") {
		t.Errorf("%q", got)
	}
}

func TestProgressLogsWhereThereIsNoTerminal(t *testing.T) {
	var b bytes.Buffer
	p := NewProgress(&b, zerolog.New(&b), "backup")
	p.every = time.Millisecond
	failed := errors.New("failed")
	err := p.While(t.Context(), func(context.Context) error {
		p.Set(512<<10, 1<<20)
		time.Sleep(50 * time.Millisecond)
		return failed
	})
	if !errors.Is(err, failed) {
		t.Errorf("got %v", err)
	}
	// After While nothing writes any more, so b can be read.
	if got := b.String(); !strings.Contains(got, `"done":"512.0 KiB"`) || !strings.Contains(got, `"percent":50`) || !strings.Contains(got, `"message":"backup"`) {
		t.Errorf("%q", got)
	}
}

func TestProgressAnswersSIGUSR1(t *testing.T) {
	var b bytes.Buffer
	lines := make(chan struct{}, 10)
	p := NewProgress(&b, zerolog.New(io.MultiWriter(&b, notify(lines))), "restore")
	err := p.While(t.Context(), func(context.Context) error {
		p.Set(7, 0)
		if err := syscall.Kill(os.Getpid(), syscall.SIGUSR1); err != nil {
			return err
		}
		<-lines
		return nil
	})
	if err != nil || !strings.Contains(b.String(), `"done":"7 B"`) || strings.Contains(b.String(), "total") {
		t.Errorf("%v %q", err, &b)
	}
}

type notify chan struct{}

func (n notify) Write(p []byte) (int, error) { n <- struct{}{}; return len(p), nil }

func TestProgressBar(t *testing.T) {
	var b bytes.Buffer
	p := NewProgress(&b, zerolog.Nop(), "restore")
	p.Set(1<<20, 0)
	p.draw()
	if b.Len() > 0 {
		t.Errorf("a bar without a total: %q", &b)
	}
	p.Set(2<<20, 4<<20)
	p.draw()
	if got := b.String(); !strings.Contains(got, "restore") || !strings.Contains(got, "50%") || !strings.Contains(got, "2.0/4.0 MiB") {
		t.Errorf("%q", got)
	}
	b.Reset()
	p.Set(9<<20, 4<<20) // an estimate that was too small
	p.draw()
	p.Set(10<<20, 4<<20)
	p.draw()
	p.clear()
	if got := b.String(); !strings.Contains(got, "99%") || strings.Contains(got, "100%") {
		t.Errorf("%q", got)
	}
}
