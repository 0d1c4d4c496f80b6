package recovery

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/walstream/walstream/archive"
)

// serving is a Server before an archive and a spool, and a host that has it
// only. Between them answers can be changed.
type serving struct {
	*getter
	url    string
	side   string // directory with a plan, on the host
	change func(w http.ResponseWriter, r *http.Request, honest http.Handler)
}

func newServing(t *testing.T, store archive.Store) *serving {
	t.Helper()
	s := &serving{getter: newGetter(t)}
	if store == nil {
		store = s.store
	}
	t.Setenv("TMPDIR", t.TempDir())
	mux := http.NewServeMux()
	server := Server{
		Open:  func(ctx context.Context) (*archive.Archive, error) { return archive.Open(ctx, store) },
		Spool: func() (string, error) { return s.spool, nil },
	}
	server.Register(mux)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.change != nil {
			s.change(w, r, mux)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		front.Close()
		if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "*")); len(left) > 0 {
			t.Errorf("left %s", left)
		}
	})
	s.url = front.URL
	return s
}

// ask asks as a host does that has the server only.
func (s *serving) ask(file string) (Outcome, error) {
	return WalGet(context.Background(), s.config(), file, s.target())
}

func (s *serving) config() WalGetConfig {
	return WalGetConfig{From: &Remote{URL: s.url, Client: http.DefaultClient}, Spool: s.side, RetryFor: -1}
}

// same says whether the host gets what a host with the archive does, and the
// outcome.
func (s *serving) same(t *testing.T, store archive.Store, file string) (out Outcome) {
	t.Helper()
	var body [2][]byte
	var outs [2]Outcome
	for i, ask := range []func() (Outcome, error){func() (Outcome, error) { return s.getter.ask(store, file) }, func() (Outcome, error) { return s.ask(file) }} {
		os.Remove(s.target())
		got, err := ask()
		if (err == nil) != (got == Delivered) {
			t.Errorf("%s: %d, %v", file, got.ExitCode(), err)
		}
		outs[i] = got
		body[i], _ = os.ReadFile(s.target())
	}
	if outs[0] != outs[1] || !bytes.Equal(body[0], body[1]) {
		t.Errorf("%s: %d with %d bytes from the archive, %d with %d from the server", file, outs[0].ExitCode(), len(body[0]), outs[1].ExitCode(), len(body[1]))
	}
	if left, _ := filepath.Glob(s.target() + ".*"); len(left) > 0 {
		t.Errorf("%s: left %s", file, left)
	}
	s.behindServer(t, s.config(), file, outs[1], body[1])
	return outs[1]
}

// A host that asks a server gets what it would get from the archive, whatever
// it asks for and whatever goes wrong behind the server.
func TestServeIsWalGet(t *testing.T) {
	s := newServing(t, nil)
	files := []string{
		"00000001.history", "00000002.history", "00000003.history", seg(1, 5) + ".partial", seg(1, 2) + ".00000028.backup",
		"", "../../etc/passwd", "RECOVERYXLOG", "000000010000000000FFFFFF", "0000000a.history", "00000000.history", "00000001000000000000000g",
	}
	for no := range uint64(7) {
		files = append(files, seg(1, no), seg(2, no), seg(3, no))
	}
	seen := map[Outcome]int{}
	for _, file := range files {
		seen[s.same(t, s.store, file)]++
	}
	if seen[Delivered] < 6 || seen[Absent] < 6 || seen[Trouble] < 6 {
		t.Errorf("outcomes %v", seen)
	}
	s.withPlan(t, nil, map[string][]byte{ // a receiver's spool
		"00000003.history": []byte("1\t0/654321\treason\n"), seg(1, 5) + ".00090000.tail": nth(s.wal, 4)[:0x90000], seg(1, 6): nth(s.wal, 5),
	})
	for file, want := range map[string]Outcome{seg(1, 5): Trouble, seg(1, 6): Delivered, seg(1, 7): Absent, "00000003.history": Delivered, seg(3, 6): Trouble} {
		if got := s.same(t, s.store, file); got != want {
			t.Errorf("%s: %d, want %d", file, got.ExitCode(), want.ExitCode())
		}
	}
	s.withPlan(t, nil, map[string][]byte{seg(1, 5) + ".00090000.tail": nth(s.wal, 4)[:0x90000]})
	if got := s.same(t, s.store, seg(1, 5)); got != Delivered {
		t.Errorf("the live tail: %d", got.ExitCode())
	}
}

