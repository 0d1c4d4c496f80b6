package archive

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"

	"github.com/walstream/walstream/internal/hint"
)

// S3Config says how an object store is reached. Credentials come from the AWS
// SDK's own chain only: environment, shared files, instance role.
type S3Config struct {
	Endpoint     string // URL; empty: that of the SDK's chain, else AWS
	Region       string // empty: that of the SDK's chain, else us-east-1
	PathStyle    bool   // the bucket is named in the path, not in the host name
	Checksum     string // "required": none but what signatures hold; else CRC-32C, or CRC-32 of parts
	StorageClass string // empty: the bucket's
	SSE          string // AES256, aws:kms or aws:kms:dsse; empty: the bucket's
	KMSKey       string // key ID or ARN for SSE by KMS; empty: the account's default
	CAFile       string // PEM file of the only authorities to trust; empty: the system's
	// Unconditional is for stores that do not know If-None-Match: they are
	// asked whether an object exists before it is put. That is safe for one
	// writer only.
	Unconditional bool
	// Silence is how long a connection may move no byte; 0 means a minute.
	Silence time.Duration
	// Attempts is how often a request is sent before its error counts; 0
	// means 12, which takes half a minute where the error comes at once.
	Attempts int
}

// S3 is a [Store] in a bucket of Amazon S3 or a compatible store. An object is
// one PutObject, or if it is long a multipart upload, in both cases with
// If-None-Match: "*". Requests that fail for a passing reason are repeated.
type S3 struct {
	location       string // as the user wrote it, without a slash at its end
	bucket, prefix string // the prefix is empty or ends in a slash
	cfg            S3Config
	client         *s3.Client
	chunks         sync.Pool // of *[putChunk]byte
}

