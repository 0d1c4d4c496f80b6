package backup

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"strings"
)

const tarBlock = 512

// tarSink takes a tar stream apart. Its methods are called in the order of
// the stream; slices are valid only during the call.
type tarSink interface {
	// entry begins a file or directory; raw is its header block, and the
	// name in hdr the clean path, without "./" and a directory's last slash.
	entry(hdr *tar.Header, raw []byte) error
	// content is a piece of the file that began last.
	content(p []byte) error
	// padding is what follows the file up to the next block.
	padding(p []byte) error
}

// tarScanner cuts a tar stream that arrives in pieces of any size at its
// entries. The bytes go to the sink unchanged, so names and modes cannot get
// lost on the way. It accepts what PostgreSQL writes: one header block for
// each plain file or directory, and zeros at the end.
type tarScanner struct {
	sink    tarSink
	header  []byte // of the next entry, as far as it has come
	content int64  // bytes of the file still to come
	padding int64
	ended   bool // the zeros have begun
}

// write takes the next piece of the stream.
func (s *tarScanner) write(p []byte) error {
	for len(p) > 0 {
		var err error
		switch {
		case s.content > 0:
			n := min(s.content, int64(len(p)))
			err = s.sink.content(p[:n])
			s.content -= n
			p = p[n:]
		case s.padding > 0:
			n := min(s.padding, int64(len(p)))
			err = s.sink.padding(p[:n])
			s.padding -= n
			p = p[n:]
		default:
			n := min(tarBlock-len(s.header), len(p))
			s.header = append(s.header, p[:n]...)
			p = p[n:]
			if len(s.header) == tarBlock {
				err = s.parse()
				s.header = s.header[:0]
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// close checks that the stream ended between two entries.
func (s *tarScanner) close() error {
	if s.content > 0 || s.padding > 0 || len(s.header) > 0 {
		return errors.New("the tar stream is cut off")
	}
	return nil
}

func (s *tarScanner) parse() error {
	if len(bytes.Trim(s.header, "\x00")) == 0 {
		s.ended = true
		return nil
	}
	if s.ended {
		return errors.New("the tar stream goes on behind its end")
	}
	// A single block holds all of a header, unless it is one of the
	// extensions for long names, which then fail here.
	hdr, err := tar.NewReader(bytes.NewReader(s.header)).Next()
	if err != nil {
		return fmt.Errorf("tar header %q: %w", tarEntryName(s.header), err)
	}
	hdr.Name = strings.TrimPrefix(strings.TrimSuffix(hdr.Name, "/"), "./")
	switch {
	case !localPath(hdr.Name):
		return fmt.Errorf("tar entry %q leads out of the data directory", hdr.Name)
	case hdr.Typeflag == tar.TypeReg:
		s.content = hdr.Size
		s.padding = -hdr.Size & (tarBlock - 1)
	case hdr.Typeflag != tar.TypeDir:
		return fmt.Errorf("tar entry %q is of type %q, neither file nor directory", hdr.Name, hdr.Typeflag)
	}
	return s.sink.entry(hdr, s.header)
}

// tarEntryName is the name field of a header block, for messages.
func tarEntryName(block []byte) []byte {
	name, _, _ := bytes.Cut(block[:100], []byte{0})
	return name
}
