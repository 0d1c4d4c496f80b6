package receiver

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walstream/walstream/wal"
)

// fake is a scripted walsender for byte sequences that a real server cannot be
// made to send. It answers what precedes a stream by itself; each
// START_REPLICATION is given to the next script, the last one again and again.
// The connection is closed when the script returns.
type fake struct {
	t       *testing.T
	ln      net.Listener
	tls     *tls.Config // nil: none offered
	scripts []func(*fakeStream)

	mu        sync.Mutex
	system    uint64
	timeline  wal.Timeline
	flush     wal.LSN
	standby   bool
	histories map[wal.Timeline]string
	started   []string // the START_REPLICATION commands
	conns     []net.Conn
	wg        sync.WaitGroup
}

func newFake(t *testing.T, scripts ...func(*fakeStream)) *fake {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{t: t, ln: ln, scripts: scripts, system: 42, timeline: 1, flush: 0x100000}
	f.wg.Add(1)
	go f.accept()
	t.Cleanup(f.close)
	return f
}

func (f *fake) close() {
	f.ln.Close()
	f.mu.Lock()
	for _, c := range f.conns {
		c.Close()
	}
	f.mu.Unlock()
	f.wg.Wait()
}

func (f *fake) conninfo() string {
	host, port, _ := net.SplitHostPort(f.ln.Addr().String())
	return fmt.Sprintf("host=%s port=%s user=walstream sslmode=disable", host, port)
}

// set changes the server while it is used.
func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fake) commands() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.started...)
}

func (f *fake) accept() {
	defer f.wg.Done()
	for {
		conn, err := f.ln.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		f.conns = append(f.conns, conn)
		f.mu.Unlock()
		f.wg.Add(1)
		go func() {
			defer f.wg.Done()
			defer conn.Close()
			f.serve(conn)
		}()
	}
}

// serve answers one connection until it breaks.
func (f *fake) serve(conn net.Conn) {
	b := pgproto3.NewBackend(conn, conn)
	first, err := b.ReceiveStartupMessage()
	if _, asks := first.(*pgproto3.SSLRequest); asks && f.tls != nil {
		conn.Write([]byte("S"))
		conn = tls.Server(conn, f.tls)
		b = pgproto3.NewBackend(conn, conn)
		_, err = b.ReceiveStartupMessage()
	}
	if err != nil {
		return
	}
	b.Send(&pgproto3.AuthenticationOk{})
	b.Send(&pgproto3.ParameterStatus{Name: "server_version", Value: "15.4 (fake)"})
	b.Send(&pgproto3.ParameterStatus{Name: "in_hot_standby", Value: f.hotStandby()})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	for b.Flush() == nil {
		m, err := b.Receive()
		if err != nil {
			return
		}
		q, ok := m.(*pgproto3.Query)
		if !ok {
			return
		}
		if strings.HasPrefix(q.String, "START_REPLICATION") {
			stream := &fakeStream{fake: f, conn: conn, b: b, command: q.String}
			f.script(q.String)(stream)
			if !stream.again {
				return
			}
			continue
		}
		f.answer(b, q.String)
	}
}

func (f *fake) hotStandby() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.standby {
		return "on"
	}
	return "off"
}

func (f *fake) script(command string) func(*fakeStream) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.started)
	f.started = append(f.started, command)
	return f.scripts[min(n, len(f.scripts)-1)]
}

func (f *fake) answer(b *pgproto3.Backend, command string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	verb, arg, _ := strings.Cut(command, " ")
	switch {
	case verb == "IDENTIFY_SYSTEM":
		row(b, strconv.FormatUint(f.system, 10), f.timeline.String(), f.flush.String(), "")
	case command == "SHOW wal_segment_size":
		row(b, "1MB")
	case command == "SHOW wal_sender_timeout":
		row(b, "1min")
	case verb == "READ_REPLICATION_SLOT":
		row(b, "physical", "0/100000", "1")
	case verb == "TIMELINE_HISTORY":
		tli, _ := wal.ParseTimeline(arg)
		row(b, arg+".history", f.histories[tli])
	default:
		b.Send(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "42601", Message: "what is " + command})
	}
	b.Send(&pgproto3.CommandComplete{CommandTag: []byte(verb)})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
}

func row(b *pgproto3.Backend, cols ...string) {
	var desc pgproto3.RowDescription
	var data pgproto3.DataRow
	for _, c := range cols {
		desc.Fields = append(desc.Fields, pgproto3.FieldDescription{Name: []byte("c"), DataTypeOID: 25, DataTypeSize: -1, TypeModifier: -1})
		data.Values = append(data.Values, []byte(c))
	}
	b.Send(&desc)
	b.Send(&data)
}

