package backup

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/crashpoint"
)

const (
	// window is how far back the compressor looks. It bounds the memory of
	// whoever unpacks a part, too.
	window = 1 << 20
	// puts is how many parts may be on their way into the store: one is
	// filled while the one before is made durable.
	puts = 2
)

var errAborted = errors.New("the backup was given up")

// partWriter writes tar streams into the archive as a row of tar.zst objects.
// It holds no part in memory: what is written goes through the compressor
// into a Put that is under way. Not safe for concurrent use.
type partWriter struct {
	ctx   context.Context // ends when a Put failed
	arch  *archive.Archive
	id    string
	group *errgroup.Group

	enc   *zstd.Encoder
	tar   *tar.Writer // of the open part
	open  *openPart   // nil between two parts
	parts []*Part
}

// openPart is a part that is being written.
type openPart struct {
	*Part
	pipe    *io.PipeWriter
	aborted atomic.Bool
}

func newPartWriter(ctx context.Context, arch *archive.Archive, id string, level zstd.EncoderLevel) (*partWriter, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(max(level, zstd.SpeedFastest)), zstd.WithWindowSize(window), zstd.WithEncoderConcurrency(2))
	if err != nil {
		return nil, err
	}
	w := &partWriter{arch: arch, id: id, enc: enc}
	w.group, w.ctx = errgroup.WithContext(ctx)
	w.group.SetLimit(puts)
	return w, nil
}

// begin opens the next part. It waits while too many are on their way.
func (w *partWriter) begin(tablespace uint32, control bool) {
	r, pipe := io.Pipe()
	p := &openPart{
		Part: &Part{Name: w.arch.SealedName(PartName(w.id, len(w.parts)+1)), Tablespace: tablespace, Control: control},
		pipe: pipe,
	}
	w.parts = append(w.parts, p.Part)
	w.open = p
	w.enc.Reset(pipe)
	w.tar = tar.NewWriter(w)
	w.group.Go(func() error {
		sum := sha256.New()
		size := &counter{}
		body, err := w.arch.Seal(r)
		if err == nil {
			err = w.arch.Store().Put(w.ctx, p.Name, io.TeeReader(body, io.MultiWriter(sum, size)))
		}
		if p.aborted.Load() {
			err = nil // it is the echo of another error
		}
		if err != nil {
			r.CloseWithError(err)
			return err
		}
		crashpoint.Hit(crashpoint.BackupPartPut)
		p.SHA256, p.StoredSize = hex.EncodeToString(sum.Sum(nil)), size.n
		return nil
	})
}

// Write adds bytes to the tar stream of the open part.
func (w *partWriter) Write(b []byte) (int, error) {
	w.open.PlainBytes += int64(len(b))
	return w.enc.Write(b)
}

// end completes the open part, if there is one. It may still be on its way when
// end returns.
func (w *partWriter) end() error {
	if w.open == nil {
		return nil
	}
	err := w.tar.Close()
	if err == nil {
		err = w.enc.Close()
	}
	if err != nil {
		return err
	}
	err = w.open.pipe.Close()
	w.open = nil
	return err
}

// finish completes the last part and waits until all are durable. After an
// error, with which writing may have ended too, it gives them up.
func (w *partWriter) finish(err error) ([]Part, error) {
	if err == nil {
		err = w.end()
	}
	if err == nil {
		err = w.group.Wait()
	}
	if err != nil {
		// A store that fails ends what is written too: its error is the cause.
		return nil, cmp.Or(w.abort(), err)
	}
	parts := make([]Part, len(w.parts))
	for i, p := range w.parts {
		parts[i] = *p
	}
	return parts, nil
}

// abort gives up the open part, waits for the others and returns the error of
// a Put that failed, if that is what went wrong first.
func (w *partWriter) abort() error {
	if p := w.open; p != nil {
		w.open = nil
		p.aborted.Store(true)
		p.pipe.CloseWithError(errAborted)
		_ = w.enc.Close() // ends its goroutines; it cannot write any more
	}
	return w.group.Wait()
}

// counter counts what is written to it.
type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}
