package archive

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"github.com/walstream/walstream/internal/hint"
)

// apiError is what a store answered, in fewer words than the SDK's.
type apiError struct {
	code, text string
	err        error
}

func (e *apiError) Error() string { return e.text }
func (e *apiError) Unwrap() error { return e.err }

// apiCode is the code of a store's answer, empty for all other errors.
func apiCode(err error) string {
	var own *apiError
	if errors.As(err, &own) {
		return own.code
	}
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// fail is an operation's error in the terms of [Store].
func (s *S3) fail(ctx context.Context, op, name string, err error) error {
	if err == nil {
		return nil
	}
	object := s.location + "/" + name
	switch code := apiCode(err); {
	case errors.Is(err, ErrNotExist), errors.Is(err, ErrExists):
		return fmt.Errorf("%s %s: %w", op, object, err)
	case code == "NoSuchKey" && op != "put":
		return fmt.Errorf("%s %s: %w", op, object, ErrNotExist)
	case code == "PreconditionFailed" && op == "put":
		return fmt.Errorf("%s %s: %w", op, object, ErrExists)
	}
	return fmt.Errorf("%s %s: %w", op, object, s.explain(ctx, err))
}

// explain is an error in few words and with what to do about it.
func (s *S3) explain(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var (
		api         smithy.APIError
		answer      *awshttp.ResponseError
		unreached   *url.Error
		certificate *tls.CertificateVerificationError
	)
	status, region, id := 0, "", ""
	if errors.As(err, &answer) && answer.Response != nil {
		status, region = answer.HTTPStatusCode(), answer.Response.Header.Get("X-Amz-Bucket-Region")
		if answer.RequestID != "" {
			id = " (request " + answer.RequestID + ")"
		}
	}
	switch {
	case errors.As(err, &api):
		text := strings.TrimSuffix(fmt.Sprintf("%s: %s", api.ErrorCode(), api.ErrorMessage()), ": ")
		return s.advise(&apiError{api.ErrorCode(), text + id, err}, status, region)
	case strings.Contains(err.Error(), "get identity: "): // not typed by the SDK
		_, text, _ := strings.Cut(err.Error(), "get identity: ")
		return hint.With(&apiError{"", "no credentials: " + text, err}, "give them as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, in ~/.aws/credentials, or by an instance role: aws sts get-caller-identity")
	case errors.As(err, &certificate):
		return hint.With(certificate, "name the file of the authority that signed the store's certificate: s3.ca_file")
	case errors.As(err, &unreached):
		target, _ := url.Parse(unreached.URL)
		if target == nil {
			return err
		}
		at := target.Scheme + "://" + target.Host
		return hint.With(&apiError{"", at + ": " + unreached.Err.Error(), err}, "is the store there, and s3.endpoint right? curl -sS -o /dev/null %s", hint.Quote(at))
	}
	return s.advise(err, status, region)
}

// advise adds what can be done about an answer.
func (s *S3) advise(err error, status int, region string) error {
	code := apiCode(err)
	switch code {
	case "NoSuchBucket":
		return hint.With(err, "correct the archive's location, or create the bucket: aws s3 mb s3://%s", s.bucket)
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken":
		return hint.With(err, "the credentials are wrong for this store: aws sts get-caller-identity")
	case "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired":
		return hint.With(err, "the credentials have expired; get new ones, or use an instance role, which renews them: aws sts get-caller-identity")
	case "RequestTimeTooSkewed", "RequestExpired":
		return hint.With(err, "set the clock of this machine: sudo timedatectl set-ntp true")
	case "InvalidObjectState":
		return hint.With(err, "the object was moved to a class that cannot be read at once; exempt s3://%s from lifecycle rules, and bring it back: aws s3 cp --recursive --force-glacier-transfer s3://%[1]s s3://%[1]s", strings.TrimPrefix(s.location, "s3://"))
	case "InvalidStorageClass":
		return hint.With(err, "correct s3.storage_class, now %s", s.cfg.StorageClass)
	case "NotImplemented", "XAmzContentSHA256Mismatch", "InvalidChecksum":
		return hint.With(err, "an older store may want s3.checksum: required, or not know If-None-Match: s3.unsafe_no_conditional_put (docs/s3.md)")
	}
	switch {
	case strings.HasPrefix(code, "KMS."):
		return hint.With(err, "see to the key of s3.kms_key: aws kms describe-key --key-id %s", hint.Quote(s.cfg.KMSKey))
	case region != "" && region != s.Region():
		return hint.With(err, "the bucket is in another region: s3.region: %s", region)
	case status == http.StatusMovedPermanently, code == "AuthorizationHeaderMalformed":
		return hint.With(err, "set s3.region to that of the bucket, now %s", s.Region())
	case status == http.StatusForbidden:
		return hint.With(err, "allow what docs/s3.md lists for bucket %s to whom the credentials belong: aws sts get-caller-identity", s.bucket)
	}
	return err
}
