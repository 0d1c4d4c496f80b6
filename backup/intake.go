package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"hash"
)

const (
	// checksumAlgorithm is what the server is asked to write into the
	// manifest.
	checksumAlgorithm = "CRC32C"
	controlFile       = "global/pg_control"
)

// fileSum is what passed of one file.
type fileSum struct {
	size      int64
	algorithm string // "" for a file without a checksum
	sum       []byte
}

// intake sorts what the server sends: tar streams go to parts, the manifest to
// memory, and every file leaves its size and checksum.
type intake struct {
	parts    *partWriter
	partSize int64
	progress func(bytes int64)

	// algorithm is the checksum that the manifest has of a file.
	algorithm func(path string) string
	hashes    map[string]hash.Hash // one of each algorithm, to be used again

	tablespace uint32
	scan       tarScanner
	file       string // that is passing, "" for none
	passing    fileSum
	hash       hash.Hash // of that file, nil for none

	files    map[string]fileSum
	manifest bytes.Buffer
}

func newIntake(w *partWriter, partSize int64, progress func(int64)) *intake {
	return &intake{
		parts: w, partSize: partSize, progress: progress,
		algorithm: func(string) string { return checksumAlgorithm },
		hashes:    map[string]hash.Hash{},
		files:     map[string]fileSum{},
	}
}

// run reads the whole answer to BASE_BACKUP from the stream on.
func (in *intake) run(ctx context.Context, s *stream) (end position, damaged bool, err error) {
	if err := in.take(ctx, s); err != nil {
		return position{}, false, fmt.Errorf("BASE_BACKUP: %w", err)
	}
	end, damaged, err = s.finish(ctx)
	if err != nil {
		return position{}, false, fmt.Errorf("BASE_BACKUP: %w", err)
	}
	return end, damaged, nil
}

// take reads the stream to its end.
func (in *intake) take(ctx context.Context, s *stream) error {
	inManifest := false
	for {
		c, err := s.next(ctx)
		if err != nil {
			return err
		}
		switch c.kind {
		case chunkArchive:
			if err := in.endArchive(); err != nil {
				return err
			}
			in.tablespace = c.tablespace
			in.scan = tarScanner{sink: in}
		case chunkManifest:
			inManifest = true
		case chunkData:
			if inManifest {
				in.manifest.Write(c.data)
				continue
			}
			if err := in.scan.write(c.data); err != nil {
				return err
			}
			in.progress(int64(len(c.data)))
		case chunkEnd:
			return in.endArchive()
		}
	}
}

// endArchive ends the tar stream of a tablespace, and with it its last part.
func (in *intake) endArchive() error {
	if err := in.scan.close(); err != nil {
		return err
	}
	in.endFile()
	return in.parts.end()
}

// entry implements [tarSink].
func (in *intake) entry(hdr *tar.Header, raw []byte) error {
	in.endFile()
	if hdr.Typeflag == tar.TypeReg {
		if err := in.beginFile(in.path(hdr.Name)); err != nil {
			return err
		}
	}
	if err := in.cut(hdr); err != nil {
		return err
	}
	if in.file != "" {
		in.parts.open.Files++
	}
	return in.parts.write(raw)
}

// cut begins a new part where one is needed before an entry: the control file
// gets one of its own, so that a restore can lay it down last.
func (in *intake) cut(hdr *tar.Header) error {
	control := in.tablespace == 0 && hdr.Name == controlFile
	if p := in.parts.open; p != nil {
		full := p.PlainBytes+tarBlock+hdr.Size > in.partSize
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

func (in *intake) beginFile(path string) (err error) {
	if _, twice := in.files[path]; twice {
		return fmt.Errorf("file %q was sent twice", path)
	}
	algorithm := in.algorithm(path)
	in.file, in.passing, in.hash = path, fileSum{algorithm: algorithm}, in.hashes[algorithm]
	if in.hash == nil && algorithm != "" {
		if in.hash, err = NewChecksum(algorithm); err != nil {
			return err
		}
		in.hashes[algorithm] = in.hash
	}
	if in.hash != nil {
		in.hash.Reset()
	}
	return nil
}

// content implements [tarSink].
func (in *intake) content(p []byte) error {
	in.passing.size += int64(len(p))
	if in.hash != nil {
		in.hash.Write(p)
	}
	return in.parts.write(p)
}

// padding implements [tarSink].
func (in *intake) padding(p []byte) error { return in.parts.write(p) }

// endFile notes the file that has passed.
func (in *intake) endFile() {
	if in.file == "" {
		return
	}
	if in.hash != nil {
		in.passing.sum = in.hash.Sum(nil)
	}
	in.files[in.file] = in.passing
	in.file = ""
}

// path is how the manifest names a file of the tar stream.
func (in *intake) path(name string) string {
	if in.tablespace == 0 {
		return name
	}
	return fmt.Sprintf("pg_tblspc/%d/%s", in.tablespace, name)
}
