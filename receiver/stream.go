package receiver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/walstream/walstream/internal/mutant"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/wal"
)

// yieldTime is how often the reader yields to the scheduler, although nobody
// waits: a goroutine that has not for 10 ms is disturbed in each of its system
// calls.
const yieldTime = 8 * time.Millisecond

// stream is one START_REPLICATION. Four goroutines work on it. The reader
// takes messages and appends. When nothing more has come it makes all durable
// and says so, alone: at the live end of the WAL no other thread has a part in
// a commit. While more is coming, and with TLS, the flusher does that beside
// it. Another one prepares what will be needed, and the timer sends a status
// now and then whatever the others wait for.
type stream struct {
	conn  wire
	in    *frameReader
	fb    *feedback
	sink  Sink
	board *board
	log   zerolog.Logger

	every   time.Duration // between two status messages of the timer
	silence time.Duration // after which the connection is given up
	// confirmed, when set, bounds what is acknowledged; after patience without
	// any progress of it the connection is given up.
	confirmed *confirmed
	patience  time.Duration
	// watch runs beside the stream. When it fails, nothing more is
	// acknowledged and the stream ends.
	watch func(context.Context) error
	// hasRoom is Sink.Room until the stream is to end, and unblock its end.
	hasRoom func(wal.LSN) (wal.LSN, error)
	unblock context.CancelFunc

	start    string // the command
	timeline wal.Timeline
	portion  wal.LSN       // of WAL, after which there are chores
	dirty    chan struct{} // the flusher has something to do
	chores   chan struct{} // so has who prepares
	flushing atomic.Bool   // the flusher is at it
	syncs    atomic.Uint64 // of the reader, begun and ended: odd while one runs

	turn      sync.Mutex // to read; it guards what follows
	next      wal.LSN    // of the byte that comes next
	room      wal.LSN    // up to where the sink has some
	serverEnd wal.LSN
	unsynced  int  // bytes that came since the reader or the flusher was to sync
	begun     bool // the sink knows of this stream
	live      bool // the server has sent something
	ended     bool // the server has said all
}

// run streams until the timeline ends, which is the only success besides the
// end of ctx. When it returns everything that was appended is durable, unless
// the error is the sink's.
func (s *stream) run(ctx context.Context) error {
	if err := s.fb.write(appendQuery(nil, s.start)); err != nil {
		return err
	}
	ended, end := context.WithCancel(context.Background())
	defer end()
	waiting, unblock := context.WithCancel(ctx)
	defer unblock()
	s.hasRoom = func(end wal.LSN) (wal.LSN, error) { return s.sink.Room(waiting, end) }
	s.unblock = unblock
	var g errgroup.Group
	g.Go(func() error {
		defer end()
		defer s.fb.close() // the others have nobody to talk to any more
		return s.read()
	})
	g.Go(func() error { return s.orAbort(s.flush(ended)) })
	g.Go(func() error { return s.orAbort(s.prepare(ended)) })
	g.Go(func() error { return s.orAbort(s.beat(ctx, ended)) })
	g.Go(func() error { return s.orAbort(s.watch(ended)) })
	g.Go(func() error { return s.orAbort(s.tellConfirmed(ended)) })
	err := g.Wait()
	if s.begun && !errors.As(err, new(*sinkError)) {
		err = errors.Join(err, s.sync())
	}
	return err
}

// orAbort makes the reader return when another goroutine has failed. Nothing
// is acknowledged any more.
func (s *stream) orAbort(err error) error {
	if err != nil {
		s.fb.close()
		s.conn.abort()
		s.unblock()
	}
	return err
}

// read takes messages until the server is done.
func (s *stream) read() error {
	s.turn.Lock()
	defer s.turn.Unlock()
	for yielded := time.Now(); !s.ended; {
		if err := s.step(); err != nil {
			return err
		}
		if now := time.Now(); now.Sub(yielded) > yieldTime {
			runtime.Gosched()
			yielded = now
		}
		if s.in.pending() || s.unsynced == 0 {
			continue
		}
		if s.flushing.Load() || !s.conn.drained() || s.next < s.serverEnd {
			s.wakeFlusher()
		} else if err := s.syncAlone(); err != nil {
			return err
		}
	}
	return nil
}

