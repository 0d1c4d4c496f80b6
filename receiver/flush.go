package receiver

import (
	"context"
	"errors"
	"time"

	"github.com/walstream/walstream/internal/crashpoint"
	"github.com/walstream/walstream/wal"
)

const (
	// drainTimeout is how long a stopped stream waits for the server's end of
	// it.
	drainTimeout = 5 * time.Second
	// farBehind is from where on the server has so much to send that nobody
	// can be waiting for an acknowledgement; WAL is synced in portions of
	// that size then.
	farBehind = 16 << 20
	// hangTime is how often the flusher looks whether the reader hangs in a
	// Sync.
	hangTime = time.Second
)

// wakeFlusher leaves what is not synced to the flusher, unless so much more
// is coming that it can wait.
func (s *stream) wakeFlusher() {
	if s.next+farBehind < s.serverEnd && s.unsynced < farBehind {
		return
	}
	s.unsynced = 0
	wake(s.dirty)
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it has been told already
	}
}

// syncAlone syncs and acknowledges on the spot. Meanwhile it is the flusher's
// turn to read if that takes long.
func (s *stream) syncAlone() error {
	s.unsynced = 0
	s.syncs.Add(1)
	s.turn.Unlock()
	err := s.sync()
	if err == nil {
		err = s.acknowledge()
	}
	s.syncs.Add(1)
	s.turn.Lock()
	return err
}

// flush is group commit while more is coming: what arrives while one Sync runs
// is covered by the next. Nothing waits for longer than a tick.
func (s *stream) flush(ended context.Context) error {
	tick := time.NewTicker(hangTime)
	defer tick.Stop()
	var seen uint64 // of syncs
	for {
		var err error
		select {
		case <-s.dirty:
			err = s.flushOnce()
		case <-tick.C:
			now := s.syncs.Load()
			if now%2 == 1 && now == seen {
				err = s.relieve(now)
			} else if now%2 == 0 && s.fb.received.Load() > s.fb.durable.Load() && s.fb.sent.Load() > 0 {
				err = s.flushOnce()
			}
			seen = now
		case <-ended.Done():
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (s *stream) flushOnce() error {
	s.flushing.Store(true)
	err := s.sync()
	s.flushing.Store(false)
	if err == nil {
		err = s.acknowledge()
	}
	return err
}

func (s *stream) acknowledge() error {
	err := s.fb.send(false)
	if err == nil {
		crashpoint.Hit(crashpoint.AckSent)
	}
	return err
}

// prepare has the sink prepare what the reader would wait for.
func (s *stream) prepare(ended context.Context) error {
	for {
		select {
		case <-s.chores:
			if err := s.sink.Prepare(ended, wal.LSN(s.fb.sent.Load())); err != nil {
				return fromSink(err)
			}
		case <-ended.Done():
			return nil
		}
	}
}

// relieve reads in place of the reader while that hangs in a Sync.
func (s *stream) relieve(hanging uint64) error {
	if !s.turn.TryLock() { // it does not hang any more
		return nil
	}
	defer s.turn.Unlock()
	for s.syncs.Load() == hanging && !s.ended {
		if err := s.step(); err != nil {
			return err
		}
		s.wakeFlusher()
	}
	return nil
}

func (s *stream) sync() error {
	durable, err := s.sink.Sync()
	if err != nil {
		return fromSink(err)
	}
	s.fb.durable.Store(uint64(durable))
	s.board.flushed(s.fb.held())
	return nil
}

// beat keeps the connection alive from both sides: the status resets the
// server's timer while the reader waits for the disk, and its answer resets
// ours. It ends the stream when ctx ends.
func (s *stream) beat(ctx, ended context.Context) error {
	t := time.NewTicker(s.every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if err := s.fb.send(true); err != nil {
				return err
			}
		case <-ctx.Done():
			return s.finish(ended)
		case <-ended.Done():
			return nil
		}
	}
}

// finish acknowledges the last bytes and tells the server to stop. What still
// comes is taken for a short time, because the server's answer is behind it.
func (s *stream) finish(ended context.Context) error {
	if s.fb.sent.Load() > 0 { // or the sink has not been begun
		if err := s.sync(); err != nil {
			return err
		}
	}
	if err := errors.Join(s.fb.send(false), s.fb.end()); err != nil {
		return err
	}
	select {
	case <-ended.Done():
	case <-time.After(drainTimeout):
		s.conn.abort()
	}
	return nil
}