func TestServeTrouble(t *testing.T) {
	network := errors.New("connection reset")
	broken := faulty{list: func(string) error { return network }, get: func(name string) error {
		if name == "walstream.json" {
			return nil
		}
		return network
	}}
	mangled := faulty{mangle: func(name string, body []byte) []byte {
		if strings.HasSuffix(name, ".zst") {
			body[len(body)/2] ^= 1
		}
		return body
	}}
	away := faulty{get: func(string) error { return archive.ErrNotExist }} // not mounted
	for what, store := range map[string]faulty{"broken": broken, "mangled": mangled, "away": away} {
		t.Run(what, func(t *testing.T) {
			g := newGetter(t)
			store.Store = g.store
			s := newServing(t, store)
			for _, file := range []string{seg(1, 1), seg(1, 5)} {
				if got := s.same(t, store, file); got != Trouble {
					t.Errorf("%s: %d", file, got.ExitCode())
				}
			}
		})
	}
}

// fetch asks by HTTP.
func (s *serving) fetch(t *testing.T, method, path string, header ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequest(method, s.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req) // follows nothing
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

// Nothing is served but WAL by its exact name.
func TestServeNames(t *testing.T) {
	s := newServing(t, nil)
	const bad, elsewhere = "400 ", "404 "
	for path, want := range map[string]string{
		"/wal/" + seg(1, 1):         "200 delivered",
		"/wal/00000002.history":     "200 delivered",
		"/history/2":                "200 delivered",
		"/wal/" + seg(1, 6):         "404 absent",
		"/history/1":                "404 absent",
		"/history/3":                "404 absent",
		"/wal/" + seg(1, 3):         "503 trouble",
		"/history/00000002.history": bad,
		"/history/0":                bad,
		"/history/-1":               bad,
		"/history/4294967296":       bad,
		"/wal/" + strings.ToLower("0000000A0000000000000001"): bad,
		"/wal/" + seg(1, 1)[1:]:                               bad,
		"/wal/" + seg(1, 1) + "0":                             bad,
		"/wal/000000010000000000FFFFFF":                       bad, // of segments of another size
		"/wal/000000000000000000000001":                       bad,
		"/wal/" + seg(1, 5) + ".partial":                      bad,
		"/wal/" + seg(1, 1) + "%00":                           bad,
		"/wal/" + seg(1, 1) + "%0A":                           bad,
		"/wal/walstream.json":                                 bad,
		"/wal/%2e%2e":                                         bad,
		"/wal/%2e%2e%2fwalstream.json":                        bad,
		"/wal/..%2f..%2f..%2fetc%2fpasswd":                    bad,
		"/wal/%2fetc%2fpasswd":                                bad,
		"/wal/":                                               elsewhere,
		"/wal/" + seg(1, 1) + "/":                             elsewhere,
		"/wal/x/" + seg(1, 1):                                 elsewhere,
	} {
		resp, body := s.fetch(t, http.MethodGet, path)
		if got := fmt.Sprint(resp.StatusCode, " ", resp.Header.Get(outcomeHeader)); got != want {
			t.Errorf("%s: %s, want %s: %s", path, got, want, body[:min(len(body), 200)])
		}
		if want != elsewhere && strings.HasPrefix(path, "/wal/") && resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: a proxy may keep it: %v", path, resp.Header)
		}
	}
	if resp, _ := s.fetch(t, http.MethodPost, "/wal/"+seg(1, 1)); resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %s", resp.Status)
	}
}

// A range, and a HEAD, tell of the whole file.
func TestServeRanges(t *testing.T) {
	s := newServing(t, nil)
	whole := nth(s.wal, 0)
	head, body := s.fetch(t, http.MethodHead, "/wal/"+seg(1, 1))
	if head.StatusCode != http.StatusOK || len(body) > 0 || head.ContentLength != int64(testSize) || head.Header.Get(digestHeader) == "" {
		t.Errorf("HEAD: %s, %d bytes, %v", head.Status, len(body), head.Header)
	}
	tag := head.Header.Get("ETag")
	for _, c := range []struct {
		header []string
		code   int
		want   []byte
	}{
		{nil, http.StatusOK, whole},
		{[]string{"Range", "bytes=0-39"}, http.StatusPartialContent, whole[:40]},
		{[]string{"Range", "bytes=1048000-"}, http.StatusPartialContent, whole[1048000:]},
		{[]string{"Range", "bytes=-10", "If-Range", tag}, http.StatusPartialContent, whole[len(whole)-10:]},
		{[]string{"Range", "bytes=-10", "If-Range", `"other"`}, http.StatusOK, whole},
	} {
		resp, body := s.fetch(t, http.MethodGet, "/wal/"+seg(1, 1), c.header...)
		if resp.StatusCode != c.code || !bytes.Equal(body, c.want) || resp.Header.Get(digestHeader) != head.Header.Get(digestHeader) {
			t.Errorf("%v: %s, %d bytes, %v", c.header, resp.Status, len(body), resp.Header)
		}
	}
	if resp, _ := s.fetch(t, http.MethodGet, "/wal/"+seg(1, 1), "Range", "bytes=1048576-"); resp.StatusCode != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("behind the end: %s", resp.Status)
	}
}

