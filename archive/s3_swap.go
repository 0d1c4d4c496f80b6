package archive

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// Swap implements [Store] by If-Match. Without conditions it is a comparison
// and a Put, which is enough for one process.
func (s *S3) Swap(ctx context.Context, name string, old, body []byte) error {
	err := checkState(name)
	if err == nil {
		err = s.begin(ctx, "swap", name)
	}
	if err != nil {
		return err
	}
	have, tag, err := s.contents(ctx, name)
	switch {
	case errors.Is(err, ErrNotExist) && old == nil:
	case errors.Is(err, ErrNotExist), err == nil && (old == nil || !bytes.Equal(have, old)):
		return fmt.Errorf("swap %s/%s: %w", s, name, ErrChanged)
	case err != nil:
		return s.fail(ctx, "swap", name, err)
	}
	err = s.putObject(ctx, name, rand.Text(), bytes.NewReader(body), int64(len(body)), func(in *s3.PutObjectInput) {
		if old != nil && !s.cfg.Unconditional {
			in.IfNoneMatch, in.IfMatch = nil, tag
		}
	}, func(o *s3.Options) { o.RetryMaxAttempts = 1 }) // a second try could meet the success of the first, and call it a change
	if code := apiCode(err); code == "PreconditionFailed" || code == "NoSuchKey" || code == "ConditionalRequestConflict" {
		return fmt.Errorf("swap %s/%s: %w", s, name, ErrChanged)
	}
	return s.fail(ctx, "swap", name, err)
}

// contents is a small object and its entity tag.
func (s *S3) contents(ctx context.Context, name string) (body []byte, tag *string, err error) {
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.bucket, Key: s.key(name)})
	if apiCode(err) == "NoSuchKey" {
		return nil, nil, ErrNotExist
	}
	if err != nil {
		return nil, nil, err
	}
	defer out.Body.Close()
	body, err = io.ReadAll(io.LimitReader(out.Body, maxSmall))
	return body, out.ETag, err
}
