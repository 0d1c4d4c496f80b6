package receiver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/walstream/walstream/internal/crashpoint"
	"github.com/walstream/walstream/internal/mutant"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/wal"
)

// drainTimeout is how long a stopped stream waits for the server's end of it.
const drainTimeout = 5 * time.Second

// stream is one START_REPLICATION. Three goroutines work on it: the reader
// takes messages and appends, the flusher makes durable what was appended and
// says so, the timer sends a status now and then whatever the other two wait
// for.
type stream struct {
	conn  *patientConn
	in    *frameReader
	fb    *feedback
	sink  Sink
	board *board
	log   zerolog.Logger
	every time.Duration // between two status messages of the timer

	timeline wal.Timeline
	next     wal.LSN       // of the byte that comes next
	begun    bool          // the sink knows of this stream
	live     bool          // the server has sent something
	dirty    chan struct{} // something was appended since the last Sync
}

// run streams until the timeline ends, which is the only success besides the
// end of ctx. When it returns everything that was appended is durable, unless
// the error is the sink's.
func (s *stream) run(ctx context.Context) error {
	query := fmt.Sprintf("START_REPLICATION PHYSICAL %s TIMELINE %s", s.next, s.timeline)
	if err := s.fb.write(appendQuery(nil, query)); err != nil {
		return err
	}
	stopping, stop := context.WithCancel(ctx)
	defer stop()
	var g errgroup.Group
	g.Go(func() error {
		defer stop()
		defer s.fb.close() // the others have nobody to talk to any more
		return s.read()
	})
	g.Go(func() error { return s.orAbort(s.flush(stopping)) })
	g.Go(func() error { return s.orAbort(s.beat(stopping)) })
	err := g.Wait()
	var failed *sinkError
	if s.begun && !errors.As(err, &failed) {
		err = errors.Join(err, s.sync())
	}
	return err
}

// orAbort makes the reader return when another goroutine has failed.
func (s *stream) orAbort(err error) error {
	if err != nil {
		s.conn.giveUp(time.Now())
	}
	return err
}

// read takes messages until the server is done.
func (s *stream) read() error {
	for {
		kind, body, err := s.in.next()
		if err != nil {
			return s.broken(err)
		}
		switch kind {
		case 'W': // CopyBothResponse
			err = s.fb.begin()
		case 'd':
			err = s.copyData(body)
		case 'c': // the end of a historic timeline, or the answer to ours
			err = s.fb.end()
		case 'C':
			// A walsender of a server that shuts down says "COPY 0" once all
			// is flushed here, and leaves.
			if bytes.HasPrefix(body, []byte("COPY")) {
				err = errServerShutdown
			}
		case 'E':
			err = s.serverError(body)
		case 'Z': // ReadyForQuery
			return nil
		case 'T', 'D': // the next timeline: its history says the same and more
		case 'N', 'S': // notice, changed setting
		default:
			err = fmt.Errorf("protocol message %q in a replication stream", kind)
		}
		if err != nil {
			return err
		}
	}
}

func (s *stream) broken(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("no message for %s", s.conn.silence)
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

func (s *stream) copyData(body []byte) error {
	if !s.live {
		s.live = true
		s.board.streaming(s.timeline)
		s.log.Info().Stringer("timeline", s.timeline).Stringer("lsn", s.next).Msg("streaming")
	}
	if len(body) > 0 && body[0] == 'k' {
		end, reply, err := parseKeepalive(body)
		if err != nil {
			return err
		}
		s.board.heard(s.next, end)
		if reply {
			return s.fb.send(false)
		}
		return nil
	}
	m, err := parseWALData(body)
	if err != nil {
		return err
	}
	if m.start != s.next {
		return fmt.Errorf("stream of timeline %s: the server sent WAL at %s, want %s", s.timeline, m.start, s.next)
	}
	return s.append(m)
}

func (s *stream) append(m walData) error {
	if !s.begun {
		// Not earlier: a server that refuses to stream leaves no trace.
		if err := s.sink.Begin(s.timeline, s.next); err != nil {
			return fromSink(err)
		}
		s.begun = true
	}
	if err := s.sink.Append(s.timeline, m.start, m.data); err != nil {
		return fromSink(err)
	}
	s.next += wal.LSN(len(m.data))
	s.fb.received.Store(uint64(s.next))
	if mutant.AckBeforeFsync {
		s.fb.durable.Store(uint64(s.next))
		if err := s.fb.send(false); err != nil {
			return err
		}
	}
	s.board.heard(s.next, m.serverEnd)
	select {
	case s.dirty <- struct{}{}:
	default: // the flusher has been told already
	}
	return nil
}

// flush is group commit: what arrives while one Sync runs is covered by the
// next. It ends the stream when ctx ends.
func (s *stream) flush(ctx context.Context) error {
	for {
		select {
		case <-s.dirty:
			if err := s.sync(); err != nil {
				return err
			}
			if err := s.fb.send(false); err != nil {
				return err
			}
			crashpoint.Hit(crashpoint.AckSent)
		case <-ctx.Done():
			return s.finish()
		}
	}
}

// finish acknowledges the last bytes and tells the server to stop. What still
// comes is taken for a short time, because the server's answer is behind it.
func (s *stream) finish() error {
	select {
	case <-s.dirty:
		if err := s.sync(); err != nil {
			return err
		}
	default:
	}
	s.conn.giveUp(time.Now().Add(drainTimeout))
	if err := s.fb.send(false); err != nil {
		return err
	}
	return s.fb.end()
}

func (s *stream) sync() error {
	durable, err := s.sink.Sync()
	if err != nil {
		return fromSink(err)
	}
	s.fb.durable.Store(uint64(durable))
	s.board.update(func(st *Status) { st.Flushed = max(st.Flushed, s.fb.flushed()) })
	return nil
}

// beat keeps the connection alive from both sides: the status resets the
// server's timer while the reader waits for the disk, and its answer resets
// ours.
func (s *stream) beat(ctx context.Context) error {
	t := time.NewTicker(s.every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if err := s.fb.send(true); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// patientConn gives every read the same time, until giveUp sets an end.
type patientConn struct {
	net.Conn
	silence time.Duration

	mu  sync.Mutex
	end time.Time
}

func (c *patientConn) Read(p []byte) (int, error) {
	if err := c.wait(); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *patientConn) wait() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	deadline := time.Now().Add(c.silence)
	if !c.end.IsZero() && c.end.Before(deadline) {
		deadline = c.end
	}
	return c.SetReadDeadline(deadline)
}

// giveUp makes reads fail from at on, those that wait already included.
func (c *patientConn) giveUp(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end = at
	// A connection that cannot take a deadline is closed: then the read
	// fails by itself.
	_ = c.SetReadDeadline(at)
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
