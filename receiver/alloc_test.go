package receiver

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"math"
	"net"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// TestNoAllocationPerMessage: from the socket to the disk and back to the
// socket, on what a real server has sent. With TLS only what crypto/tls itself
// allocates for a record is left.
func TestNoAllocationPerMessage(t *testing.T) {
	id, frames := capture(t)
	const warm = 50
	for _, secure := range []bool{false, true} {
		client, server := connected(t, secure)
		s := replayStream(t, client, id, frames)
		one := func(frame []byte) {
			if _, err := server.Write(frame); err != nil {
				t.Fatal(err)
			}
			for done := s.in.wal.end(); s.in.wal.end() == done || s.in.left > 0; {
				if err := s.step(); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.syncAlone(); err != nil {
				t.Fatal(err)
			}
		}
		allocated := mallocs(one, frames, warm)
		if durable := wal.LSN(s.fb.durable.Load()); durable != s.next {
			t.Fatalf("durable up to %s of %s", durable, s.next)
		}
		theirs := 0.0
		if secure {
			buf, status := make([]byte, readSize), appendStatus(nil, 1, 1, time.Now(), false)
			theirs = mallocs(func(frame []byte) {
				if _, err := server.Write(frame); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(client, buf[:len(frame)]); err != nil {
					t.Fatal(err)
				}
				if _, err := client.Write(status); err != nil {
					t.Fatal(err)
				}
			}, frames, warm)
		}
		t.Logf("TLS %v: %.3f allocations for each of %d messages, crypto/tls's own %.3f", secure, allocated, len(frames)-warm, theirs)
		if most := map[bool]float64{false: 0.05, true: theirs + 0.5}[secure]; allocated > most { // a pool of crypto/tls may have been emptied
			t.Error("the stream allocates for each message")
		}
	}
}

// mallocs is how many allocations one makes for a frame, after some to warm up.
func mallocs(one func([]byte), frames [][]byte, warm int) float64 {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var before, after runtime.MemStats
	for i, frame := range frames {
		if i == warm {
			runtime.ReadMemStats(&before)
		}
		one(frame)
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / float64(len(frames)-warm)
}

// capture is what a server sends while clients commit.
func capture(t *testing.T) (segment.Identity, [][]byte) {
	c := testkit.Start(t, testkit.Config{})
	c.Psql(t, "CREATE TABLE t (i int, v text)")
	ctx := context.Background()
	conn, err := pg.ConnectReplication(ctx, pg.Options{Conninfo: c.Conninfo()})
	if err != nil {
		t.Fatal(err)
	}
	id, sys, err := conn.Identity(ctx)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := conn.Hijack()
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Conn.Close()
	start := id.SegmentSize.Floor(sys.FlushLSN)
	if _, err := raw.Conn.Write(appendQuery(nil, "START_REPLICATION PHYSICAL "+start.String()+" TIMELINE 1")); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	defer func() { <-done }()
	go func() {
		defer close(done)
		for i := range 260 {
			c.Query("INSERT INTO t SELECT i, repeat('v', i) FROM generate_series(1, " + string(rune('1'+i%9)) + ") i")
		}
	}()
	var frames [][]byte
	for len(frames) < 250 {
		head := make([]byte, 5)
		if _, err := io.ReadFull(raw.Conn, head); err != nil {
			t.Fatal(err)
		}
		frame := append(head, make([]byte, binary.BigEndian.Uint32(head[1:])-4)...)
		if _, err := io.ReadFull(raw.Conn, frame[5:]); err != nil {
			t.Fatal(err)
		}
		if bytes.HasPrefix(frame[5:], []byte("w")) {
			frames = append(frames, frame)
		}
	}
	return id, frames
}

// connected is both ends of a connection that is left to the receiver. The
// server's takes statuses.
func connected(t *testing.T, secure bool) (client, server net.Conn) {
	ln, err := net.Listen("unix", filepath.Join(testkit.Dir(t), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if client, err = net.Dial("unix", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	if secure {
		server = tls.Server(server, &tls.Config{Certificates: []tls.Certificate{certificate(t)}})
		client = tls.Client(client, &tls.Config{InsecureSkipVerify: true})
		done := make(chan error)
		go func() { done <- server.(*tls.Conn).Handshake() }()
		if err := client.(*tls.Conn).Handshake(); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	ended, statuses := make(chan struct{}), server // encrypted ones need not be read
	if secure {
		statuses = server.(*tls.Conn).NetConn()
	}
	go func() {
		defer close(ended)
		buf := make([]byte, 4096)
		for {
			if _, err := statuses.Read(buf); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { client.Close(); server.Close(); <-ended })
	return client, server
}

// replayStream is a stream in its middle, on a real spool.
func replayStream(t *testing.T, client net.Conn, id segment.Identity, frames [][]byte) *stream {
	spool, err := segment.OpenSpool(segment.SpoolConfig{Dir: spoolDir(t), Identity: id, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { spool.Close() })
	w, err := newWire(client, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	first := wal.LSN(binary.BigEndian.Uint64(frames[0][6:]))
	s := &stream{
		conn: w, in: newFrameReader(w), fb: &feedback{conn: w, now: time.Now, open: true}, sink: spool,
		board: newBoard(time.Now), log: zerolog.Nop(), timeline: 1, next: first, portion: wal.LSN(id.SegmentSize) / 2,
		hasRoom: func(wal.LSN) (wal.LSN, error) { return math.MaxUint64, nil },
		dirty:   make(chan struct{}, 1), chores: make(chan struct{}, 1),
	}
	s.in.wal.start = first
	s.turn.Lock()
	return s
}
