package archive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/testkit"
)

// Whatever the store answers, it is neither absence nor success, and the error
// names the object, the cause and a remedy.
func TestS3Refusals(t *testing.T) {
	t.Parallel()
	f := startS3(t).Front(t)
	s := openS3(t, "s3://"+bucket+"/c", archive.S3Config{Endpoint: f.URL, Attempts: 1})
	var status int
	var code string
	f.Set(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		w.Header().Set("X-Amz-Bucket-Region", map[bool]string{true: "eu-central-1"}[code == "PermanentRedirect"])
		if r.Method == http.MethodHead {
			w.WriteHeader(status) // without a body, as S3 does
			return
		}
		testkit.Refuse(w, status, code, "why")
	})
	for _, tc := range []struct {
		status     int
		code, hint string
	}{
		{503, "SlowDown", ""},
		{500, "InternalError", ""},
		{404, "NoSuchBucket", "aws s3 mb s3://" + bucket},
		{403, "AccessDenied", "docs/s3.md"},
		{403, "RequestTimeTooSkewed", "timedatectl set-ntp true"},
		{400, "ExpiredToken", "expired"},
		{403, "InvalidAccessKeyId", "aws sts get-caller-identity"},
		{403, "SignatureDoesNotMatch", "aws sts get-caller-identity"},
		{301, "PermanentRedirect", "s3.region: eu-central-1"},
		{400, "AuthorizationHeaderMalformed", "s3.region"},
		{403, "InvalidObjectState", "aws s3 cp"},
		{400, "InvalidStorageClass", "s3.storage_class"},
		{400, "KMS.DisabledException", "s3.kms_key"},
		{501, "NotImplemented", "s3.checksum: required"},
		{404, "NoSuchUpload", ""},
		{409, "ConditionalRequestConflict", ""},
	} {
		status, code = tc.status, tc.code
		_, get := s.Get(t.Context(), "x", 0, -1)
		var list error
		for _, err := range s.List(t.Context(), "x", "") {
			list = err
		}
		for op, err := range map[string]error{"get": get, "put": s.Put(t.Context(), "x", strings.NewReader("x")), "list": list, "delete": s.Delete(t.Context(), "x")} {
			if err == nil || errors.Is(err, archive.ErrNotExist) || errors.Is(err, archive.ErrExists) {
				t.Errorf("%s after %s: %v", op, code, err)
				continue
			}
			if want := op + " s3://" + bucket + "/c/x: " + code + ": why (request REQ1)"; err.Error() != want {
				t.Errorf("%s after %s: %v", op, code, err)
			}
			if hints := strings.Join(hint.Of(err), "\n"); !strings.Contains(hints, tc.hint) || (hints == "") != (tc.hint == "") {
				t.Errorf("%s after %s: hint %q", op, code, hints)
			}
		}
		if _, err := s.Stat(t.Context(), "x"); err == nil || errors.Is(err, archive.ErrNotExist) {
			t.Errorf("stat after %s: %v", code, err)
		}
	}
}

// A bucket that is not there is trouble for Stat too, whose answers say no
// more than 404.
func TestS3NoBucket(t *testing.T) {
	t.Parallel()
	server := startS3(t)
	s := openS3(t, "s3://absent/c", archive.S3Config{Endpoint: server.URL})
	_, err := s.Stat(t.Context(), "x")
	if err == nil || errors.Is(err, archive.ErrNotExist) || !strings.Contains(err.Error(), "NoSuchBucket") || len(hint.Of(err)) == 0 {
		t.Errorf("%v, hints %q", err, hint.Of(err))
	}
	if _, err := archive.Open(t.Context(), s); err == nil || errors.Is(err, archive.ErrNotPinned) {
		t.Errorf("an absent bucket is taken for an empty archive: %v", err)
	}
}

// What passes is waited for: one answer of each kind, then the store is well.
func TestS3Retries(t *testing.T) {
	t.Parallel()
	f := startS3(t).Front(t)
	s := openS3(t, "s3://"+bucket+"/c", archive.S3Config{Endpoint: f.URL})
	for i, answer := range []func(http.ResponseWriter){
		func(w http.ResponseWriter) { testkit.Refuse(w, 503, "SlowDown", "") },
		func(w http.ResponseWriter) { testkit.Refuse(w, 500, "InternalError", "") },
		func(w http.ResponseWriter) { testkit.Refuse(w, 409, "ConditionalRequestConflict", "") },
		func(w http.ResponseWriter) { testkit.Refuse(w, 409, "OperationAborted", "") },
		testkit.Cut,
	} {
		var seen atomic.Int64
		f.Set(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if seen.Add(1) == 1 {
				answer(w)
				return
			}
			next.ServeHTTP(w, r)
		})
		name := fmt.Sprint("x", i)
		if err := s.Put(t.Context(), name, strings.NewReader("body")); err != nil || seen.Load() != 2 {
			t.Errorf("put after answer %d: %v, %d requests", i, err, seen.Load())
		}
		seen.Store(0)
		if got := read(t, s, name); got != "body" {
			t.Errorf("get after answer %d: %q", i, got)
		}
	}
}

func read(t *testing.T, s archive.Store, name string) string {
	t.Helper()
	r, err := s.Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	body, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}

