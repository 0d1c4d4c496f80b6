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
		in := xlog(0x16B374D848, testWAL(n))
		f := newFrameReader(bytes.NewReader(in))
		if kind, _, err := f.next(); kind != walPart || err != nil {
			t.Fatal(kind, err)
		}
		want, err := pglogrepl.ParseXLogData(in[6:])
		if err != nil {
			t.Fatal(err)
		}
		if got := f.wal; got.start != wal.LSN(want.WALStart) || got.serverEnd != wal.LSN(want.ServerWALEnd) || !bytes.Equal(got.data, want.WALData) {
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
		"half a start":  {xlog(mib, testWAL(9))[:20], io.ErrUnexpectedEOF},
	} {
		if _, _, err := newFrameReader(bytes.NewReader(c.in)).next(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	for _, in := range [][]byte{
		{'d', 0, 0, 0, 3}, {'H', 'T', 'T', 'P', '/'}, {'d', 0, 0, 0, 5, 'w', 0}, {'E', 0, 7, 0, 0, 'S'}, {walPart, 0, 0, 0, 4},
	} {
		if _, _, err := newFrameReader(bytes.NewReader(in)).next(); err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%q: %v, want a refusal", in, err)
		}
	}
	f := newFrameReader(bytes.NewReader(xlog(mib, testWAL(99))[:100]))
	if _, _, err := f.next(); err != nil || len(f.wal.data) != 70 {
		t.Errorf("%d bytes of a message that is cut, %v", len(f.wal.data), err)
	}
	if _, _, err := f.next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("behind the cut: %v", err)
	}
}

// TestJoinedMessages: what has come together and continues is handed out
// together, in the memory it came in, and nothing is pending then.
func TestJoinedMessages(t *testing.T) {
	data := testWAL(3 * joinSize)
	var in []byte
	for _, cut := range [][2]int{{0, 10}, {10, 11}, {11, 11}, {11, 5000}, {5000, 5000 + joinSize}} {
		in = append(in, xlog(mib+wal.LSN(cut[0]), data[cut[0]:cut[1]])...)
	}
	in = append(in, xlog(mib+5000+joinSize, data[5000+joinSize:])...) // too much to be moved
	f := newFrameReader(bytes.NewReader(in))
	for i, want := range [][]byte{data[:5000+joinSize], data[5000+joinSize:]} {
		if _, _, err := f.next(); err != nil || !bytes.Equal(f.wal.data, want) {
			t.Fatalf("part %d: %d bytes, want %d, %v", i, len(f.wal.data), len(want), err)
		}
		if f.wal.end() != f.wal.serverEnd || f.pending() != (i == 0) {
			t.Errorf("part %d ends at %s, the server's end was %s, pending %v", i, f.wal.end(), f.wal.serverEnd, f.pending())
		}
	}
}

// plainFrames is another way to read the same: WAL that continues is joined,
// all other messages are left as they are.
func plainFrames(in []byte) (all [][]byte) {
	var from, to uint64
	for len(in) >= 5 {
		length := binary.BigEndian.Uint32(in[1:])
		whole := 1 + int(length)
		isWAL := len(in) >= 6 && in[0] == 'd' && in[5] == 'w' && length > 4
		if in[0] == 0 || length < 4 || length > maxMessage || isWAL && whole < 30 || !isWAL && (length >= readSize || len(in) < whole) || len(in) < 6 && length > 4 || isWAL && len(in) < min(whole, 31) {
			return all
		}
		if !isWAL {
			all, to = append(all, in[:whole]), from-1
			in = in[whole:]
			continue
		}
		at, end := binary.BigEndian.Uint64(in[6:]), min(whole, len(in))
		if last := len(all) - 1; last >= 0 && at == to && all[last][0] == 'w' {
			all[last] = append(all[last], in[30:end]...)
		} else {
			all = append(all, append([]byte{'w'}, in[30:end]...))
			from = at
		}
		to = at + uint64(end-30)
		in = in[end:]
	}
	return all
}

// FuzzFrames: however the bytes arrive, the messages are the same, and nothing
// panics.
func FuzzFrames(f *testing.F) {
	f.Add(append(xlog(mib, testWAL(50)), copyDone...))
	f.Add(append(xlog(mib, testWAL(50)), xlog(mib+50, testWAL(joinSize+1))...))
	f.Add(append(xlog(mib, testWAL(50)), xlog(mib+51, testWAL(9))...))
	f.Add([]byte{'d', 0, 0, 0, 5, 'k'})
	f.Add([]byte{'Z', 0, 0, 0, 5, 'I', 'd', 0xFF, 0, 0, 0})
	f.Add(append(xlog(mib, testWAL(50)), 0, 0, 0, 0, 4))
	f.Add(xlog(mib, testWAL(50))[:walHeader])
	f.Fuzz(func(t *testing.T, in []byte) {
		want := plainFrames(bytes.Clone(in))
		for name, src := range map[string]io.Reader{
			"whole": bytes.NewReader(in), "bytes": iotest.OneByteReader(bytes.NewReader(in)), "halves": iotest.HalfReader(bytes.NewReader(in)),
		} {
			if diff := cmp.Diff(want, messages(src)); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
		}
	})
}

// messages reads all there is in the form of plainFrames.
func messages(r io.Reader) (all [][]byte) {
	f := newFrameReader(r)
	var end wal.LSN
	for {
		kind, body, err := f.next()
		if err != nil {
			return all
		}
		last := len(all) - 1
		switch {
		case kind != walPart:
			head := binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body)))
			all = append(all, append(head, body...))
			parseKeepalive(body)
		case last >= 0 && all[last][0] == 'w' && f.wal.start == end:
			all[last] = append(all[last], f.wal.data...)
		default:
			all = append(all, append([]byte{'w'}, f.wal.data...))
		}
		if kind == walPart {
			end = f.wal.end()
		}
	}
}
