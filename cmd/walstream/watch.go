package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/walstream/walstream/internal/term"
)

// watchStatus shows what look sees each second until ctx ends, which is the
// error that it returns then.
func (a *app) watchStatus(ctx context.Context, look func(context.Context) (*statusView, error)) error {
	for more := true; more; more = pause(ctx, time.Second) {
		v, err := look(ctx)
		if ctx.Err() != nil {
			break
		}
		if err == nil {
			err = a.showOnce(v, time.Now())
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (a *app) showOnce(v *statusView, now time.Time) error {
	switch {
	case a.json:
		return json.NewEncoder(a.stdout).Encode(v)
	case term.IsTerminal(a.stdout):
		var page bytes.Buffer
		if err := v.print(&page, now); err != nil {
			return err
		}
		return term.Redraw(a.stdout, page.Bytes())
	}
	_, err := fmt.Fprintln(a.stdout, v.line(now))
	return err
}

// line is the view on one line.
func (v *statusView) line(now time.Time) string {
	archived := "archived " + lsnText(v.ArchivedLSN)
	text := join(term.Time(now)+"  "+string(v.State), "flushed "+lsnText(v.Flushed), v.lagText(), archived, v.archiveText(now))
	if n := len(v.Problems); n > 0 {
		text += fmt.Sprintf("  PROBLEM: %s", v.Problems[0])
		if n > 1 {
			text += fmt.Sprintf(" (and %d more)", n-1)
		}
	}
	return text
}
