package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
)

// What can be wrong with an object store, and with the way to it.
func TestBadStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	front := w.inS3()
	w.must("receive", "--create-slot", "--once-until", "0/1000")
	list := func(env string) string { return strings.TrimSpace("env " + env + " walstream list") }
	answers := func(status int, code, message string) func(*world) {
		return func(*world) {
			front.Set(func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) {
				testkit.Refuse(rw, status, code, message)
			})
		}
	}
	well := func(*world) { front.Set(nil) }
	overwrites := func(*world) {
		front.Set(func(rw http.ResponseWriter, r *http.Request, server http.Handler) {
			if r.Method == http.MethodPut {
				os.Remove(filepath.Join(front.Dir, r.URL.Path))
			}
			server.ServeHTTP(rw, r)
		})
	}
	w.catalogue("An object store", []bad{
		{name: "no location", line: "walstream list --archive s3:///main", code: 1, want: `archive "s3:///main" is no location in S3`, once: true},
		{name: "no bucket", line: "walstream list --archive s3://absent/main", code: 1, want: "open archive s3://absent/main: get s3://absent/main/walstream.json: NoSuchBucket", once: true},
		{name: "no archive", line: "walstream list --archive s3://acme-pg/other", code: 1, want: "open archive s3://acme-pg/other: no archive there", once: true},
		{name: "nobody listens", line: list("WALSTREAM_S3_ENDPOINT=http://127.0.0.1:1"), code: 1, want: "http://127.0.0.1:1: ", once: true},
		{name: "no credentials", line: list("-u AWS_ACCESS_KEY_ID -u AWS_SECRET_ACCESS_KEY AWS_EC2_METADATA_DISABLED=true"), code: 1, want: "no credentials", once: true},
		{name: "unknown key", do: answers(403, "InvalidAccessKeyId", "The key does not exist."), line: list(""), code: 1, want: "InvalidAccessKeyId", mend: well},
		{name: "wrong secret", line: list("AWS_SECRET_ACCESS_KEY=wrong"), code: 1, want: "SignatureDoesNotMatch", once: true},
		{name: "expired", do: answers(400, "ExpiredToken", "The provided token has expired."), line: list(""), code: 1, want: "ExpiredToken", mend: well},
		{name: "denied", do: answers(403, "AccessDenied", "Access Denied"), line: list(""), code: 1, want: "AccessDenied", mend: well},
		{name: "clock", do: answers(403, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large."), line: list(""), code: 1, want: "RequestTimeTooSkewed", mend: well},
		{name: "overloaded", do: answers(503, "SlowDown", "Please reduce your request rate."), line: list(""), code: 1, want: "SlowDown", mend: well},
		{name: "overwrites", do: overwrites, code: 1, want: "overwrites an object", mend: well,
			line: quoted("walstream", "receive", "--create-slot", "--slot", "fresh", "--once-until", "0/1000", "--archive", "s3://acme-pg/fresh", "--spool", filepath.Join(w.dir, "fresh"))},
	})
}
