package archive

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	tmtypes "github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

const (
	putChunk = 256 << 10
	// maxSinglePut is the size from which on an object is put in parts: more
	// than a segment of 16 MiB that cannot be compressed.
	maxSinglePut = 17 << 20
	// partSize bounds an object to 78 GiB, at 10,000 parts, and the memory
	// of a put beyond the first maxSinglePut to about four of them.
	partSize = 8 << 20
	// putID is the metadata that says which Put wrote an object.
	putID = "walstream-put"
)

// Put implements [Store]. Memory is bounded, whatever the size of body.
func (s *S3) Put(ctx context.Context, name string, body io.Reader) error {
	if err := s.begin(ctx, "put", name); err != nil {
		return err
	}
	if s.cfg.Unconditional {
		if _, err := s.Stat(ctx, name); !errors.Is(err, ErrNotExist) {
			return s.fail(ctx, "put", name, cmp.Or(err, ErrExists))
		}
	}
	head := &putBuffer{pool: &s.chunks}
	defer head.free()
	body = ctxReader{ctx, body}
	whole, err := head.fill(body)
	id := rand.Text()
	switch {
	case err != nil:
	case whole:
		err = s.putObject(ctx, name, id, head, head.size, func(*s3.PutObjectInput) {})
	default:
		err = s.upload(ctx, name, id, io.MultiReader(io.NewSectionReader(head, 0, head.size), body))
	}
	// An earlier attempt may have succeeded although its answer was lost.
	if err != nil && (apiCode(err) == "PreconditionFailed" || !whole) && s.wrote(ctx, name, id) {
		return nil
	}
	return s.fail(ctx, "put", name, err)
}

// condition is create-only unless the store does not know that.
func (s *S3) condition() *string {
	if s.cfg.Unconditional {
		return nil
	}
	return aws.String("*")
}

// putObject puts size bytes of body in one request. edit may change it.
func (s *S3) putObject(ctx context.Context, name, id string, body io.ReaderAt, size int64, edit func(*s3.PutObjectInput), options ...func(*s3.Options)) error {
	in := &s3.PutObjectInput{
		Bucket: &s.bucket, Key: s.key(name), Body: io.NewSectionReader(body, 0, size), IfNoneMatch: s.condition(),
		Metadata: map[string]string{putID: id}, StorageClass: types.StorageClass(s.cfg.StorageClass),
		ServerSideEncryption: types.ServerSideEncryption(s.cfg.SSE),
	}
	if s.cfg.KMSKey != "" {
		in.SSEKMSKeyId = &s.cfg.KMSKey
	}
	if s.cfg.Checksum != "required" {
		// In a header: a trailer is what older stores stumble over.
		sum := crc32.New(castagnoli())
		if _, err := io.Copy(sum, io.NewSectionReader(body, 0, size)); err != nil {
			return err
		}
		in.ChecksumCRC32C = aws.String(base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, sum.Sum32())))
	}
	edit(in)
	_, err := s.client.PutObject(ctx, in, options...)
	return err
}

// upload puts body in parts.
func (s *S3) upload(ctx context.Context, name, id string, body io.Reader) error {
	manager := transfermanager.New(s.client, func(o *transfermanager.Options) {
		o.PartSizeBytes, o.Concurrency = partSize, 2
		o.MultipartUploadThreshold = partSize
		o.FailTimeout = 10 * time.Second // to remove the parts when ctx has ended
		o.RequestChecksumCalculation = s.client.Options().RequestChecksumCalculation
	})
	in := &transfermanager.UploadObjectInput{
		Bucket: &s.bucket, Key: s.key(name), Body: body, IfNoneMatch: s.condition(),
		Metadata: map[string]string{putID: id}, StorageClass: tmtypes.StorageClass(s.cfg.StorageClass),
		ServerSideEncryption: tmtypes.ServerSideEncryption(s.cfg.SSE),
	}
	if s.cfg.KMSKey != "" {
		in.SSEKMSKeyID = &s.cfg.KMSKey
	}
	_, err := manager.UploadObject(ctx, in)
	return err
}

// wrote says whether the Put with this ID made the object. If that is not
// known, it did not.
func (s *S3) wrote(ctx context.Context, name, id string) bool {
	head, err := s.head(ctx, name)
	return err == nil && head.Metadata[putID] == id
}

// putBuffer holds the beginning of a body, so that it can be sent again.
type putBuffer struct {
	chunks []*[putChunk]byte
	size   int64
	pool   interface {
		Get() any
		Put(any)
	}
}

// fill reads r up to maxSinglePut bytes, and says whether that is all. Only a
// plain io.EOF is an end: io.ReadFull would hide whether r itself broke off with
// io.ErrUnexpectedEOF.
func (b *putBuffer) fill(r io.Reader) (whole bool, err error) {
	for b.size < maxSinglePut {
		if b.size == int64(len(b.chunks))*putChunk {
			b.chunks = append(b.chunks, b.pool.Get().(*[putChunk]byte))
		}
		n, err := r.Read(b.chunks[len(b.chunks)-1][b.size%putChunk:])
		b.size += int64(n)
		if err == io.EOF {
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
	return false, nil
}

// ReadAt implements [io.ReaderAt].
func (b *putBuffer) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) && off < b.size {
		chunk := b.chunks[off/putChunk]
		m := copy(p[n:], chunk[off%putChunk:min(putChunk, b.size-off/putChunk*putChunk)])
		n, off = n+m, off+int64(m)
	}
	if n < len(p) {
		err = io.EOF
	}
	return n, err
}

func (b *putBuffer) free() {
	for _, chunk := range b.chunks {
		b.pool.Put(chunk)
	}
}