// fakeStream is what a script works with.
type fakeStream struct {
	*fake
	conn    net.Conn
	b       *pgproto3.Backend
	command string
	again   bool // the connection goes on
}

func (s *fakeStream) copyBoth() {
	s.b.Send(&pgproto3.CopyBothResponse{})
	s.b.Flush()
}

// xlog is an XLogData message in its CopyData frame.
func xlog(at wal.LSN, data []byte) []byte {
	body := []byte{'w'}
	body = binary.BigEndian.AppendUint64(body, uint64(at))
	body = binary.BigEndian.AppendUint64(body, uint64(at)+uint64(len(data)))
	body = binary.BigEndian.AppendUint64(body, 0)
	frame := []byte{'d'}
	frame = binary.BigEndian.AppendUint32(frame, uint32(4+len(body)+len(data)))
	return append(append(frame, body...), data...)
}

func (s *fakeStream) send(p []byte) {
	if _, err := s.conn.Write(p); err != nil {
		s.t.Logf("fake server: %v", err)
	}
}

// wal sends data in messages as large as a server's.
func (s *fakeStream) wal(at wal.LSN, data []byte) {
	for len(data) > 0 {
		n := min(len(data), 128<<10)
		s.send(xlog(at, data[:n]))
		at, data = at+wal.LSN(n), data[n:]
	}
}

func (s *fakeStream) keepalive(at wal.LSN) {
	body := binary.BigEndian.AppendUint64([]byte{'k'}, uint64(at))
	body = append(binary.BigEndian.AppendUint64(body, 0), 1)
	s.b.Send(&pgproto3.CopyData{Data: body})
	s.b.Flush()
}

// status is one standby status update.
type status struct {
	write, flush, apply wal.LSN
	reply               bool
}

var errCopyDone = errors.New("the receiver sent CopyDone")

// status reads the receiver's next message.
func (s *fakeStream) status() (status, error) {
	if err := s.conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return status{}, err
	}
	m, err := s.b.Receive()
	if err != nil {
		return status{}, err
	}
	d, ok := m.(*pgproto3.CopyData)
	if !ok {
		return status{}, errCopyDone
	}
	if len(d.Data) != 34 || d.Data[0] != 'r' {
		return status{}, fmt.Errorf("status %x", d.Data)
	}
	at := func(i int) wal.LSN { return wal.LSN(binary.BigEndian.Uint64(d.Data[i:])) }
	st := status{write: at(1), flush: at(9), apply: at(17), reply: d.Data[33] == 1}
	if st.flush > st.write || st.apply != 0 {
		s.t.Errorf("impossible status %+v", st)
	}
	return st, nil
}

// until reads status messages until one satisfies done.
func (s *fakeStream) until(done func(status) bool) error {
	for {
		st, err := s.status()
		if err != nil || done(st) {
			return err
		}
	}
}

// flushed reads until the receiver has acknowledged lsn, exactly.
func (s *fakeStream) flushed(lsn wal.LSN) {
	if err := s.until(func(st status) bool { return st.flush == lsn }); err != nil {
		s.t.Errorf("waiting for flush %s: %v", lsn, err)
	}
}

// linger stays in the stream until the receiver leaves, and ends it properly.
func (s *fakeStream) linger() {
	if err := s.until(func(status) bool { return false }); errors.Is(err, errCopyDone) {
		s.b.Send(&pgproto3.CopyDone{})
		s.complete()
	}
}

// complete ends START_REPLICATION.
func (s *fakeStream) complete() {
	s.again = true
	s.b.Send(&pgproto3.CommandComplete{CommandTag: []byte("START_STREAMING")})
	s.b.Send(&pgproto3.CommandComplete{CommandTag: []byte("START_REPLICATION")})
	s.b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	s.b.Flush()
}

// switched ends the stream of a timeline that goes on as tli at fork.
func (s *fakeStream) switched(tli wal.Timeline, fork wal.LSN) {
	row(s.b, tli.String(), fork.String())
	s.b.Send(&pgproto3.CopyDone{})
	s.b.Flush()
	s.until(func(status) bool { return false }) // up to the receiver's CopyDone
	s.complete()
}

func (s *fakeStream) fail(code, message string) {
	s.again = true
	s.b.Send(&pgproto3.ErrorResponse{Severity: "ERROR", Code: code, Message: message})
	s.b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	s.b.Flush()
}
