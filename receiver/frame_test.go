package receiver

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walstream/walstream/wal"
)

func TestStatusBytes(t *testing.T) {
	now := time.Date(2000, 1, 1, 0, 0, 1, 500_000, time.UTC) // 1.0005 s after PostgreSQL's epoch
	got := appendStatus(nil, 0x1122334455667788, 0xF0, now, true)
	want := []byte{
		'd', 0, 0, 0, 38, 'r',
		0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88,
		0, 0, 0, 0, 0, 0, 0, 0xF0,
		0, 0, 0, 0, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0x0F, 0x44, 0x34,
		1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := appendStatus(nil, 1, 0, now, false); got[len(got)-1] != 0 {
		t.Error("asks for a reply unasked")
	}
}

func TestQueryBytes(t *testing.T) {
	want, err := (&pgproto3.Query{String: "IDENTIFY_SYSTEM"}).Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, appendQuery(nil, "IDENTIFY_SYSTEM")); diff != "" {
		t.Error(diff)
	}
}

// TestMessagesAgainstPglogrepl: our parsers read what another implementation
// reads.
func TestMessagesAgainstPglogrepl(t *testing.T) {
	for _, n := range []int{0, 1, 8192} {
		body := xlog(0x16B374D848, testWAL(n))[5:]
		got, err := parseWALData(body)
		if err != nil {
			t.Fatal(err)
		}
		want, err := pglogrepl.ParseXLogData(body[1:])
		if err != nil {
			t.Fatal(err)
		}
		if got.start != wal.LSN(want.WALStart) || got.serverEnd != wal.LSN(want.ServerWALEnd) || !bytes.Equal(got.data, want.WALData) {
			t.Errorf("%d bytes: %v to %v, pglogrepl says %v to %v", n, got.start, got.serverEnd, want.WALStart, want.ServerWALEnd)
		}
	}
	keepalive := append(binary.BigEndian.AppendUint64([]byte{'k'}, 77), 0, 0, 0, 0, 0, 0, 0, 9, 1)
	end, reply, err := parseKeepalive(keepalive)
	want, werr := pglogrepl.ParsePrimaryKeepaliveMessage(keepalive[1:])
	if err != nil || werr != nil {
		t.Fatal(err, werr)
	}
	if end != wal.LSN(want.ServerWALEnd) || reply != want.ReplyRequested {
		t.Errorf("keepalive %v %v, pglogrepl says %+v", end, reply, want)
	}
}

func TestBrokenMessages(t *testing.T) {
	if _, err := parseWALData(make([]byte, 24)); err == nil {
		t.Error("a short XLogData was taken")
	}
	for _, n := range []int{1, 17, 19} {
		if _, _, err := parseKeepalive(append([]byte{'k'}, make([]byte, n-1)...)); err == nil {
			t.Errorf("a keepalive of %d bytes was taken", n)
		}
	}
	for name, c := range map[string]struct {
		in   []byte
		want error
	}{
		"nothing":       {nil, io.EOF},
		"half a header": {[]byte{'d', 0}, io.ErrUnexpectedEOF},
		"half a body":   {[]byte{'d', 0, 0, 0, 9, 1, 2}, io.ErrUnexpectedEOF},
	} {
		if _, _, err := newFrameReader(bytes.NewReader(c.in)).next(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	for _, in := range [][]byte{{'d', 0, 0, 0, 3}, {'H', 'T', 'T', 'P', '/'}} {
		if _, _, err := newFrameReader(bytes.NewReader(in)).next(); err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%q: %v, want a refusal of the length", in, err)
		}
	}
}

// TestReadingDoesNotAllocate: not per message.
func TestReadingDoesNotAllocate(t *testing.T) {
	in := bytes.Repeat(xlog(0, testWAL(1000)), 2000)
	src := bytes.NewReader(in)
	f := newFrameReader(src)
	n := testing.AllocsPerRun(1000, func() {
		_, body, err := f.next()
		if err == nil {
			_, err = parseWALData(body)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	if n > 0 {
		t.Errorf("%v allocations per message", n)
	}
}

// FuzzFrames: however the bytes arrive, the messages are the same as the
// driver's, and nothing panics.
func FuzzFrames(f *testing.F) {
	f.Add(append(xlog(mib, testWAL(50)), copyDone...))
	f.Add([]byte{'d', 0, 0, 0, 5, 'k'})
	f.Add([]byte{'Z', 0, 0, 0, 5, 'I', 'd', 0xFF, 0, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		whole := messages(bytes.NewReader(in))
		if diff := cmp.Diff(whole, messages(iotest.OneByteReader(bytes.NewReader(in)))); diff != "" {
			t.Error(diff)
		}
		if joined := bytes.Join(whole, nil); !bytes.HasPrefix(in, joined) {
			t.Errorf("messages %x of %x", joined, in)
		}
	})
}

// messages cuts all there is, and tries every parser on it.
func messages(r io.Reader) (all [][]byte) {
	f := newFrameReader(r)
	for {
		kind, body, err := f.next()
		if err != nil {
			return all
		}
		m, werr := parseWALData(body)
		_, _, kerr := parseKeepalive(body)
		if werr == nil && (kerr == nil || len(m.data) != len(body)-25) {
			panic("one message is two")
		}
		head := binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body)))
		all = append(all, append(head, body...))
	}
}