// The store took the object, but nobody heard it say so. The next try meets
// one's own object, which is success; anybody else's is ErrExists. The same for
// an upload in parts, whose last request is repeated.
func TestS3LostAnswer(t *testing.T) {
	t.Parallel()
	f := startS3(t).Front(t)
	s := openS3(t, "s3://"+bucket+"/c", archive.S3Config{Endpoint: f.URL, Attempts: 4})
	long := noise(20 << 20)
	for name, body := range map[string][]byte{"short": []byte("mine"), "long": long} {
		var lost atomic.Int64
		f.Set(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			last := r.Method == http.MethodPut && name == "short" || r.Method == http.MethodPost && r.URL.Query().Has("uploadId")
			if last && lost.Add(1) == 1 {
				next.ServeHTTP(discard{http.Header{}}, r)
				testkit.Cut(w)
				return
			}
			next.ServeHTTP(w, r)
		})
		if err := s.Put(t.Context(), name, bytes.NewReader(body)); err != nil || lost.Load() < 2 {
			t.Errorf("put %s: %v, sent %d times", name, err, lost.Load())
		}
		if got := read(t, s, name); got != string(body) {
			t.Errorf("%s comes back changed", name)
		}
		if err := s.Put(t.Context(), name, bytes.NewReader(body)); !errors.Is(err, archive.ErrExists) {
			t.Errorf("put %s again: %v, want ErrExists", name, err)
		}
	}
}

// discard is an answer that nobody hears.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

// An upload in parts that fails leaves no object, and no parts that cost money.
func TestS3BrokenUpload(t *testing.T) {
	t.Parallel()
	f := startS3(t).Front(t)
	s := openS3(t, "s3://"+bucket+"/c", archive.S3Config{Endpoint: f.URL, Attempts: 2})
	broken := errors.New("source broke")
	why := errors.New("shutting down")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	for _, tc := range []struct {
		name string
		ctx  context.Context
		end  io.Reader
		want error
	}{
		{"source", t.Context(), iotest.ErrReader(broken), broken},
		{"cancelled", ctx, iotest.ErrReader(nil), why},
	} {
		if tc.name == "cancelled" {
			tc.end = readerFunc(func(p []byte) (int, error) { cancel(why); return len(p), nil })
		}
		var begun, aborted atomic.Int64
		f.Set(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			begun.Add(map[bool]int64{true: 1}[r.Method == http.MethodPost && r.URL.Query().Has("uploads")])
			next.ServeHTTP(w, r)
			aborted.Add(map[bool]int64{true: 1}[r.Method == http.MethodDelete && r.URL.Query().Has("uploadId")])
		})
		err := s.Put(tc.ctx, tc.name, io.MultiReader(bytes.NewReader(noise(30<<20)), tc.end))
		if !errors.Is(err, tc.want) || begun.Load() != 1 || aborted.Load() != 1 {
			t.Errorf("%s: %v; %d uploads begun, %d aborted", tc.name, err, begun.Load(), aborted.Load())
		}
		if _, err := s.Stat(t.Context(), tc.name); !errors.Is(err, archive.ErrNotExist) {
			t.Errorf("%s: the object is there: %v", tc.name, err)
		}
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// A body that breaks off is read on from there, from the same object.
func TestS3ReadsOn(t *testing.T) {
	t.Parallel()
	f := startS3(t).Front(t)
	s := openS3(t, "s3://"+bucket+"/c", archive.S3Config{Endpoint: f.URL, Attempts: 2})
	body := noise(3<<20 + 5)
	if err := s.Put(t.Context(), "x", bytes.NewReader(body)); err != nil {
		t.Fatal(err)
	}
	f.Set(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method != http.MethodGet {
			next.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(&breaking{ResponseWriter: w, left: 1 << 20}, r)
	})
	for _, off := range []int64{0, 12345} {
		r, err := s.Get(t.Context(), "x", off, -1)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		r.Close()
		if err != nil || !bytes.Equal(got, body[off:]) {
			t.Errorf("from %d: %d bytes, %v", off, len(got), err)
		}
	}
	f.Set(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&breaking{ResponseWriter: w}, r)
	})
	r, err := s.Get(t.Context(), "x", 0, -1)
	if err == nil {
		_, err = io.ReadAll(r)
		r.Close()
	}
	if err == nil || errors.Is(err, archive.ErrNotExist) {
		t.Errorf("a body that never comes: %v", err)
	}
}

// breaking cuts the connection after some bytes of the body.
type breaking struct {
	http.ResponseWriter
	left int
}

func (b *breaking) Write(p []byte) (int, error) {
	if len(p) <= b.left {
		b.left -= len(p)
		return b.ResponseWriter.Write(p)
	}
	b.ResponseWriter.Write(p[:b.left])
	b.ResponseWriter.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// A store that takes the request and then says nothing any more is given up.
func TestS3Silence(t *testing.T) {
	t.Parallel()
	f := startS3(t).Front(t)
	s := openS3(t, "s3://"+bucket+"/c", archive.S3Config{Endpoint: f.URL, Attempts: 2, Silence: 100 * time.Millisecond})
	over := make(chan struct{})
	f.Set(func(http.ResponseWriter, *http.Request, http.Handler) { <-over })
	_, err := s.Get(t.Context(), "x", 0, -1)
	close(over)
	if err == nil || errors.Is(err, archive.ErrNotExist) || !strings.Contains(err.Error(), "timeout") || len(hint.Of(err)) == 0 {
		t.Errorf("%v, hints %q", err, hint.Of(err))
	}
}

// Where nobody listens, or who does is not trusted, the error says where.
func TestS3Unreachable(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "x")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "x")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	s := openS3(t, "s3://bucket/c", archive.S3Config{Endpoint: "http://" + address, Attempts: 2})
	_, err = s.Stat(t.Context(), "x")
	if err == nil || !strings.Contains(err.Error(), "stat s3://bucket/c/x: http://"+address+": ") || !strings.Contains(strings.Join(hint.Of(err), ""), "curl") {
		t.Errorf("%v, hints %q", err, hint.Of(err))
	}
}
