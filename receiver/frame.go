package receiver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/walstream/walstream/wal"
)

const (
	// readSize is how much one read takes at most: little enough to stay in
	// the processor's cache until it is written to the disk.
	readSize = 256 << 10
	// maxMessage is far above what a walsender sends (128 KiB of WAL, see
	// MAX_SEND_SIZE).
	maxMessage = 1 << 20
	// joinSize is how much WAL in a message is moved in memory to be written
	// together with what precedes it.
	joinSize = 16 << 10
	// walHeader is what precedes the WAL of a message: 'd', a length, 'w', two
	// positions and the server's clock.
	walHeader = 5 + 25
)

// walPart is what frameReader.next returns for WAL. It is no message type of
// PostgreSQL's, and refused as one.
const walPart = 0

// walData is WAL from start on, and how far the server could send when it sent
// that.
type walData struct {
	start     wal.LSN
	serverEnd wal.LSN
	data      []byte
}

func (d walData) end() wal.LSN { return d.start + wal.LSN(len(d.data)) }

// frameReader cuts the server's byte stream into protocol messages, in place:
// what is handed out is valid until the next call.
type frameReader struct {
	src  io.Reader
	buf  []byte
	r, w int // buf[r:w] was read and not handed out yet

	wal  walData // what was handed out of the last XLogData
	left int     // bytes of its WAL that were not
}

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{src: r, buf: make([]byte, readSize)}
}

// next waits for a message. The WAL of XLogData is handed out as it comes, as
// wal: a large one in several parts, several small ones that continue each
// other as one. io.EOF means that the stream ended between two messages,
// io.ErrUnexpectedEOF within one.
func (f *frameReader) next() (kind byte, body []byte, err error) {
	if f.left > 0 {
		return walPart, nil, f.part()
	}
	if err := f.need(5); err != nil {
		return 0, nil, err
	}
	kind = f.buf[f.r]
	length := int(binary.BigEndian.Uint32(f.buf[f.r+1:]))
	if kind == walPart || length < 4 || length > maxMessage {
		return 0, nil, fmt.Errorf("protocol message %q of %d bytes: not what a walsender sends", kind, length)
	}
	if err := f.need(min(1+length, 6)); err != nil {
		return 0, nil, err
	}
	if f.atWAL() {
		if 1+length < walHeader {
			return 0, nil, fmt.Errorf("XLogData of %d bytes: too short", length-4)
		}
		if err := f.need(walHeader); err != nil {
			return 0, nil, err
		}
		f.wal, f.left = parseHeader(f.buf[f.r:])
		f.r += walHeader
		return walPart, nil, f.part()
	}
	if length >= readSize {
		return 0, nil, fmt.Errorf("protocol message %q of %d bytes: not what a walsender sends", kind, length)
	}
	if err := f.need(1 + length); err != nil {
		return 0, nil, err
	}
	body = f.buf[f.r+5 : f.r+1+length]
	f.r += 1 + length
	return kind, body, nil
}

// need waits for n bytes, which must fit in the buffer.
func (f *frameReader) need(n int) error {
	if f.w-f.r >= n {
		return nil
	}
	f.w, f.r = copy(f.buf, f.buf[f.r:f.w]), 0 // part of a header, most often
	for f.w < n {
		m, err := f.src.Read(f.buf[f.w:])
		f.w += m
		if f.w >= n {
			return nil
		}
		if errors.Is(err, io.EOF) && (f.w > 0 || f.left > 0) {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// atWAL says whether the next message, of which 6 bytes are there unless it is
// shorter, is XLogData.
func (f *frameReader) atWAL() bool {
	return f.w-f.r >= 6 && f.buf[f.r] == 'd' && f.buf[f.r+5] == 'w' && binary.BigEndian.Uint32(f.buf[f.r+1:]) > 4
}

// parseHeader reads what precedes the WAL of a message, and how much it is.
func parseHeader(b []byte) (d walData, n int) {
	d.start = wal.LSN(binary.BigEndian.Uint64(b[6:]))
	d.serverEnd = wal.LSN(binary.BigEndian.Uint64(b[14:]))
	return d, 1 + int(binary.BigEndian.Uint32(b[1:])) - walHeader
}

// part makes wal what is there of the present message.
func (f *frameReader) part() error {
	f.wal.start, f.wal.data = f.wal.end(), nil
	if f.left == 0 {
		return nil
	}
	if err := f.need(1); err != nil {
		return err
	}
	n := min(f.left, f.w-f.r)
	f.wal.data = f.buf[f.r : f.r+n]
	f.r += n
	f.left -= n
	for end := f.r; f.left == 0 && f.pending() && f.atWAL(); {
		d, n := parseHeader(f.buf[f.r:])
		from := f.r + walHeader
		if d.start != f.wal.end() || n < 0 || n > joinSize || from+n > f.w {
			break
		}
		end += copy(f.buf[end:], f.buf[from:from+n])
		f.wal.data = f.wal.data[:len(f.wal.data)+n]
		f.wal.serverEnd = d.serverEnd
		f.r = from + n
	}
	return nil
}

// pending says that next would return something without reading.
func (f *frameReader) pending() bool {
	have := f.w - f.r
	switch {
	case f.left > 0:
		return have > 0
	case f.atWAL():
		return have >= walHeader
	}
	return have >= 5 && have > int(binary.BigEndian.Uint32(f.buf[f.r+1:]))
}

// parseKeepalive reads a CopyData body that begins with 'k': the server's
// position, and whether it wants an answer at once.
func parseKeepalive(body []byte) (serverEnd wal.LSN, reply bool, err error) {
	if len(body) != 18 || body[0] != 'k' {
		return 0, false, fmt.Errorf("keepalive of %d bytes: want 18", len(body))
	}
	return wal.LSN(binary.BigEndian.Uint64(body[1:])), body[17] != 0, nil
}

// copyDone is the CopyDone message, the same in both directions.
const copyDone = "c\x00\x00\x00\x04"

// appendQuery appends a Query message.
func appendQuery(b []byte, command string) []byte {
	b = append(b, 'Q')
	b = binary.BigEndian.AppendUint32(b, uint32(4+len(command)+1))
	return append(append(b, command...), 0)
}

// pgEpoch is the zero of PostgreSQL's timestamps in Unix microseconds.
const pgEpoch = 946684800 * 1e6

// appendStatus appends a standby status update in its CopyData frame. The
// apply position is always 0, "unknown": nothing is replayed here, and a
// server with synchronous_commit = remote_apply must not be told otherwise.
func appendStatus(b []byte, write, flush wal.LSN, now time.Time, reply bool) []byte {
	b = append(b, 'd')
	b = binary.BigEndian.AppendUint32(b, 4+34)
	b = append(b, 'r')
	b = binary.BigEndian.AppendUint64(b, uint64(write))
	b = binary.BigEndian.AppendUint64(b, uint64(flush))
	b = binary.BigEndian.AppendUint64(b, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(now.UnixMicro()-pgEpoch))
	if reply {
		return append(b, 1)
	}
	return append(b, 0)
}
