// Package unpack reads files that may be compressed by gzip, lz4 or zstd. What
// a file is its first bytes tell, not its name: an archive_command may give
// compressed WAL any name it likes.
package unpack

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// maxWindow bounds the memory that a zstd file may ask for. It is what the
// zstd program accepts without being told to.
const maxWindow = 128 << 20

// Name is the name that a file had before it was compressed.
func Name(name string) string {
	for _, suffix := range []string{".gz", ".lz4", ".zst"} {
		if plain, ok := strings.CutSuffix(name, suffix); ok {
			return plain
		}
	}
	return name
}

// Reader gives the plain contents of a file.
type Reader struct {
	io.Reader
	// Compressed says whether the file was.
	Compressed bool

	file *os.File
	end  func()
}

// Open opens a file for reading its plain contents. Contents that are damaged
// or cut off are an error of Read, after what came before.
func Open(path string) (*Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	r, err := newReader(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

func newReader(f *os.File) (*Reader, error) {
	in := bufio.NewReaderSize(f, 128<<10)
	magic, err := in.Peek(4)
	if err != nil && err != io.EOF { //nolint:errorlint // a short file is a plain one
		return nil, err
	}
	r := &Reader{Reader: in, Compressed: true, file: f, end: func() {}}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1F, 0x8B}):
		r.Reader, err = gzip.NewReader(in)
	case bytes.Equal(magic, []byte{0x04, 0x22, 0x4D, 0x18}):
		r.Reader, err = lz4.NewReader(in), nil
	case isZstd(magic):
		var dec *zstd.Decoder
		dec, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err == nil {
			r.Reader, r.end = dec, dec.Close
		}
	default:
		r.Compressed, err = false, nil
	}
	return r, err
}

// isZstd knows ordinary and skippable frames (RFC 8878).
func isZstd(magic []byte) bool {
	return bytes.Equal(magic, []byte{0x28, 0xB5, 0x2F, 0xFD}) ||
		len(magic) == 4 && magic[0]&0xF0 == 0x50 && bytes.Equal(magic[1:], []byte{0x2A, 0x4D, 0x18})
}

// Close ends reading.
func (r *Reader) Close() error {
	r.end()
	return r.file.Close()
}
