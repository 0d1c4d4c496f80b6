package archive_test

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/testkit"
)

// Each setting reaches the store, for short objects and for those in parts, and
// "required" sends nothing that an older store does not know.
func TestS3Headers(t *testing.T) {
	t.Parallel()
	f := startS3(t).Front(t)
	var mu sync.Mutex
	var seen []string
	f.Set(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		mu.Lock()
		defer mu.Unlock()
		line := r.Method
		for _, name := range []string{"If-None-Match", "X-Amz-Storage-Class", "X-Amz-Server-Side-Encryption", "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id",
			"X-Amz-Checksum-Crc32c", "X-Amz-Checksum-Crc32", "X-Amz-Sdk-Checksum-Algorithm", "X-Amz-Checksum-Algorithm", "X-Amz-Trailer", "Content-Encoding"} {
			if v := r.Header.Get(name); v != "" {
				if strings.HasPrefix(name, "X-Amz-Checksum-Crc32") {
					v = "SUM"
				}
				line += " " + strings.TrimPrefix(name, "X-Amz-") + "=" + v
			}
		}
		seen = append(seen, line)
		io.Copy(io.Discard, r.Body)
		switch {
		case r.URL.Query().Has("uploads"):
			fmt.Fprint(w, "<InitiateMultipartUploadResult><UploadId>U</UploadId></InitiateMultipartUploadResult>")
		case r.Method == http.MethodPost:
			fmt.Fprint(w, "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>")
		default:
			w.Header().Set("ETag", `"e"`)
		}
	})
	const common = " Storage-Class=STANDARD_IA Server-Side-Encryption=aws:kms Server-Side-Encryption-Aws-Kms-Key-Id=KEY"
	for _, tc := range []struct {
		checksum string
		size     int
		want     []string
	}{
		{"auto", 10, []string{"PUT If-None-Match=*" + common + " Checksum-Crc32c=SUM"}},
		{"required", 10, []string{"PUT If-None-Match=*" + common}},
		{"required", 18 << 20, []string{"POST" + common, "PUT", "PUT", "PUT", "POST If-None-Match=*"}},
	} {
		seen = nil
		s := openS3(t, "s3://"+bucket+"/c", archive.S3Config{Endpoint: f.URL, Checksum: tc.checksum, StorageClass: "STANDARD_IA", SSE: "aws:kms", KMSKey: "KEY"})
		if err := s.Put(t.Context(), "x", bytes.NewReader(make([]byte, tc.size))); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tc.want, seen); diff != "" {
			t.Errorf("%s, %d bytes (-want +got):\n%s", tc.checksum, tc.size, diff)
		}
	}
}

// A store that ignores If-None-Match is refused at first use, as is one whose
// listing lags or whose objects stay. With the setting for it, the first serves
// one receiver.
func TestProbe(t *testing.T) {
	t.Parallel()
	server := startS3(t)
	f := server.Front(t)
	s := openS3(t, "s3://"+bucket+"/c", archive.S3Config{Endpoint: f.URL})
	if stored, err := archive.Probe(t.Context(), s); err != nil || time.Since(stored).Abs() > time.Minute {
		t.Fatal(err)
	}
	for info := range s.List(t.Context(), "", "") {
		t.Errorf("left behind: %s", info.Name)
	}
	ignorant := func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodPut {
			os.Remove(filepath.Join(server.Dir, r.URL.Path)) // the header is signed
		}
		next.ServeHTTP(w, r)
	}
	for _, tc := range []struct {
		name, want, hint string
		answer           func(http.ResponseWriter, *http.Request, http.Handler)
	}{
		{"overwrites", "overwrites", "s3.unsafe_no_conditional_put: true", ignorant},
		{"lists late", "does not list", "consistent", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.URL.Query().Has("list-type") {
				fmt.Fprint(w, "<ListBucketResult></ListBucketResult>")
				return
			}
			next.ServeHTTP(w, r)
		}},
		{"keeps", "after it was deleted", "right to delete", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method != http.MethodDelete {
				next.ServeHTTP(w, r)
			}
		}},
		{"knows no condition", "NotImplemented", "s3.unsafe_no_conditional_put", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Header.Get("If-None-Match") != "" {
				testkit.Refuse(w, 501, "NotImplemented", "If-None-Match")
				return
			}
			next.ServeHTTP(w, r)
		}},
	} {
		f.Set(tc.answer)
		_, err := archive.Pin(t.Context(), s, testCluster)
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(strings.Join(hint.Of(err), ""), tc.hint) {
			t.Errorf("%s: %v, hints %q", tc.name, err, hint.Of(err))
		}
		if _, err := s.Stat(t.Context(), "walstream.json"); !errors.Is(err, archive.ErrNotExist) {
			t.Errorf("%s: pinned all the same: %v", tc.name, err)
		}
	}
	f.Set(ignorant)
	unsafe := openS3(t, s.String(), archive.S3Config{Endpoint: f.URL, Unconditional: true})
	if _, err := archive.Pin(t.Context(), unsafe, testCluster); err != nil {
		t.Error(err)
	}
	if err := unsafe.Put(t.Context(), "walstream.json", strings.NewReader("x")); !errors.Is(err, archive.ErrExists) {
		t.Errorf("put again: %v, want ErrExists", err)
	}
}

// The store is trusted by the authority that is named, and by no other.
func TestS3CertificateAuthority(t *testing.T) {
	t.Parallel()
	server := startS3(t)
	plain := server.Front(t)
	secure := httptest.NewTLSServer(plain.Config.Handler)
	defer secure.Close()
	secure.Config.ErrorLog = nil
	s := openS3(t, "s3://"+bucket+"/c", archive.S3Config{Endpoint: secure.URL})
	err := s.Put(t.Context(), "x", strings.NewReader("x"))
	if err == nil || !strings.Contains(strings.Join(hint.Of(err), ""), "s3.ca_file") || plain.Requests.Load() != 0 {
		t.Errorf("untrusted: %v, hints %q", err, hint.Of(err))
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if _, err := archive.OpenS3(t.Context(), "s3://b", archive.S3Config{CAFile: file}); err == nil {
		t.Error("a missing file is accepted")
	}
	body := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	if err := os.WriteFile(file, body, 0o600); err != nil {
		t.Fatal(err)
	}
	testStore(t, func(t *testing.T) archive.Store {
		return openS3(t, "s3://"+bucket+"/"+strings.ReplaceAll(t.Name(), "/", "_"), archive.S3Config{Endpoint: secure.URL, CAFile: file})
	})
}

// Without credentials no request is sent, and the error says how to give them.
func TestS3NoCredentials(t *testing.T) {
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("HOME", t.TempDir())
	s := openS3(t, "s3://bucket/c", archive.S3Config{Endpoint: "http://127.0.0.1:1", Attempts: 1})
	_, err := s.Stat(t.Context(), "x")
	if err == nil || !strings.HasPrefix(err.Error(), "stat s3://bucket/c/x: no credentials: ") || !strings.Contains(strings.Join(hint.Of(err), ""), "AWS_ACCESS_KEY_ID") {
		t.Errorf("%v, hints %q", err, hint.Of(err))
	}
}
