package testkit

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"
)

// Answer answers a request in the place of the S3 server, or lets that do so.
type Answer func(w http.ResponseWriter, r *http.Request, server http.Handler)

// S3Front stands before an S3 server: it counts requests, and a test may give
// answers that the server would not.
type S3Front struct {
	*httptest.Server        // of the front
	Dir              string // of the server
	Requests         atomic.Int64
	answer           atomic.Pointer[Answer]
}

// Front starts a front, which stops with the test.
func (s *S3) Front(t testing.TB) *S3Front {
	t.Helper()
	target, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	// The host stays as the client signed it.
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host }}
	f := &S3Front{Dir: s.Dir}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.Requests.Add(1)
		if answer := f.answer.Load(); answer != nil {
			(*answer)(w, r, proxy)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(f.Close)
	return f
}

// Set gives the answers from now on; nil leaves them to the server.
func (f *S3Front) Set(answer Answer) {
	if answer == nil {
		f.answer.Store(nil)
		return
	}
	f.answer.Store(&answer)
}

// Refuse answers as S3 does.
func Refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("X-Amz-Request-Id", "REQ1")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>%s</Message></Error>`, code, message)
}

// Cut drops a connection without an answer.
func Cut(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	conn.Close()
}
