package receiver

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/walstream/walstream/wal"
)

// readSize holds several of the server's largest messages (128 KiB of WAL, see
// MAX_SEND_SIZE), so that one read takes in many small ones.
const readSize = 1 << 20

// frameReader cuts the server's byte stream into protocol messages, in place:
// a message is valid until the next call.
type frameReader struct {
	buf  *bufio.Reader
	last int // length of the message that was handed out
}

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{buf: bufio.NewReaderSize(r, readSize)}
}

// next waits for a whole message. io.EOF means that the stream ended between
// two, io.ErrUnexpectedEOF within one.
func (f *frameReader) next() (kind byte, body []byte, err error) {
	if _, err := f.buf.Discard(f.last); err != nil {
		return 0, nil, err
	}
	f.last = 0
	head, err := f.buf.Peek(5)
	if err != nil {
		return 0, nil, cut(err, len(head))
	}
	length := int(binary.BigEndian.Uint32(head[1:]))
	if length < 4 || length > readSize-1 {
		return 0, nil, fmt.Errorf("protocol message %q of %d bytes: not what a walsender sends", head[0], length)
	}
	whole, err := f.buf.Peek(1 + length)
	if err != nil {
		return 0, nil, cut(err, len(whole))
	}
	f.last = len(whole)
	return whole[0], whole[5:], nil
}

func cut(err error, have int) error {
	if errors.Is(err, io.EOF) && have > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}

// walData is an XLogData message: WAL from start on, and how far the server
// could send at that moment.
type walData struct {
	start     wal.LSN
	serverEnd wal.LSN
	data      []byte
}

// parseWALData reads a CopyData body that begins with 'w'.
func parseWALData(body []byte) (walData, error) {
	if len(body) < 25 || body[0] != 'w' {
		return walData{}, fmt.Errorf("XLogData of %d bytes: too short", len(body))
	}
	return walData{
		start:     wal.LSN(binary.BigEndian.Uint64(body[1:])),
		serverEnd: wal.LSN(binary.BigEndian.Uint64(body[9:])),
		data:      body[25:], // behind the server's clock
	}, nil
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
