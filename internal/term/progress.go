package term

import (
	"context"
	"io"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/schollz/progressbar/v3"
)

// Progress shows how far a long operation is: one line that is redrawn ten
// times a second on a terminal, otherwise a log line each half minute. SIGUSR1
// prints such a line at once.
type Progress struct {
	out      io.Writer
	terminal bool
	log      zerolog.Logger
	what     string
	every    time.Duration // between log lines

	done, total atomic.Int64
	bar         *progressbar.ProgressBar // of the showing goroutine
}

// NewProgress makes the display of an operation that what names ("backup").
// The bar goes to out if that is a terminal, the log lines to log; if both
// write to one terminal, out is a [Screen].
func NewProgress(out io.Writer, log zerolog.Logger, what string) *Progress {
	return &Progress{out: out, terminal: IsTerminal(out), log: log, what: what, every: 30 * time.Second}
}

// Set tells how many bytes are done, and of how many; a total of 0 is
// unknown. It may be called concurrently, and as often as the caller likes.
func (p *Progress) Set(done, total int64) {
	p.done.Store(done)
	p.total.Store(total)
}

// While shows the progress for as long as work runs and returns its error.
func (p *Progress) While(ctx context.Context, work func(context.Context) error) error {
	now := make(chan os.Signal, 1)
	signal.Notify(now, syscall.SIGUSR1)
	defer signal.Stop(now)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		p.show(stop, now)
	}()
	defer func() { close(stop); <-stopped }()
	return work(ctx)
}

func (p *Progress) show(stop <-chan struct{}, now <-chan os.Signal) {
	start := time.Now()
	interval := p.every
	if p.terminal {
		interval = 100 * time.Millisecond
		defer p.clear()
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-now:
			p.line(start)
		case <-tick.C:
			if p.terminal {
				p.draw()
			} else {
				p.line(start)
			}
		}
	}
}

// draw never shows a full bar: only the end of the work is the end, totals may
// be estimates. An error of the terminal is none of the operation.
func (p *Progress) draw() {
	done, total := p.done.Load(), p.total.Load()
	if total <= 0 {
		return // nothing to measure against yet
	}
	total = max(total, done+1)
	if p.bar == nil {
		out := p.out
		if s, ok := out.(*Screen); ok {
			out = barOf{s}
		}
		p.bar = progressbar.NewOptions64(total,
			progressbar.OptionSetWriter(out),
			progressbar.OptionSetDescription(p.what),
			progressbar.OptionSetWidth(30),
			progressbar.OptionShowBytes(true),
			progressbar.OptionShowCount(),
			progressbar.OptionUseIECUnits(true),
		)
	}
	p.bar.ChangeMax64(total)
	_ = p.bar.Set64(done)
}

func (p *Progress) clear() {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}

func (p *Progress) line(start time.Time) {
	done, total, took := p.done.Load(), p.total.Load(), time.Since(start)
	e := p.log.Info().Str("done", Size(done)).Str("took", Duration(took))
	if total > 0 {
		e = e.Str("total", Size(total)).Int64("percent", done*100/total)
	}
	if rate := float64(done) / took.Seconds(); done > 0 && took > 0 {
		e = e.Str("rate", Size(int64(rate))+"/s")
		if total > done {
			e = e.Str("left", Duration(time.Duration(float64(total-done)/rate*float64(time.Second))))
		}
	}
	e.Msg(p.what)
}
