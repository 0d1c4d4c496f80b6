package recovery

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/internal/controlfile"
	"github.com/walstream/walstream/internal/crashpoint"
)

// layDown restores all parts, several at a time, and checks every file against
// the backup's manifest.
func (r *restore) layDown(ctx context.Context) error {
	m, err := backup.LoadManifest(ctx, r.cfg.Source.Archive, &r.Backup)
	if err != nil {
		return err
	}
	files := newChecklist(m)
	laid, err := r.keep(ctx, m, files)
	if err != nil {
		return err
	}
	list, err := r.openParts()
	if err != nil {
		return err
	}
	defer func() { _ = list.file.Close() }() // each line was synced
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(r.cfg.Jobs)
	for _, part := range r.Backup.Parts {
		if _, done := laid[part.Name]; done {
			r.progress.add(part.PlainBytes)
			continue
		}
		pl := r.place(part.Tablespace)
		if pl == nil {
			return errors.Join(fmt.Errorf("%s is of tablespace %d, which the backup does not list", part.Name, part.Tablespace), group.Wait())
		}
		group.Go(func() error {
			x := &extractor{restore: r, place: pl, files: files}
			if err := x.part(ctx, part); err != nil {
				return fmt.Errorf("%s: %w", part.Name, err)
			}
			if err := list.add(laidPart{part.Name, x.laid}); err != nil {
				return err
			}
			crashpoint.Hit(crashpoint.RestorePartLaid)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.RestoreLaid)
	return files.complete()
}

func (r *restore) place(oid uint32) *place {
	for i := range r.places {
		if r.places[i].oid == oid {
			return &r.places[i]
		}
	}
	return nil
}

// checklist is the files of a manifest that are yet to come. It may be used
// concurrently.
type checklist struct {
	mu   sync.Mutex
	left map[string]backup.ManifestFile
}

func newChecklist(m *backup.Manifest) *checklist {
	c := &checklist{left: make(map[string]backup.ManifestFile, len(m.Files))}
	for _, f := range m.Files {
		c.left[f.Path] = f
	}
	return c
}

// take hands out the entry of a file, once.
func (c *checklist) take(name string) (backup.ManifestFile, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f, ok := c.left[name]
	if !ok {
		return f, fmt.Errorf("file %q is not in backup_manifest, or came twice", name)
	}
	delete(c.left, name)
	return f, nil
}

func (c *checklist) complete() error {
	for name := range c.left {
		return fmt.Errorf("%d files of backup_manifest are in no part, one of them %q", len(c.left), name)
	}
	return nil
}

// extractor unpacks one part.
type extractor struct {
	*restore
	place *place
	files *checklist
	laid  []string // its files so far, by their names in place
}

// early is from which size on the kernel is to begin writing a file at once.
const early = 1 << 20

func (x *extractor) part(ctx context.Context, part backup.Part) error {
	dir, err := x.place.root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close() // only for Syncfs
	body, err := x.cfg.Source.Archive.Store().Get(ctx, part.Name, 0, -1)
	if err != nil {
		return err
	}
	defer body.Close()
	sum := sha256.New()
	stored := io.TeeReader(body, sum)
	plain, err := x.unpack(part, stored)
	// Damage is the cause of whatever else went wrong.
	if _, rest := io.Copy(io.Discard, stored); rest != nil {
		return cmp.Or(err, rest)
	}
	have := hex.EncodeToString(sum.Sum(nil))
	switch {
	case have != part.SHA256:
		return &archive.CorruptError{Object: part.Name, What: "sha256", Have: have, Want: part.SHA256}
	case err != nil:
		return err
	case plain != part.PlainBytes:
		return &archive.CorruptError{Object: part.Name, What: "plain size", Have: fmt.Sprint(plain), Want: fmt.Sprint(part.PlainBytes)}
	}
	return x.sync(dir)
}

// unpack lays down what a part holds and returns the size of its tar stream.
func (x *extractor) unpack(part backup.Part, stored io.Reader) (int64, error) {
	packed, err := x.cfg.Source.Archive.Unseal(part.Name, stored)
	if err != nil {
		return 0, err
	}
	dec, err := zstd.NewReader(packed, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return 0, err
	}
	defer dec.Close()
	plain := &counter{r: dec, progress: x.progress}
	err = x.entries(tar.NewReader(plain))
	if err == nil { // behind the end of the tar there may be padding, and damage
		_, err = io.Copy(io.Discard, plain)
	}
	return plain.n, err
}

func (x *extractor) entries(t *tar.Reader) error {
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := path.Clean(strings.TrimPrefix(h.Name, "./"))
		if !filepath.IsLocal(name) {
			return fmt.Errorf("tar entry %q leads out of the directory", h.Name)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = x.dir(name, h.FileInfo().Mode().Perm())
		case tar.TypeReg:
			err = x.file(name, h.FileInfo().Mode().Perm(), t)
		default:
			err = fmt.Errorf("tar entry %q is neither file nor directory", h.Name)
		}
		if err != nil {
			return err
		}
	}
}

// dir makes a directory. Another part may have made it for a file in it.
func (x *extractor) dir(name string, mode fs.FileMode) error {
	if err := x.makeDirs(name); err != nil {
		return err
	}
	return x.place.root.Chmod(name, mode)
}

func (x *extractor) makeDirs(name string) error {
	if name == "." {
		return nil
	}
	if err := x.makeDirs(path.Dir(name)); err != nil {
		return err
	}
	err := x.place.root.Mkdir(name, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil && x.owner != nil {
		err = x.place.root.Chown(name, x.owner.UID, x.owner.GID)
	}
	return err
}

func (x *extractor) file(name string, mode fs.FileMode, body io.Reader) error {
	listed := x.place.listed(name)
	want, err := x.files.take(listed)
	if err != nil {
		return err
	}
	if err := x.makeDirs(path.Dir(name)); err != nil {
		return err
	}
	if listed == controlfile.Path {
		name = heldBack
	}
	f, err := x.place.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = fillFile(f, body, want)
	if err == nil {
		err = errors.Join(f.Chmod(mode), x.owner.give(f))
	}
	if want.Size >= early {
		_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE) // what comes of it, sync tells
	}
	x.laid = append(x.laid, name)
	return errors.Join(err, f.Close())
}

// sync makes the files of the part durable. The kernel writes all of them at
// once; what went wrong with one of them, its own fsync tells. So does dir,
// which was open before the first of them was written, of its file system.
func (x *extractor) sync(dir *os.File) error {
	err := unix.Syncfs(int(dir.Fd()))
	for _, name := range x.laid {
		if err != nil {
			return err
		}
		err = syncIn(x.place.root, name)
	}
	return err
}

// fillFile writes body to w and compares it with the manifest.
func fillFile(w io.Writer, body io.Reader, want backup.ManifestFile) error {
	var sum interface{ Sum([]byte) []byte }
	if want.Algorithm != "" {
		h, err := backup.NewChecksum(want.Algorithm)
		if err != nil {
			return err
		}
		w, sum = io.MultiWriter(w, h), h
	}
	n, err := io.Copy(w, body)
	switch {
	case err != nil:
		return err
	case n != want.Size:
		return fmt.Errorf("file %q has %d bytes, backup_manifest says %d", want.Path, n, want.Size)
	case sum != nil && !bytes.Equal(sum.Sum(nil), want.Checksum):
		return fmt.Errorf("file %q has %s %x, backup_manifest says %x", want.Path, want.Algorithm, sum.Sum(nil), want.Checksum)
	}
	return nil
}