// answer is what a server says, to be changed.
type answer struct {
	*httptest.ResponseRecorder
	cut bool // the connection breaks behind half of the body
}

// lies makes s change each answer.
func (s *serving) lies(change func(*answer)) {
	s.change = func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
		a := &answer{ResponseRecorder: httptest.NewRecorder()}
		honest.ServeHTTP(a, r)
		change(a)
		for name, values := range a.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(a.Code)
		body := a.Body.Bytes()
		if a.cut {
			w.Write(body[:len(body)/2])
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		w.Write(body)
	}
}

// What is not beyond doubt the answer of a walstream of this cluster is
// neither a file nor the end of WAL.
func TestRemoteDoubt(t *testing.T) {
	s := newServing(t, nil)
	other := func(a *answer) []byte { // the same length, another segment
		a.Header().Set(digestHeader, digest(sum(nth(s.wal, 1))))
		return nth(s.wal, 1)
	}
	replace := func(a *answer, body []byte) {
		a.Body = bytes.NewBuffer(body)
		a.Header().Set("Content-Length", fmt.Sprint(len(body)))
	}
	for what, change := range map[string]func(*answer){
		"a proxy":          func(a *answer) { a.Header().Del(outcomeHeader) },
		"another outcome":  func(a *answer) { a.Header().Set(outcomeHeader, "trouble") },
		"absent with 200":  func(a *answer) { a.Code = 200; a.Header().Set(outcomeHeader, "absent") },
		"delivered by 404": func(a *answer) { a.Code = 404; a.Header().Set(outcomeHeader, "delivered") },
		"a gateway":        func(a *answer) { a.Code = http.StatusBadGateway },
		"gone":             func(a *answer) { a.Code = http.StatusGone },
		"a part":           func(a *answer) { a.Code = http.StatusPartialContent },
		"no cluster":       func(a *answer) { a.Header().Del(clusterHeader) },
		"odd cluster":      func(a *answer) { a.Header().Set(clusterHeader, `{"segment_size":12}`) },
	} {
		s.lies(change)
		for _, file := range []string{seg(1, 1), seg(1, 5), seg(1, 6), "00000002.history", "00000003.history"} {
			s.expectTrouble(t, what, file)
		}
	}
	for what, change := range map[string]func(*answer){
		"no digest":      func(a *answer) { a.Header().Del(digestHeader) },
		"another digest": func(a *answer) { a.Header().Set(digestHeader, digest(make([]byte, 32))) },
		"flipped":        func(a *answer) { a.Body.Bytes()[a.Body.Len()/2] ^= 1 },
		"killed":         func(a *answer) { a.cut = true },
		"short":          func(a *answer) { replace(a, a.Body.Bytes()[:a.Body.Len()/2]) },
		"a log-in page": func(a *answer) {
			replace(a, []byte("<html>please log in"))
			a.Header().Set("Content-Type", "text/html")
		},
		"longer": func(a *answer) {
			replace(a, append(a.Body.Bytes(), 0))
			a.Header().Set(digestHeader, digest(sum(a.Body.Bytes())))
		},
		"another file": func(a *answer) { replace(a, other(a)) },
		"no WAL": func(a *answer) {
			b := make([]byte, testSize)
			replace(a, b)
			a.Header().Set(digestHeader, digest(sum(b)))
		},
	} {
		s.lies(change)
		for _, file := range []string{seg(1, 1), seg(1, 5), "00000002.history"} {
			s.expectTrouble(t, what, file)
		}
	}
	s.lies(func(a *answer) { a.Header().Set(paddedHeader, "") })
	s.expectTrouble(t, "no padding told", seg(1, 1))
	s.lies(func(a *answer) { a.Header().Set(paddedHeader, "0") })
	s.expectTrouble(t, "padding denied", seg(1, 5))
}

