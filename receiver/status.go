package receiver

import (
	"sync"
	"time"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// State is what a receiver is doing.
type State string

// What a receiver can be doing.
const (
	Connecting State = "connecting"
	Streaming  State = "streaming"
	Waiting    State = "waiting" // for the next try
	Stopped    State = "stopped"
)

// Status is what a receiver knows about itself. Whether the server counts it
// as synchronous is not told by the protocol: see [HoldStatus].
type Status struct {
	State         State        `json:"state"`
	Since         time.Time    `json:"since"` // of State
	Server        string       `json:"server,omitempty"`
	ServerVersion string       `json:"server_version,omitempty"`
	BackendPID    uint32       `json:"backend_pid,omitempty"` // of the walsender
	Timeline      wal.Timeline `json:"timeline,omitempty"`
	// Received and Flushed are ends: one past the last byte. Flushed is
	// durable here.
	Received  wal.LSN `json:"received_lsn,omitempty"`
	Flushed   wal.LSN `json:"flushed_lsn,omitempty"`
	ServerLSN wal.LSN `json:"server_lsn,omitempty"`
	// LastMessage is when the server last said something.
	LastMessage time.Time `json:"last_message,omitzero"`
	// LastFlush is when Flushed last rose. The server is told at once.
	LastFlush time.Time `json:"last_flush,omitzero"`
	// CaughtUp is a time for which all WAL that the server had flushed by
	// then, as far as it said, is durable here: now, while nothing is missing.
	CaughtUp      time.Time `json:"caught_up,omitzero"`
	ReceivedBytes int64     `json:"received_bytes"` // of WAL, since the start, repeated ones too
	Reconnects    int64     `json:"reconnects"`     // tries after the first
	// Failure is why there is no stream; nil while there is one.
	Failure *hint.Failure `json:"failure,omitempty"`
	// Alarm is set while the server is one that must not be acknowledged
	// to: behind what is durable here, or on another branch.
	Alarm string `json:"alarm,omitempty"`
	// Orphan is WAL that the server which took over never had.
	Orphan *Orphan `json:"orphan,omitempty"`
}

// Orphan is WAL behind the point where the next timeline forked off: received
// and kept, but not part of the server's history. Acknowledged commits may be
// in it.
type Orphan struct {
	Timeline wal.Timeline `json:"timeline"`
	Fork     wal.LSN      `json:"fork_lsn"`
	End      wal.LSN      `json:"end_lsn"`
}

// board is a Status that several goroutines write and read.
type board struct {
	now func() time.Time
	mu  sync.Mutex
	st  Status
	// goal is where the server was at goalAt, for CaughtUp.
	goal   wal.LSN
	goalAt time.Time
	tried  bool // to connect
}

func newBoard(now func() time.Time) *board {
	return &board{now: now, st: Status{State: Connecting, Since: now()}}
}

func (b *board) read() Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	st := b.st
	if st.State == Streaming && st.Flushed >= st.ServerLSN {
		st.CaughtUp = b.now()
	}
	return st
}

// durable is up to where the sink holds WAL of the timeline being received.
func (b *board) durable() segment.Position {
	st := b.read()
	return segment.Position{Timeline: st.Timeline, LSN: st.Flushed}
}

func (b *board) update(change func(*Status)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(&b.st)
}

func (b *board) state(s State) {
	b.update(func(st *Status) {
		if st.State != s {
			st.State, st.Since = s, b.now()
		}
	})
}

// streaming records that the server sends WAL of timeline tli.
func (b *board) streaming(tli wal.Timeline) {
	b.state(Streaming)
	b.update(func(st *Status) { st.Timeline, st.Alarm, st.Failure = tli, "", nil })
}

// connected records where the connection leads.
func (b *board) connected(conn *pg.Conn, flush wal.LSN) {
	b.update(func(st *Status) {
		st.Server, st.BackendPID, st.ServerLSN = conn.Address(), conn.PID(), flush
		st.ServerVersion = conn.ParameterStatus("server_version")
		b.goal, b.goalAt = 0, st.CaughtUp // it may be another server
	})
}

// resuming records from where a stream goes on, and whether all before that is
// durable here.
func (b *board) resuming(at segment.Position, held bool) {
	b.update(func(st *Status) {
		st.Timeline, st.Received, st.Flushed = at.Timeline, at.LSN, 0
		if held {
			st.Flushed = at.LSN
		}
	})
}

// connecting records the beginning of another try.
func (b *board) connecting() {
	b.update(func(st *Status) {
		if b.tried {
			st.Reconnects++
		}
		b.tried = true
	})
	b.state(Connecting)
}

// failed records why there is no stream; it says whether that is news.
func (b *board) failed(err error) (news bool) {
	b.update(func(st *Status) {
		news = st.Failure == nil || st.Failure.Error != err.Error()
		st.Failure = st.Failure.Again(err, b.now())
		if alarming(err) {
			st.Alarm = err.Error()
		}
	})
	b.state(Waiting)
	return news
}

// heard records a message of the server with n bytes of WAL and what it said
// about its end.
func (b *board) heard(n int, received, server wal.LSN) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.st.ReceivedBytes += int64(n)
	b.st.Received = max(b.st.Received, received)
	b.st.ServerLSN = max(b.st.ServerLSN, server)
	b.st.LastMessage = b.now()
	b.compare()
}

// flushed records up to where all is durable.
func (b *board) flushed(lsn wal.LSN) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if lsn > b.st.Flushed {
		b.st.Flushed, b.st.LastFlush = lsn, b.now()
		b.compare()
	}
}

// compare sees whether what the server had some time ago is durable; the next
// goal is what it has now.
func (b *board) compare() {
	for range 2 { // the next one may be reached too
		if b.st.Flushed < b.goal {
			return
		}
		b.st.CaughtUp = b.goalAt
		b.goal, b.goalAt = b.st.ServerLSN, b.st.LastMessage
	}
}
