package archive_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/testkit"
)

// A slow network changes nothing.
func TestS3SlowNetwork(t *testing.T) {
	t.Parallel()
	server, proxy := startS3(t), testkit.StartToxiproxy(t)
	for kind, attributes := range map[string]map[string]any{
		"latency":   {"latency": 3, "jitter": 2}, // milliseconds
		"bandwidth": {"rate": 8 << 10},           // KB/s
	} {
		t.Run(kind, func(t *testing.T) {
			wire := proxy.Wire(t, kind, strings.TrimPrefix(server.URL, "http://"))
			wire.Toxic(kind, "upstream", attributes)
			wire.Toxic(kind, "downstream", attributes)
			testStore(t, func(t *testing.T) archive.Store {
				return openS3(t, "s3://"+bucket+"/"+strings.ReplaceAll(t.Name(), "/", "_"), archive.S3Config{Endpoint: fmt.Sprintf("http://127.0.0.1:%d", wire.Port)})
			})
		})
	}
}

// Whatever requests and answers are lost with their connections: of those who
// put a name one succeeds, its object is there, whole, and listed.
func TestS3BrokenNetwork(t *testing.T) {
	t.Parallel()
	server, proxy := startS3(t), testkit.StartToxiproxy(t)
	for kind, down := range map[string]func(*testkit.Wire) (up func()){
		"reset": func(w *testkit.Wire) func() { return w.Toxic("reset_peer", "downstream", map[string]any{"timeout": 0}) },
		"cut": func(w *testkit.Wire) func() {
			w.Set(map[string]any{"enabled": false})
			return func() { w.Set(map[string]any{"enabled": true}) }
		},
	} {
		t.Run(kind, func(t *testing.T) {
			wire := proxy.Wire(t, kind, strings.TrimPrefix(server.URL, "http://"))
			s := openS3(t, "s3://"+bucket+"/"+kind, archive.S3Config{Endpoint: fmt.Sprintf("http://127.0.0.1:%d", wire.Port)})
			over := make(chan struct{})
			var spoiling sync.WaitGroup
			spoiling.Go(func() {
				for {
					select {
					case <-over:
						return
					case <-time.After(200 * time.Millisecond):
						up := down(wire)
						time.Sleep(10 * time.Millisecond)
						up()
					}
				}
			})
			contend(t, s)
			close(over)
			spoiling.Wait()
		})
	}
}

// contend puts each of some names twice at the same time.
func contend(t *testing.T, s archive.Store) {
	const names = 16
	body := func(writer, name int) []byte {
		return bytes.Repeat(fmt.Appendf(nil, "writer %d of %02d ", writer, name), 10_000)
	}
	var puts sync.WaitGroup
	var errs [names][2]error
	for name := range names {
		for writer := range 2 {
			puts.Go(func() {
				errs[name][writer] = s.Put(t.Context(), fmt.Sprintf("dir/%02d", name), bytes.NewReader(body(writer, name)))
			})
		}
	}
	puts.Wait()
	for name, err := range errs {
		winner := 0
		if err[0] != nil {
			winner = 1
		}
		if err[winner] != nil || !errors.Is(err[1-winner], archive.ErrExists) {
			t.Errorf("name %d: %v and %v, want one success", name, err[0], err[1])
			continue
		}
		if got := read(t, s, fmt.Sprintf("dir/%02d", name)); got != string(body(winner, name)) {
			t.Errorf("name %d: not the object of the one who succeeded", name)
		}
	}
	n := 0
	for info, err := range s.List(t.Context(), "dir/", "") {
		if want := fmt.Sprintf("dir/%02d", n); err != nil || info.Name != want {
			t.Fatalf("listed %s, %v, want %s", info.Name, err, want)
		}
		n++
	}
	if n != names {
		t.Errorf("%d objects are listed, want %d", n, names)
	}
}
