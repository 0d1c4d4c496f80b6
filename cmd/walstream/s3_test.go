package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
)

// inS3 puts the world's archive into a bucket, behind a front. PostgreSQL's
// environment has the credentials, and nothing else of it.
func (w *world) inS3() *testkit.S3Front {
	w.t.Helper()
	os.Setenv("AWS_ACCESS_KEY_ID", testkit.S3Access) // the same for all tests
	os.Setenv("AWS_SECRET_ACCESS_KEY", testkit.S3Secret)
	front := testkit.StartS3(w.t, "acme-pg").Front(w.t)
	w.archive = "s3://acme-pg/main"
	w.env = append(w.env, "WALSTREAM_S3_ENDPOINT="+front.URL, "WALSTREAM_S3_PATH_STYLE=true")
	return front
}

// The whole way through an object store: stream, back up, an outage of the
// store during which commits go on, the primary's disk lost, restore. No
// acknowledged commit is lost, and what the outage held back is archived.
func TestS3Cycle(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	front := w.inS3()
	r := w.receive("--create-slot")
	ws := write(t, w.primary, 4)
	ws.atLeast(t, 50)
	w.primary.Psql(t, "CREATE TABLE big AS SELECT i, md5(i::text) || sha512(i::text::bytea)::text AS v FROM generate_series(1, 200000) i")
	w.must("backup", "--checkpoint", "fast") // its parts are longer than one request
	front.Set(func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) { testkit.Cut(rw) })
	w.primary.Psql(t, "CREATE TABLE later AS SELECT * FROM big LIMIT 50000")
	w.primary.Psql(t, "SELECT pg_switch_wal()")
	ws.atLeast(t, 200)
	testkit.Wait(t, "status to tell of the outage", func() (bool, string) {
		out, errs, code := w.run("status")
		return code == 3 && strings.Contains(out, "archiving fails since"), out + errs + r.output()
	})
	front.Set(nil)
	w.archived()
	if out, _, _ := w.run("list", "wal"); strings.Contains(out, "missing") {
		t.Errorf("after the outage something is missing:\n%s", out)
	}
	ws.atLeast(t, 50)
	w.crash()
	ws.stop()
	r.kill()

	dir := filepath.Join(w.dir, "restored")
	w.must("restore", dir)
	conf, err := os.ReadFile(filepath.Join(dir, "postgresql.auto.conf"))
	if err != nil || strings.Contains(string(conf), testkit.S3Secret) {
		t.Errorf("%v, the secret is in\n%s", err, conf)
	}
	c := w.startRestored(dir)
	if lost := ws.lost(t, c); len(lost) > 0 {
		t.Errorf("%d of %d acknowledged commits are lost: %v", len(lost), ws.count(), lost)
	}
	if n := c.Psql(t, "SELECT count(*) FROM later"); n != "50000" {
		t.Errorf("%s rows of what was written during the outage", n)
	}
}

// While the store is away a backlog grows. It is drained in the presence of more
// WAL, by a receiver that is killed in between, and in the end each segment is in
// the archive, put with success once.
func TestS3Backlog(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	front := w.inS3()
	r := w.receive("--create-slot")
	front.Set(func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) { testkit.Cut(rw) })
	w.primary.Psql(t, "CREATE TABLE filler (v text)")
	for range *backlog {
		w.primary.Psql(t, "INSERT INTO filler SELECT md5(i::text) FROM generate_series(1, 5000) i")
		w.primary.Psql(t, "SELECT pg_switch_wal()")
	}
	var put atomic.Int64
	var mu sync.Mutex
	twice := map[string]int{}
	half := make(chan struct{})
	front.Set(func(rw http.ResponseWriter, req *http.Request, server http.Handler) {
		answer := &heard{ResponseWriter: rw}
		server.ServeHTTP(answer, req)
		if req.Method != http.MethodPut || answer.code != http.StatusOK || !strings.Contains(req.URL.Path, "/wal/") {
			return
		}
		mu.Lock()
		twice[req.URL.Path]++
		mu.Unlock()
		if put.Add(1) == int64(*backlog/2) {
			close(half)
		}
	})
	ws := write(t, w.primary, 2)
	<-half
	r.kill()
	r = w.receive()
	ws.atLeast(t, 50)
	ws.stop()
	w.archived()
	r.stop()
	for path, n := range twice {
		if n > 1 {
			t.Errorf("%s was put %d times", path, n)
		}
	}
	var list struct{ WAL []walRun }
	decode(t, w.must("list", "wal", "--json"), &list)
	if len(list.WAL) != 1 || list.WAL[0].State != "complete" || list.WAL[0].Segments < uint64(*backlog) {
		t.Errorf("%d segments and more were written, but the archive has %+v", *backlog, list.WAL)
	}
}

// In steady state a segment is one request, but for what happens each minute.
func TestS3Requests(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	front := w.inS3()
	w.env = append(w.env, "WALSTREAM_TAIL_INTERVAL=0s")
	r := w.receive("--create-slot")
	w.archived()
	var all, puts atomic.Int64
	front.Set(func(rw http.ResponseWriter, req *http.Request, server http.Handler) {
		all.Add(1)
		if req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/wal/") {
			puts.Add(1)
		}
		server.ServeHTTP(rw, req)
	})
	w.primary.Psql(t, "CREATE TABLE filler (v text)")
	const segments = 60
	for range segments {
		w.primary.Psql(t, "INSERT INTO filler SELECT md5(i::text) FROM generate_series(1, 5000) i")
		w.primary.Psql(t, "SELECT pg_switch_wal()")
	}
	testkit.Wait(t, "the segments to be put", func() (bool, string) { return puts.Load() >= segments, r.output() })
	t.Logf("%d requests, %d of them put WAL", all.Load(), puts.Load())
	if all.Load()*10 > puts.Load()*11 {
		t.Errorf("%d requests for %d segments: more than 1.1 each", all.Load(), puts.Load())
	}
	r.stop()
}

// heard notes the code of an answer.
type heard struct {
	http.ResponseWriter
	code int
}

func (h *heard) WriteHeader(code int) {
	h.code = code
	h.ResponseWriter.WriteHeader(code)
}
