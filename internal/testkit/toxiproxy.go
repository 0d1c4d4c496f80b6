package testkit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
)

// Toxiproxy is a running proxy that spoils connections.
type Toxiproxy struct{ api string }

// StartToxiproxy starts one, which stops with the test.
func StartToxiproxy(t testing.TB) *Toxiproxy {
	t.Helper()
	port := fmt.Sprint(FreePort(t))
	cmd := Command(t, Tool(t, "toxiproxy"), "-host", "127.0.0.1", "-port", port)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	p := &Toxiproxy{"http://127.0.0.1:" + port}
	Wait(t, "toxiproxy", func() (bool, string) {
		resp, err := http.Get(p.api + "/version")
		if err != nil {
			return false, err.Error()
		}
		resp.Body.Close()
		return true, ""
	})
	return p
}

// Wire is a way through the proxy to a server.
type Wire struct {
	Port   int // on 127.0.0.1
	t      testing.TB
	api    string
	toxics int
}

// Wire makes a way to a host:port, for as long as the test runs.
func (p *Toxiproxy) Wire(t testing.TB, name, to string) *Wire {
	t.Helper()
	w := &Wire{Port: FreePort(t), t: t, api: p.api + "/proxies/" + name}
	call(t, "POST", p.api+"/proxies", map[string]any{"name": name, "listen": fmt.Sprintf("127.0.0.1:%d", w.Port), "upstream": to, "enabled": true})
	t.Cleanup(func() { call(t, "DELETE", w.api, nil) })
	return w
}

// Set changes the way; its connections are closed.
func (w *Wire) Set(settings map[string]any) {
	w.t.Helper()
	call(w.t, "POST", w.api, settings)
}

// Toxic spoils one direction, "upstream" is to the server, and returns what
// mends it.
func (w *Wire) Toxic(kind, stream string, attributes map[string]any) (mend func()) {
	w.t.Helper()
	w.toxics++
	name := fmt.Sprintf("%s-%d", kind, w.toxics)
	call(w.t, "POST", w.api+"/toxics", map[string]any{"name": name, "type": kind, "stream": stream, "attributes": attributes})
	return func() { w.t.Helper(); call(w.t, "DELETE", w.api+"/toxics/"+name, nil) }
}

func call(t testing.TB, method, url string, body any) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(method, url, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, _ := io.ReadAll(resp.Body); resp.StatusCode >= 300 {
		t.Fatalf("toxiproxy %s %s %s: %s: %s", method, url, text, resp.Status, answer)
	}
}
