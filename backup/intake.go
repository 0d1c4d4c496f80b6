package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"github.com/walstream/walstream/internal/controlfile"
	"github.com/walstream/walstream/internal/hint"
)

const (
	// checksumAlgorithm is what the server is asked to write into the
	// manifest.
	checksumAlgorithm = "CRC32C"
	tarBlock          = 512
)

// fileSum is what passed of one file.
type fileSum struct {
	size      int64
	algorithm string // "" for a file without a checksum
	sum       []byte
}

// intake takes files into the parts of a backup, and leaves size and checksum of
// each.
type intake struct {
	parts    *partWriter
	partSize int64
	// algorithm is the checksum that the manifest has of a file.
	algorithm  func(path string) string
	tablespace uint32
	files      map[string]fileSum
	control    controlfile.Control
	manifest   bytes.Buffer
	buf        []byte
}

func newIntake(w *partWriter, partSize int64) *intake {
	return &intake{
		parts: w, partSize: partSize,
		algorithm: func(string) string { return checksumAlgorithm },
		files:     map[string]fileSum{},
		buf:       make([]byte, 64<<10),
	}
}

// run reads the whole answer to BASE_BACKUP from the stream on. progress is told
// the bytes of each message.
func (in *intake) run(ctx context.Context, s *stream, progress func(bytes int64)) (end position, damaged bool, err error) {
	if err = in.take(ctx, s, progress); err == nil {
		end, damaged, err = s.finish(ctx)
	}
	if err != nil {
		return position{}, false, fmt.Errorf("BASE_BACKUP: %w", err)
	}
	return end, damaged, nil
}

// take reads the stream to its end.
func (in *intake) take(ctx context.Context, s *stream, progress func(bytes int64)) error {
	c, err := s.next(ctx)
	for err == nil && c.kind != chunkEnd {
		data := &dataReader{ctx: ctx, stream: s, progress: progress}
		switch c.kind {
		case chunkArchive:
			in.tablespace = c.tablespace
			if err = entries(data, in.add); err == nil {
				err = in.parts.end()
			}
		case chunkManifest:
			data.progress = func(int64) {}
			_, err = in.manifest.ReadFrom(data)
		default:
			err = errors.New("data of nothing in the stream")
		}
		c = data.end
	}
	return err
}

// dataReader reads what one tar stream, or the manifest, consists of.
type dataReader struct {
	ctx      context.Context
	stream   *stream
	progress func(bytes int64)
	rest     []byte
	ended    bool
	end      chunk // that came behind
}

func (d *dataReader) Read(p []byte) (int, error) {
	for len(d.rest) == 0 {
		if d.ended {
			return 0, io.EOF
		}
		c, err := d.stream.next(d.ctx)
		if err != nil {
			return 0, err
		}
		if c.kind != chunkData {
			d.end, d.ended = c, true
			continue
		}
		d.rest = c.data
		d.progress(int64(len(c.data)))
	}
	n := copy(p, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

// entries calls each for every entry of a tar stream. Its name is without "./"
// and a directory's last slash.
func entries(r io.Reader, each func(h *tar.Header, body io.Reader) error) error {
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if err == io.EOF { //nolint:errorlint // the end of the archive, not of what it is read from
			// What follows is padding; compressed files have a checksum at
			// their end.
			_, err = io.Copy(io.Discard, r)
			return err
		}
		if err != nil {
			return err
		}
		h.Name = strings.TrimPrefix(strings.TrimSuffix(h.Name, "/"), "./")
		if err := each(h, t); err != nil {
			return err
		}
	}
}

// add takes one file or directory.
func (in *intake) add(h *tar.Header, body io.Reader) error {
	out := *h
	out.Format = tar.FormatUnknown // the oldest that can say it
	switch {
	case !localPath(h.Name):
		return fmt.Errorf("tar entry %q leads out of the data directory", h.Name)
	case h.Typeflag == tar.TypeDir:
		out.Name += "/"
	case h.Typeflag != tar.TypeReg:
		return fmt.Errorf("tar entry %q is of type %q, neither file nor directory", h.Name, h.Typeflag)
	}
	if err := in.cut(h); err != nil {
		return err
	}
	if err := in.parts.tar.WriteHeader(&out); err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	if h.Typeflag == tar.TypeReg {
		in.parts.open.Files++
		return in.file(in.path(h.Name), h.Size, body)
	}
	return nil
}

// cut begins a new part where one is needed before an entry: the control file
// gets one of its own, so that a restore can lay it down last.
func (in *intake) cut(h *tar.Header) error {
	control := in.tablespace == 0 && h.Name == controlfile.Path
	if p := in.parts.open; p != nil {
		full := p.PlainBytes+tarBlock+h.Size > in.partSize
		if !full && !control && !p.Control {
			return nil
		}
		if err := in.parts.end(); err != nil {
			return err
		}
	}
	in.parts.begin(in.tablespace, control)
	return nil
}

// file takes the contents of a file.
func (in *intake) file(path string, size int64, body io.Reader) error {
	if _, twice := in.files[path]; twice {
		return fmt.Errorf("file %q was sent twice", path)
	}
	if path == controlfile.Path {
		b, err := io.ReadAll(io.LimitReader(body, min(size, controlfile.Size)))
		if err != nil {
			return err
		}
		if in.control, err = controlfile.Parse(b); err != nil { // torn while the server wrote it, most likely
			return hint.With(err, "take another backup; what the server has now: pg_controldata")
		}
		body = bytes.NewReader(b)
	}
	passed := fileSum{size: size, algorithm: in.algorithm(path)}
	var w io.Writer = in.parts.tar
	var sum hash.Hash
	if passed.algorithm != "" {
		var err error
		if sum, err = NewChecksum(passed.algorithm); err != nil {
			return err
		}
		w = io.MultiWriter(w, sum)
	}
	n, err := io.CopyBuffer(w, io.LimitReader(body, size), in.buf)
	if err == nil && n < size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	if sum != nil {
		passed.sum = sum.Sum(nil)
	}
	in.files[path] = passed
	return nil
}

// path is how the manifest names a file of the tar stream.
func (in *intake) path(name string) string {
	if in.tablespace == 0 {
		return name
	}
	return fmt.Sprintf("pg_tblspc/%d/%s", in.tablespace, name)
}
