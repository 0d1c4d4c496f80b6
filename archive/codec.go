package archive

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/walstream/walstream/internal/hint"
)

// The object of a segment or tail is a sequence of zstd frames (RFC 8878), of
// which `zstd -d` skips the first and the last. See FORMAT.md.
const (
	headMagic = 0x184D2A57 // of the skippable frame with the header
	endMagic  = 0x184D2A5E // of the skippable frame with the CRC
	headSize  = 20         // bytes before the JSON
	endSize   = 12         // the whole end frame
	// signature is the format's name and, as its last byte, its version.
	signature = "WALSTRM\x01"
	// maxHeader bounds the header frame. A header grows only with restore
	// points, of which a segment of 1 GiB can hold several millions.
	maxHeader = 1 << 30
	// window bounds the memory of both sides.
	window = 2 << 20
	// maxWindow is what FORMAT.md allows.
	maxWindow = 8 << 20
	chunk     = 128 << 10
)

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// encoders and decoders keep what is expensive to make.
type (
	encoders [zstd.SpeedBestCompression + 1]sync.Pool // by level
	decoders struct{ pool sync.Pool }
)

func (e *encoders) get(level zstd.EncoderLevel, w io.Writer) (*zstd.Encoder, error) {
	if level < 0 || int(level) >= len(e) {
		return nil, fmt.Errorf("%d is no compression level", level)
	}
	if enc, ok := e[level].Get().(*zstd.Encoder); ok {
		enc.Reset(w)
		return enc, nil
	}
	// It keeps two windows; with WithLowerEncoderMem one, which it moves in
	// memory for each block of 128 KiB.
	return zstd.NewWriter(w, zstd.WithEncoderLevel(max(level, zstd.SpeedFastest)),
		zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(window), zstd.WithEncoderCRC(true))
}

func (e *encoders) put(level zstd.EncoderLevel, enc *zstd.Encoder) {
	enc.Reset(nil)
	e[level].Put(enc)
}

// get gives a decoder of r. It does not look at the frame's checksum of the plain
// bytes: their SHA-256 is compared, and a CRC of the stored ones.
func (d *decoders) get(r io.Reader) (*zstd.Decoder, error) {
	if dec, ok := d.pool.Get().(*zstd.Decoder); ok {
		return dec, dec.Reset(r)
	}
	return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true), zstd.IgnoreChecksum(true))
}

func (d *decoders) put(dec *zstd.Decoder) {
	if dec.Reset(nil) == nil {
		d.pool.Put(dec)
	}
}

// marshalHeader is the header frame of h.
func marshalHeader(h *Header) ([]byte, error) {
	body, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	if len(body) > maxHeader-headSize {
		return nil, fmt.Errorf("header of %d bytes: at most %d are possible", len(body), maxHeader-headSize)
	}
	b := binary.LittleEndian.AppendUint32(nil, headMagic)
	b = binary.LittleEndian.AppendUint32(b, uint32(headSize-8+len(body)))
	b = append(b, signature...)
	b = binary.LittleEndian.AppendUint32(b, headerCRC(b, body))
	return append(b, body...), nil
}

func headerCRC(head, body []byte) uint32 {
	return crc32.Update(crc32.Checksum(head[:headSize-4], castagnoli()), castagnoli(), body)
}

// headerSize is the size of the whole header frame of object name, of which
// head is the beginning.
func headerSize(name string, head []byte) (int64, error) {
	bad := func(what, have, want string) (int64, error) {
		return 0, &CorruptError{Object: name, What: what, Have: have, Want: want}
	}
	if len(head) < headSize {
		return bad("size", fmt.Sprintf("%d bytes", len(head)), "that of a segment object")
	}
	size := 8 + int64(binary.LittleEndian.Uint32(head[4:]))
	version := int(head[15])
	switch {
	case binary.LittleEndian.Uint32(head) != headMagic || string(head[8:15]) != signature[:7]:
		return bad("beginning", fmt.Sprintf("%X", head[:16]), "that of a segment object")
	case version > FormatVersion:
		return 0, hint.Errorf("use the walstream release that wrote this archive, or a newer one",
			"%s: its format version is %d, this program knows versions up to %d", name, version, FormatVersion)
	case version < 1 || size < headSize || size > maxHeader:
		return bad("header", fmt.Sprintf("of version %d and %d bytes", version, size), "one of this format")
	}
	return size, nil
}

// parseHeader reads a whole header frame.
func parseHeader(name string, frame []byte) (*Header, error) {
	head, body := frame[:headSize], frame[headSize:]
	have, want := headerCRC(head, body), binary.LittleEndian.Uint32(head[16:])
	if have != want {
		return nil, &CorruptError{Object: name, What: "header CRC-32C", Have: fmt.Sprintf("%08X", have), Want: fmt.Sprintf("%08X", want)}
	}
	var h Header
	if err := json.Unmarshal(body, &h); err != nil {
		return nil, &CorruptError{Object: name, What: "header JSON", Have: err.Error(), Want: "a segment header"}
	}
	return &h, nil
}

// encoder is an object as a stream: what is read from it is made as it is
// read, in one goroutine and with bounded memory.
type encoder struct {
	h     *Header
	src   io.Reader // the plain bytes
	enc   *zstd.Encoder
	out   bytes.Buffer // made and not read yet
	crc   uint32       // of all that went through out
	sum   hash.Hash    // of the plain bytes, SHA-256 or CRC-32C
	want  string       // what that has to be, in hexadecimal
	n     int64        // plain bytes so far
	ended bool
}

// newEncoder makes the object of the plain bytes src, which have to be those
// that h describes.
func (e *encoders) newEncoder(level zstd.EncoderLevel, h *Header, src io.Reader) (*encoder, error) {
	frame, err := marshalHeader(h)
	if err != nil {
		return nil, err
	}
	r := &encoder{h: h, src: src, sum: sha256.New(), want: h.SHA256}
	if h.CRC32C != nil {
		r.sum, r.want = crc32.New(castagnoli()), fmt.Sprintf("%08x", *h.CRC32C)
	}
	r.emit(frame)
	r.enc, err = e.get(level, writerFunc(r.emit))
	return r, err
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}

func (r *encoder) emit(p []byte) {
	r.crc = crc32.Update(r.crc, castagnoli(), p)
	r.out.Write(p)
}

// Read implements [io.Reader].
func (r *encoder) Read(p []byte) (int, error) {
	for r.out.Len() == 0 {
		if r.ended {
			return 0, io.EOF
		}
		if err := r.more(); err != nil {
			return 0, err
		}
	}
	return r.out.Read(p)
}

func (r *encoder) more() error {
	n, err := r.enc.ReadFrom(io.LimitReader(io.TeeReader(r.src, r.sum), chunk)) // straight into its block
	r.n += n
	if err != nil || n == chunk {
		return err
	}
	if sum := hex.EncodeToString(r.sum.Sum(nil)); sum != r.want || r.n != r.h.To-r.h.From {
		return fmt.Errorf("the %d bytes read have digest %s, but had %s when they were verified", r.n, sum, r.want)
	}
	if err := r.enc.Close(); err != nil {
		return err
	}
	end := binary.LittleEndian.AppendUint32(nil, endMagic)
	end = binary.LittleEndian.AppendUint32(end, endSize-8)
	r.emit(binary.LittleEndian.AppendUint32(end, r.crc))
	r.ended = true
	return nil
}
