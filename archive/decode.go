package archive

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// object reads the stored bytes of a segment object: first its header, then
// what lies between that and the end frame.
type object struct {
	name  string
	r     *bufio.Reader
	frame []byte // with the header, once that was read
	crc   uint32
	err   error // of r, other than its end: the bytes are unknown, not damaged
}

func newObject(name string, r io.Reader) *object {
	return &object{name: name, r: bufio.NewReaderSize(r, chunk)}
}

func (o *object) corrupt(what, have, want string) error {
	return &CorruptError{Object: o.name, What: what, Have: have, Want: want}
}

// broken says whether err is more than the end of a stream. A wrapped io.EOF is:
// it comes from a connection that ended too early.
func broken(err error) bool {
	return err != nil && err != io.EOF //nolint:errorlint // see above
}

func (o *object) unknown(err error) error {
	if errors.As(err, new(*CorruptError)) {
		return err // found while decrypting
	}
	return fmt.Errorf("get %s: %w", o.name, err)
}

// header reads the header frame.
func (o *object) header() (*Header, error) {
	head, err := o.r.Peek(headSize)
	if broken(err) {
		return nil, o.unknown(err)
	}
	size, err := headerSize(o.name, head)
	if err != nil {
		return nil, err
	}
	// No allocation by a length that may be damaged.
	frame, err := io.ReadAll(io.LimitReader(o.r, size))
	if err != nil {
		return nil, o.unknown(err)
	}
	if int64(len(frame)) < size {
		return nil, o.corrupt("size", fmt.Sprintf("%d bytes", len(frame)), "at least the header")
	}
	o.frame, o.crc = frame, crc32.Checksum(frame, castagnoli())
	return parseHeader(o.name, frame)
}

// Read implements [io.Reader] for the zstd frames with the contents.
func (o *object) Read(p []byte) (int, error) {
	b, err := o.r.Peek(min(len(p)+endSize, chunk))
	if broken(err) {
		o.err = err
		return 0, err
	}
	if len(b) <= endSize {
		return 0, io.EOF
	}
	n := copy(p, b[:len(b)-endSize])
	o.crc = crc32.Update(o.crc, castagnoli(), p[:n])
	_, err = o.r.Discard(n)
	return n, err
}

// end checks the end frame, once Read has come to its end.
func (o *object) end() error {
	b, err := io.ReadAll(o.r)
	if err != nil {
		return o.unknown(err)
	}
	want := binary.LittleEndian.AppendUint32(nil, endMagic)
	want = binary.LittleEndian.AppendUint32(want, endSize-8)
	want = binary.LittleEndian.AppendUint32(want, o.crc)
	if string(b) != string(want) {
		return o.corrupt("end frame", fmt.Sprintf("%X", b), fmt.Sprintf("%X", want))
	}
	return nil
}

// decode writes the plain bytes to w and verifies them and the object as a
// whole. h is the object's header. An error of w is returned as it is.
func (d *decoders) decode(o *object, h *Header, w io.Writer) error {
	dec, err := d.get(o)
	if err != nil {
		return o.zstdError(err)
	}
	defer d.put(dec)
	sum, want := sha256.New(), h.To-h.From
	out := &keepError{w: w}
	n, err := io.CopyBuffer(io.MultiWriter(sum, out), io.LimitReader(dec, want), make([]byte, chunk))
	if out.err != nil {
		return out.err
	}
	if broken(err) {
		return o.zstdError(err)
	}
	more, err := io.ReadFull(dec, make([]byte, 1))
	if broken(err) {
		return o.zstdError(err)
	}
	if n += int64(more); n != want {
		return o.corrupt("plain size", fmt.Sprintf("%d bytes or more", n), fmt.Sprintf("%d bytes", want))
	}
	if have := hex.EncodeToString(sum.Sum(nil)); have != h.SHA256 {
		return o.corrupt("sha256", have, h.SHA256)
	}
	return o.end()
}

// zstdError tells a failure to read from damage.
func (o *object) zstdError(err error) error {
	if o.err != nil {
		return o.unknown(o.err)
	}
	return o.corrupt("zstd stream", err.Error(), "what was stored")
}

// keepError remembers that writing failed, which is not the object's fault.
type keepError struct {
	w   io.Writer
	err error
}

func (k *keepError) Write(p []byte) (int, error) {
	n, err := k.w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		k.err = errors.Join(k.err, err)
	}
	return n, err
}