// step takes one message.
func (s *stream) step() error {
	kind, body, err := s.in.next()
	if err != nil {
		return s.broken(err)
	}
	switch kind {
	case walPart:
		return s.append(s.in.wal)
	case 'W': // CopyBothResponse
		return s.fb.begin()
	case 'd':
		return s.keepalive(body)
	case 'c': // the end of a historic timeline, or the answer to ours
		return s.fb.end()
	case 'C':
		// A walsender of a server that shuts down says "COPY 0" once all
		// is flushed here, and leaves.
		if bytes.HasPrefix(body, []byte("COPY")) {
			return errServerShutdown
		}
	case 'E':
		return s.serverError(body)
	case 'Z': // ReadyForQuery
		s.ended = true
	case 'T', 'D': // the next timeline: its history says the same and more
	case 'N', 'S': // notice, changed setting
	default:
		return fmt.Errorf("protocol message %q in a replication stream", kind)
	}
	return nil
}

func (s *stream) broken(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("no message for %s", s.silence)
	}
	return fmt.Errorf("stream of timeline %s at %s: %w", s.timeline, s.next, err)
}

func (s *stream) serverError(body []byte) error {
	var msg pgproto3.ErrorResponse
	if err := msg.Decode(body); err != nil {
		return fmt.Errorf("error message of the server: %w", err)
	}
	return explainStream(pg.ServerError(&msg), s.timeline, s.next)
}

// alive records the first message.
func (s *stream) alive() {
	if !s.live {
		s.live = true
		s.board.streaming(s.timeline)
		s.log.Info().Stringer("timeline", s.timeline).Stringer("lsn", s.next).Msg("streaming")
	}
}

func (s *stream) keepalive(body []byte) error {
	end, reply, err := parseKeepalive(body)
	if err != nil {
		return err
	}
	s.alive()
	s.board.heard(0, s.next, end)
	if reply {
		return s.fb.send(false)
	}
	return nil
}

func (s *stream) append(m walData) error {
	s.alive()
	if m.start != s.next {
		return fmt.Errorf("stream of timeline %s: the server sent WAL at %s, want %s", s.timeline, m.start, s.next)
	}
	if !s.begun {
		// Not earlier: a server that refuses to stream leaves no trace.
		if err := s.sink.Begin(s.timeline, s.next); err != nil {
			return fromSink(err)
		}
		s.begun = true
	}
	if m.end() > s.room {
		var err error
		if s.room, err = s.hasRoom(m.end()); errors.Is(err, context.Canceled) {
			return err
		} else if err != nil {
			return fromSink(err)
		}
	}
	if err := s.sink.Append(s.timeline, m.start, m.data); err != nil {
		return fromSink(err)
	}
	s.next, s.serverEnd = m.end(), m.serverEnd
	s.unsynced += len(m.data)
	s.fb.received.Store(uint64(s.next))
	s.fb.sent.Store(uint64(m.serverEnd))
	if mutant.AckBeforeFsync {
		s.fb.durable.Store(uint64(s.next))
		if err := s.fb.send(false); err != nil {
			return err
		}
	}
	s.board.heard(len(m.data), s.next, m.serverEnd)
	if m.start/s.portion != s.next/s.portion {
		wake(s.chores)
	}
	return nil
}

// statusInterval is how often to send a status to a server with this
// wal_sender_timeout, as SHOW prints it ("1min", "2s", "500ms", "0"): often
// enough that its timer never runs out, and at least every longest.
func statusInterval(timeout string, longest time.Duration) time.Duration {
	d, err := time.ParseDuration(strings.NewReplacer("min", "m", "d", "h").Replace(timeout))
	if err != nil || d <= 0 {
		return longest
	}
	return min(longest, d/4)
}
