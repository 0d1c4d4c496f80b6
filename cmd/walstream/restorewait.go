package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/internal/term"
	"github.com/walstream/walstream/recovery"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// recoveryEnd is where a recovery ended, which was followed.
type recoveryEnd struct {
	LSN      wal.LSN      `json:"lsn"`
	Timeline wal.Timeline `json:"timeline"`
	// LastFinish is the time of the last commit or abort that was replayed.
	LastFinish time.Time `json:"last_finish,omitzero"`
	Live       bool      `json:"live"` // no longer in recovery
	Paused     bool      `json:"paused"`
	Seconds    float64   `json:"seconds"`
	Socket     string    `json:"socket"`
	// Differs is what is not as planned.
	Differs []string `json:"differs,omitempty"`

	history string // the name of the live server's newest
}

func (e *recoveryEnd) String() string {
	parts := []string{fmt.Sprintf("%s on timeline %s", e.LSN, e.Timeline)}
	if !e.LastFinish.IsZero() {
		parts = append(parts, "last transaction "+term.Exact(e.LastFinish))
	}
	outcome := "as planned"
	if len(e.Differs) > 0 {
		outcome = "NOT as planned: " + strings.Join(e.Differs, "; ")
	}
	return join(append(parts, "after "+term.Duration(time.Duration(e.Seconds*float64(time.Second))), outcome)...)
}

// follow starts the server, waits until recovery ends or pauses, compares that
// with the plan, and lets the server do what the plan says then, if it is right.
func (s *restored) follow(ctx context.Context, p *recovery.Plan, progress *term.Progress, log zerolog.Logger) (*recoveryEnd, error) {
	began := time.Now()
	var end *recoveryEnd
	err := progress.While(ctx, func(ctx context.Context) (err error) {
		telling, stop := context.WithCancel(ctx)
		told := make(chan struct{})
		go func() {
			defer close(told)
			s.tell(telling, log)
		}()
		defer func() { stop(); <-told }()
		if err := s.start(ctx); err != nil {
			return err
		}
		end, err = s.await(ctx, func(e *recoveryEnd) bool {
			progress.Set(int64(e.LSN-min(e.LSN, p.Backup.StartLSN)), int64(p.End-p.Backup.StartLSN))
			return e.Live || e.Paused
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	end.Seconds = time.Since(began).Seconds()
	end.compare(p, s.dir)
	switch {
	case len(end.Differs) > 0: // left for people to look at
	case p.Target.Action == recovery.ActionPromote && end.Paused:
		if err := s.row(ctx, "SELECT pg_wal_replay_resume()", new(string)); err != nil {
			return nil, s.failed(ctx, err)
		}
		live, err := s.await(ctx, func(e *recoveryEnd) bool { return e.Live })
		if err != nil {
			return nil, err
		}
		end.Live, end.Paused = live.Live, live.Paused
	case p.Target.Action == recovery.ActionShutdown:
		if err := s.run(ctx, "-s", "-m", "fast", "stop"); err != nil {
			return nil, s.failed(ctx, err)
		}
		end.Paused, end.Socket = false, ""
	}
	return end, nil
}

// await asks the server how far recovery is until that is enough.
func (s *restored) await(ctx context.Context, enough func(*recoveryEnd) bool) (*recoveryEnd, error) {
	paused := "pg_get_wal_replay_pause_state() = 'paused'"
	if s.major < 14 {
		paused = "pg_is_wal_replay_paused()"
	}
	for {
		e := &recoveryEnd{Socket: s.side}
		err := s.row(ctx, "SELECT NOT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN "+paused+" ELSE false END, pg_last_wal_replay_lsn(), "+
			"CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) || '.history' END, "+
			`to_char(pg_last_xact_replay_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`,
			&e.Live, &e.Paused, &e.LSN, &e.history, &e.LastFinish)
		switch {
		case pg.Code(err) == pg.CodeObjectNotReady: // recovery ended between two of these questions
		case err != nil:
			return nil, s.failed(ctx, err)
		case enough(e):
			return e, nil
		}
		if !pause(ctx, 100*time.Millisecond) {
			return nil, s.failed(ctx, ctx.Err())
		}
	}
}

// row runs SQL that answers with one row.
func (s *restored) row(ctx context.Context, sql string, dst ...any) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Done()
	return conn.Row(ctx, sql, dst...)
}

// compare notes what is not as planned. While the source lives, the end of WAL
// moves on.
func (e *recoveryEnd) compare(p *recovery.Plan, dir string) {
	toEnd := p.Target.Kind == recovery.KindEnd
	if e.LSN != p.End && !(toEnd && e.LSN > p.End) {
		e.Differs = append(e.Differs, fmt.Sprintf("the plan was to end at %s", p.End))
	}
	var err error
	if e.Timeline, err = e.along(p.WAL[len(p.WAL)-1], filepath.Join(dir, "pg_wal")); err != nil {
		e.Differs = append(e.Differs, fmt.Sprintf("which timeline it is on is not known: %v", err))
	} else if want := p.WAL[len(p.WAL)-1].Timeline; e.Timeline != want {
		e.Differs = append(e.Differs, fmt.Sprintf("the plan was to end on timeline %s", want))
	}
	if e.Live && !toEnd && p.Target.Action != recovery.ActionPromote { // it does not pause before it can answer queries
		e.Differs = append(e.Differs, "it did not pause at the target")
	}
	if b := p.Before; b != nil && !e.LastFinish.Equal(b.Time) && !(toEnd && e.LSN > p.End) {
		e.Differs = append(e.Differs, "the last transaction was to be that of "+term.Exact(b.Time))
	}
}

// along is the timeline that was followed: of a live server that on which its
// new one is based. Before that, PostgreSQL keeps the segment that it read last
// under its name, which tells the timeline.
func (e *recoveryEnd) along(last recovery.Range, pgWAL string) (wal.Timeline, error) {
	if !e.Live {
		_, err := os.Stat(filepath.Join(pgWAL, last.Last))
		return last.Timeline, err
	}
	tli, err := segment.ParseHistoryName(e.history)
	if err != nil {
		return 0, err
	}
	body, err := os.ReadFile(filepath.Join(pgWAL, e.history))
	if err != nil {
		return 0, err
	}
	h, err := segment.ParseHistory(tli, body)
	if err == nil && len(h.Ancestors) == 0 {
		err = errors.New(e.history + " names none")
	}
	if err != nil {
		return 0, err
	}
	return h.Ancestors[len(h.Ancestors)-1].Timeline, nil
}

// nextSteps tells how to look at the server, make it live, and open it.
func (s *restored) nextSteps(e *recoveryEnd) string {
	if e.Socket == "" {
		return fmt.Sprintf("it is shut down at the target; start it with PostgreSQL %d:  %s\n", s.major, quotedWords(s.pgCtl("start")))
	}
	psql := fmt.Sprintf("%s -h %s -U %s -d postgres", hint.Quote(filepath.Join(s.bin, "psql")), hint.Quote(s.side), hint.Quote(s.users[0]))
	var b strings.Builder
	fmt.Fprintf(&b, "it runs, closed to clients; look:  %s\n", psql)
	if e.Paused && len(e.Differs) == 0 {
		fmt.Fprintf(&b, "it is paused at the target; make it live:  %s -c 'SELECT pg_wal_replay_resume()'\n", psql)
	}
	fmt.Fprintf(&b, "open it to clients:  %s && %s\n", quotedWords(s.pgCtl("stop")), quotedWords(s.pgCtl("start")))
	b.WriteString(harmless)
	return b.String()
}
