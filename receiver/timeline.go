package receiver

import (
	"context"
	"fmt"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// step is what to do next with a server: stream Timeline from Start, or, when
// what we hold of a timeline is all that the server's history has of it, say
// so and look at the next one.
type step struct {
	Timeline wal.Timeline
	Start    wal.LSN // of a segment
	// End is where the timeline ended on the server; zero for its current
	// one.
	End wal.LSN
	// Done says that nothing of the timeline is missing here, and Next where
	// its successor starts.
	Done bool
	Next segment.Position
}

// nextStep decides for a server with history h that has flushed up to flush,
// when all up to have is durable here. It fails with a [*BranchError] or a
// [*BehindError].
func nextStep(h segment.History, flush wal.LSN, have segment.Position, size segment.Size) (step, error) {
	st := step{Timeline: have.Timeline, Start: size.Floor(have.LSN)}
	if have.Timeline == h.Timeline {
		if have.LSN > flush {
			return step{}, &BehindError{Timeline: have.Timeline, Server: flush, Ours: have.LSN}
		}
		return st, nil
	}
	end, ok := h.EndOf(have.Timeline)
	if !ok {
		return step{}, hint.With(&BranchError{Server: h.Timeline, Ours: have.Timeline},
			"give the address of the present primary in -d/--dbname; if this is it, restored to an earlier point on purpose, start with another, empty --spool")
	}
	st.End = end
	if have.LSN >= end {
		st.Done = true
		st.Next = segment.Position{Timeline: successor(h, have.Timeline), LSN: size.Floor(end)}
	}
	return st, nil
}

// successor is the timeline that follows tli, an ancestor, on the way to h.
func successor(h segment.History, tli wal.Timeline) wal.Timeline {
	for _, sw := range h.Ancestors {
		if sw.Timeline > tli {
			return sw.Timeline
		}
	}
	return h.Timeline
}

// saveHistories makes the history of the server's timeline durable in the
// sink, its ancestors' too, before any WAL of theirs is asked for.
func saveHistories(ctx context.Context, srv *pg.Server, sink Sink) error {
	h := srv.History
	if h.Timeline == 1 { // has no file
		return nil
	}
	for i, sw := range h.Ancestors {
		if err := ancestor(ctx, srv.Conn, sink, h, i); err != nil {
			return fmt.Errorf("history of timeline %s: %w", sw.Timeline, err)
		}
	}
	return fromSink(sink.SaveHistory(h.Timeline, srv.HistoryFile))
}

// ancestor saves the history of h's i-th ancestor unless the sink has it. The
// server may lack the file, and does not need it: the newest one says the same.
func ancestor(ctx context.Context, conn *pg.Conn, sink Sink, h segment.History, i int) error {
	tli := h.Ancestors[i].Timeline
	if i == 0 { // the oldest one has no ancestors, and timeline 1 no file
		return nil
	}
	if _, known := sink.History(tli); known {
		return nil
	}
	body, err := conn.TimelineHistory(ctx, tli)
	if pg.Code(err) == pg.CodeUndefinedFile {
		body, err = segment.History{Timeline: tli, Ancestors: h.Ancestors[:i]}.Format(), nil
	}
	if err != nil {
		return err
	}
	return fromSink(sink.SaveHistory(tli, body))
}