// A bucket's name, also of the older and of the compatible kinds.
var bucketName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]+$`)

// OpenS3 opens the store at a URL like s3://bucket/prefix. It asks the network
// for nothing but credentials.
func OpenS3(ctx context.Context, location string, cfg S3Config) (*S3, error) {
	u, err := url.Parse(location)
	if err != nil || u.Scheme != "s3" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || !bucketName.MatchString(u.Host) || len(u.Host) > 255 {
		return nil, hint.Errorf("write it like s3://bucket/prefix, and how the store is reached under s3: in the configuration", "archive %q is no location in S3", location)
	}
	s := &S3{location: strings.TrimRight(location, "/"), bucket: u.Host, prefix: strings.Trim(u.Path, "/"), cfg: cfg}
	s.chunks.New = func() any { return new([putChunk]byte) }
	if s.prefix != "" {
		if err := CheckName(s.prefix); err != nil {
			return nil, hint.Errorf("use letters, digits, and inside a name . _ - too: s3://"+s.bucket+"/walstream", "archive %s: %w", location, err)
		}
		s.prefix += "/"
	}
	options := []func(*config.LoadOptions) error{
		config.WithRegion(cfg.Region), config.WithDefaultRegion("us-east-1"),
		config.WithHTTPClient(cfg.httpClient()), config.WithRetryer(cfg.retryer), config.WithLogger(logging.Nop{}),
	}
	if cfg.CAFile != "" {
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("s3.ca_file: %w", err)
		}
		options = append(options, config.WithCustomCABundle(bytes.NewReader(pem)))
	}
	loaded, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, hint.With(fmt.Errorf("open archive %s: %w", s, err), "see what the AWS environment says: env | grep ^AWS_ ; aws configure list")
	}
	s.client = s3.NewFromConfig(loaded, func(o *s3.Options) {
		o.UsePathStyle = cfg.PathStyle
		o.DisableLogOutputChecksumValidationSkipped = true
		if cfg.Endpoint != "" {
			o.BaseEndpoint = &cfg.Endpoint
		}
		if cfg.Checksum == "required" {
			o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
			o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		}
	})
	return s, nil
}

// Region is the one that requests are signed for.
func (s *S3) Region() string { return s.client.Options().Region }

// Endpoint is the URL that requests go to, empty for AWS's own.
func (s *S3) Endpoint() string { return aws.ToString(s.client.Options().BaseEndpoint) }

// Unconditional says that nothing but a question before each Put keeps objects
// from being overwritten.
func (s *S3) Unconditional() bool { return s.cfg.Unconditional }

// String implements [Store].
func (s *S3) String() string { return s.location }

func (c S3Config) retryer() aws.Retryer {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts = c.Attempts
		if c.Attempts == 0 {
			o.MaxAttempts = 12
		}
		o.MaxBackoff = 5 * time.Second // jittered
		o.RateLimiter = ratelimit.None // the number of attempts is limit enough
		o.Retryables = append([]retry.IsErrorRetryable{retry.IsErrorRetryableFunc(retryable)}, o.Retryables...)
	})
}

// retryable is what the SDK does not know.
func retryable(err error) aws.Ternary {
	switch code := apiCode(err); {
	case errors.As(err, new(*tls.CertificateVerificationError)):
		return aws.FalseTernary
	case code == "ConditionalRequestConflict", code == "OperationAborted", errors.Is(err, io.ErrUnexpectedEOF),
		code == "ExistingObjectIsDirectory": // versitygw while it removes the directory that a Delete emptied
		return aws.TrueTernary
	}
	return aws.UnknownTernary
}

// httpClient is the SDK's, on connections that do not wait for ever.
func (c S3Config) httpClient() aws.HTTPClient {
	silence := c.Silence
	if silence == 0 {
		silence = time.Minute
	}
	dialer := &net.Dialer{Timeout: min(10*time.Second, silence)}
	return awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.ReadBufferSize, t.WriteBufferSize = 64<<10, 64<<10
		t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &impatientConn{conn, silence}, nil
		}
	})
}

// impatientConn fails when no byte moves for too long: a server may vanish
// without a word. While it takes bytes it need not send any.
type impatientConn struct {
	net.Conn
	silence time.Duration
}

func (c *impatientConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.silence)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *impatientConn) Write(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.silence)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (s *S3) key(name string) *string { return aws.String(s.prefix + name) }

// begin checks what is common to all operations on one object.
func (s *S3) begin(ctx context.Context, op, name string) error {
	if err := begin(ctx, op, name); err != nil {
		return err
	}
	if len(s.prefix)+len(name) > maxName {
		return fmt.Errorf("%s %s: the key is longer than %d bytes", op, name, maxName)
	}
	return nil
}

// Stat implements [Store].
func (s *S3) Stat(ctx context.Context, name string) (Info, error) {
	if err := s.begin(ctx, "stat", name); err != nil {
		return Info{}, err
	}
	head, err := s.head(ctx, name)
	if err != nil {
		return Info{}, s.fail(ctx, "stat", name, err)
	}
	return Info{Name: name, Size: aws.ToInt64(head.ContentLength), Modified: aws.ToTime(head.LastModified)}, nil
}

// head tells an absent object from an absent bucket, which the answer to
// HeadObject does not: it has no body.
func (s *S3) head(ctx context.Context, name string) (*s3.HeadObjectOutput, error) {
	head, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: s.key(name)})
	if err == nil || apiCode(err) != "NotFound" {
		return head, err
	}
	_, err = s.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: s.key(name), MaxKeys: aws.Int32(1)})
	return nil, cmp.Or(err, ErrNotExist)
}

// Confirm implements [Store]: what is seen is durable.
func (s *S3) Confirm(ctx context.Context, name string) error {
	_, err := s.Stat(ctx, name)
	return err
}

// Delete implements [Store].
func (s *S3) Delete(ctx context.Context, name string) error {
	if err := s.begin(ctx, "delete", name); err != nil {
		return err
	}
	_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.bucket, Key: s.key(name)})
	if err = s.fail(ctx, "delete", name, err); errors.Is(err, ErrNotExist) {
		return nil
	}
	return err
}

// List implements [Store].
func (s *S3) List(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		dir, _ := path.Split(prefix)
		if dir != "" && CheckName(strings.TrimSuffix(dir, "/")) != nil {
			return // no object has such a name
		}
		in := &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: s.key(prefix)}
		if after != "" {
			in.StartAfter = s.key(after)
		}
		before := ""
		for pages := s3.NewListObjectsV2Paginator(s.client, in); pages.HasMorePages(); {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(Info{}, s.fail(ctx, "list", prefix, err))
				return
			}
			for _, o := range page.Contents {
				name := strings.TrimPrefix(aws.ToString(o.Key), s.prefix)
				if CheckName(name) != nil || name <= after {
					continue // not of walstream, or of a store that knows no start-after
				}
				if name <= before {
					yield(Info{}, fmt.Errorf("list %s: %s comes behind %s: the store does not list in the order of names", s.location+"/"+prefix, name, before))
					return
				}
				before = name
				if !yield(Info{Name: name, Size: aws.ToInt64(o.Size), Modified: aws.ToTime(o.LastModified)}, nil) {
					return
				}
			}
		}
	}
}
