package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// maxResume is how often in a row a body may break without a byte between.
const maxResume = 5

// Get implements [Store]. A connection that breaks while the body is read is
// replaced by another, which goes on with the very same object.
func (s *S3) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if off < 0 {
		return nil, fmt.Errorf("get %s: negative offset %d", name, off)
	}
	if err := s.begin(ctx, "get", name); err != nil {
		return nil, err
	}
	if n == 0 {
		_, err := s.Stat(ctx, name)
		return io.NopCloser(strings.NewReader("")), err
	}
	r := &s3Body{s: s, ctx: ctx, in: s3.GetObjectInput{Bucket: &s.bucket, Key: s.key(name)}, off: off, end: off + n}
	if n < 0 {
		r.end = -1
	}
	err := r.open()
	if apiCode(err) == "InvalidRange" { // an absent object would be NoSuchKey
		return io.NopCloser(strings.NewReader("")), nil
	}
	if err != nil {
		return nil, s.fail(ctx, "get", name, err)
	}
	return r, nil
}

// s3Body reads the bytes from off to end, or to the object's if that is
// negative.
type s3Body struct {
	s        *S3
	ctx      context.Context
	in       s3.GetObjectInput
	body     io.ReadCloser
	off, end int64
	broken   int // times in a row
}

func (r *s3Body) open() error {
	switch {
	case r.end >= 0:
		r.in.Range = aws.String(fmt.Sprintf("bytes=%d-%d", r.off, r.end-1))
	case r.off > 0:
		r.in.Range = aws.String(fmt.Sprintf("bytes=%d-", r.off))
	}
	out, err := r.s.client.GetObject(r.ctx, &r.in)
	if err == nil {
		r.body, r.in.IfMatch = out.Body, out.ETag
	}
	return err
}

// Read implements [io.Reader].
func (r *s3Body) Read(p []byte) (int, error) {
	for {
		n, err := r.body.Read(p)
		r.off += int64(n)
		if n > 0 {
			r.broken = 0
			return n, nil // the body says again how it ended
		}
		if err == nil || errors.Is(err, io.EOF) {
			return 0, err
		}
		r.broken++
		if context.Cause(r.ctx) != nil || r.broken > maxResume || r.off == r.end {
			return 0, r.s.explain(r.ctx, err)
		}
		r.body.Close()
		if r.open() != nil { // also when it is whole, but has the wrong checksum
			return 0, r.s.explain(r.ctx, err)
		}
	}
}

// Close implements [io.Closer].
func (r *s3Body) Close() error { return r.body.Close() }
