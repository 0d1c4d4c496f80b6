package receiver

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/walstream/walstream/wal"
)

// feedback tells the server how far the WAL has come. The reader, the flusher
// and the timer all send through it: a status never waits for a disk, only for
// the socket, and for that no longer than its patience.
type feedback struct {
	conn io.Writer
	now  func() time.Time
	// limit, when set, is up to where WAL may be acknowledged at most.
	limit func() wal.LSN

	received atomic.Uint64 // end of what came on this connection; the stream's start at first
	durable  atomic.Uint64 // what the last Sync returned
	sent     atomic.Uint64 // how far the server could send; 0 until WAL has come

	mu    sync.Mutex // orders writes to the socket
	open  bool       // between CopyBothResponse and our CopyDone
	acked wal.LSN    // flush position of the last status
	buf   []byte
}

// held is what is durable, and came on this connection, so that the server sees
// its own end exactly. Before the first Sync of a stream it is 0, PostgreSQL's
// "unknown".
func (f *feedback) held() wal.LSN { return wal.LSN(min(f.durable.Load(), f.received.Load())) }

// flushed is the position that may be reported as flushed.
func (f *feedback) flushed() wal.LSN {
	if f.limit == nil {
		return f.held()
	}
	return min(f.held(), f.limit())
}

// send writes a status message. Outside of the stream it does nothing.
func (f *feedback) send(reply bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sendLocked(reply)
}

func (f *feedback) sendLocked(reply bool) error {
	if !f.open {
		return nil
	}
	f.acked = max(f.acked, f.flushed())
	f.buf = appendStatus(f.buf[:0], wal.LSN(f.received.Load()), f.acked, f.now(), reply)
	return f.write(f.buf)
}

// begin is called when the server has answered with CopyBothResponse. It asks
// for a first sign of life: a server with nothing to send stays silent.
func (f *feedback) begin() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open = true
	return f.sendLocked(true)
}

// end sends CopyDone, once; no status may follow.
func (f *feedback) end() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.open {
		return nil
	}
	f.open = false
	return f.write([]byte(copyDone))
}

// close makes send and end do nothing from now on.
func (f *feedback) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open = false
}

func (f *feedback) write(p []byte) error {
	if _, err := f.conn.Write(p); err != nil {
		return fmt.Errorf("status to the server: %w", err)
	}
	return nil
}