func (s *serving) expectTrouble(t *testing.T, what, file string) {
	t.Helper()
	if out, err := s.ask(file); out != Trouble || err == nil {
		t.Errorf("%s: %s: %d, %v", what, file, out.ExitCode(), err)
	}
	if left, _ := filepath.Glob(s.target() + "*"); len(left) > 0 {
		t.Errorf("%s: %s: left %s", what, file, left)
	}
}

// The file is for a data directory, of one cluster.
func TestRemoteOfAnotherCluster(t *testing.T) {
	s := newServing(t, nil)
	data := t.TempDir()
	for _, dir := range []string{"global", "pg_wal"} {
		if err := os.Mkdir(filepath.Join(data, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s.dir = filepath.Join(data, "pg_wal")
	control := func(body string) {
		if err := os.WriteFile(filepath.Join(data, "global", "pg_control"), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	control("\x07\x00\x00\x00\x00\x00\x00\x00...")
	for file, want := range map[string]Outcome{seg(1, 1): Delivered, seg(1, 6): Absent, "00000002.history": Delivered, "00000003.history": Absent} {
		if got := s.same(t, s.store, file); got != want {
			t.Errorf("%s: %d", file, got.ExitCode())
		}
		os.Remove(s.target())
	}
	for _, body := range []string{"\x08\x00\x00\x00\x00\x00\x00\x00...", "\x07\x00"} {
		control(body)
		for _, file := range []string{seg(1, 1), seg(1, 6), "00000002.history", "00000003.history"} {
			s.expectTrouble(t, "another cluster", file)
		}
	}
}

// What the plan of a restore needs is never absent.
func TestRemoteWithPlan(t *testing.T) {
	s := newServing(t, nil)
	ask := func(p *Plan, file string, want Outcome) {
		t.Helper()
		s.withPlan(t, p, nil)
		s.side, s.spool = s.spool, ""
		if out, err := s.ask(file); out != want {
			t.Errorf("%s: %d, %v, want %d", file, out.ExitCode(), err, want.ExitCode())
		}
	}
	p := &Plan{Timeline: 3, Need: 0x610000, End: 0x610000, WAL: []Range{{Timeline: 1, First: seg(1, 4), Last: seg(1, 6)}}}
	ask(p, seg(1, 6), Trouble)
	ask(p, seg(1, 7), Absent)
	ask(p, "00000003.history", Trouble)
	ask(p, "00000004.history", Absent)
	ask(p, seg(1, 5), Trouble) // needed as a whole
	p.Need, p.WAL[0].Last = 0x550000, seg(1, 5)
	ask(p, seg(1, 5), Delivered)
	p.Need++
	ask(p, seg(1, 5), Trouble)
}

// A standby that has more of a segment than the server keeps its own.
func TestRemoteOwnIsLonger(t *testing.T) {
	s := newServing(t, nil)
	own := filepath.Join(s.dir, seg(1, 5))
	for n, want := range map[int]Outcome{0x40000: Delivered, 0x90000: Absent} {
		if err := os.WriteFile(own, padded(nth(s.wal, 4), n), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := s.same(t, s.store, seg(1, 5)); got != want {
			t.Errorf("with %#x bytes: %d", n, got.ExitCode())
		}
	}
	if err := os.WriteFile(filepath.Join(s.dir, seg(1, 1)), nth(s.wal, 0), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := s.same(t, s.store, seg(1, 1)); got != Delivered {
		t.Errorf("a whole segment: %d", got.ExitCode())
	}
}

func sum(b []byte) []byte {
	s := sha256.Sum256(b)
	return s[:]
}

// A server that falls silent is trouble, not patience for ever.
func TestRemoteSilence(t *testing.T) {
	g := newGetter(t)
	synctest.Test(t, func(t *testing.T) {
		for what, body := range map[string]bool{"before": false, "in mid-body": true} {
			silent := func(req *http.Request) (*http.Response, error) {
				if !body {
					<-req.Context().Done()
					return nil, req.Context().Err()
				}
				r, w := io.Pipe()
				go func() { <-req.Context().Done(); w.CloseWithError(req.Context().Err()) }()
				return &http.Response{StatusCode: http.StatusOK, Body: r, Header: http.Header{
					outcomeHeader: {"delivered"}, clusterHeader: {`{"system_identifier":"7","major_version":15,"segment_size":1048576}`},
				}}, nil
			}
			out, err := WalGet(t.Context(), WalGetConfig{
				From: &Remote{URL: "http://silent", Client: &http.Client{Transport: roundTrip(silent)}}, RetryFor: -1,
			}, seg(1, 1), g.target())
			if out != Trouble || !errors.Is(err, errSilent) {
				t.Errorf("%s: %d, %v", what, out.ExitCode(), err)
			}
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
