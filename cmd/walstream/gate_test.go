package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/recovery"
)

// authority signs certificates for servers on 127.0.0.1, and for clients.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.issue("ca")
	return a
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// issue makes the files NAME.pem and NAME.key. The first is the authority's
// own.
func (a *authority) issue(name string) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true, IsCA: a.cert == nil,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(name+".pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	a.write(name+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) write(name string, body []byte) {
	a.t.Helper()
	if err := os.WriteFile(a.file(name), body, 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// guarded serves WAL of nothing behind the gate of c and returns the port.
func guarded(t *testing.T, c config.HTTP, handler http.Handler) string {
	t.Helper()
	l, err := listenHTTP(t.Context(), c, "")
	if err != nil {
		t.Fatal(err)
	}
	if handler == nil {
		handler = newWALMux(l.gate, recovery.Server{})
	} else {
		handler = l.gate.guard(handler)
	}
	server := &http.Server{Handler: handler}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// call asks as wal-get --from does with the settings c; code 0 is no answer.
func call(t *testing.T, c config.HTTP, url, path string) (code int) {
	t.Helper()
	r, err := remote(c, url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Client.CloseIdleConnections()
	req, _ := http.NewRequest(http.MethodGet, r.URL+path, nil)
	if r.Token != "" {
		req.Header.Set("Authorization", "Bearer "+r.Token)
	}
	resp, err := r.Client.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// Who may read WAL. 400 is the answer of the server behind the gate.
func TestGate(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	ours.issue("server")
	ours.issue("client")
	theirs.issue("client")
	ours.write("token", []byte("a-long-random-word\n"))
	ours.write("other", []byte("a-long-random-wore"))
	const local, everywhere = "127.0.0.1:0", "0.0.0.0:0"
	token, other := ours.file("token"), ours.file("other")
	withTLS := func(c config.HTTP) config.HTTP {
		c.TLSCert, c.TLSKey = ours.file("server.pem"), ours.file("server.key")
		return c
	}
	certs := withTLS(config.HTTP{Listen: everywhere, ClientCA: ours.file("ca.pem")})
	both := certs
	both.TokenFile = token
	trusts := config.HTTP{CAFile: ours.file("ca.pem")}
	ownCert := config.HTTP{CAFile: ours.file("ca.pem"), TLSCert: ours.file("client.pem"), TLSKey: ours.file("client.key")}
	withToken := ownCert
	withToken.TokenFile = token
	theirCert := config.HTTP{CAFile: ours.file("ca.pem"), TLSCert: theirs.file("client.pem"), TLSKey: theirs.file("client.key")}
	for _, c := range []struct {
		name           string
		server, client config.HTTP
		scheme         string
		want           int
	}{
		{"on this machine", config.HTTP{Listen: local}, config.HTTP{}, "http", 400},
		{"needless token", config.HTTP{Listen: local}, config.HTTP{TokenFile: token}, "http", 400},
		{"closed to others", config.HTTP{Listen: everywhere}, config.HTTP{TokenFile: token}, "http", 403},
		{"token", config.HTTP{Listen: everywhere, TokenFile: token}, config.HTTP{TokenFile: token}, "http", 400},
		{"no token", config.HTTP{Listen: everywhere, TokenFile: token}, config.HTTP{}, "http", 401},
		{"no token on this machine", config.HTTP{Listen: local, TokenFile: token}, config.HTTP{}, "http", 401},
		{"another token", config.HTTP{Listen: local, TokenFile: token}, config.HTTP{TokenFile: other}, "http", 401},
		{"TLS", withTLS(config.HTTP{Listen: local}), trusts, "https", 400},
		{"TLS is no key", withTLS(config.HTTP{Listen: everywhere}), trusts, "https", 403},
		{"server of another authority", withTLS(config.HTTP{Listen: local}), config.HTTP{CAFile: theirs.file("ca.pem")}, "https", 0},
		{"certificate", certs, ownCert, "https", 400},
		{"no certificate", certs, trusts, "https", 403},
		{"certificate of another authority", certs, theirCert, "https", 0},
		{"certificate without token", both, ownCert, "https", 401},
		{"certificate and token", both, withToken, "https", 400},
	} {
		url := c.scheme + "://127.0.0.1:" + guarded(t, c.server, nil)
		for _, path := range []string{"/wal/x", "/history/x", "/plan?target-lsn=x"} {
			if got := call(t, c.client, url, path); got != c.want {
				t.Errorf("%s: %s: %d, want %d", c.name, path, got, c.want)
			}
		}
		// Who watches needs nothing but a connection.
		if got := call(t, config.HTTP{CAFile: c.client.CAFile}, url, "/healthz"); got != 200 && c.client.CAFile != theirs.file("ca.pem") {
			t.Errorf("%s: /healthz: %d", c.name, got)
		}
	}
}

// A certificate that is renewed is used without a restart.
func TestRenewedCertificate(t *testing.T) {
	ours := newAuthority(t)
	first, _ := ours.issue("server")
	address := "127.0.0.1:" + guarded(t, config.HTTP{Listen: "127.0.0.1:0", TLSCert: ours.file("server.pem"), TLSKey: ours.file("server.key")}, nil)
	serial := func() *big.Int {
		conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber
	}
	if got := serial(); got.Cmp(first.SerialNumber) != 0 {
		t.Errorf("certificate %v, want %v", got, first.SerialNumber)
	}
	second, _ := ours.issue("server")
	if got := serial(); got.Cmp(second.SerialNumber) != 0 {
		t.Errorf("certificate %v, want %v", got, second.SerialNumber)
	}
}

// Only so many are served at a time; the others wait for a seat.
func TestGateSeats(t *testing.T) {
	inside, leave := make(chan struct{}), make(chan struct{})
	url := "http://127.0.0.1:" + guarded(t, config.HTTP{Listen: "127.0.0.1:0"}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		inside <- struct{}{}
		<-leave
	}))
	codes := make(chan int)
	for range gateSeats + 1 {
		go func() { codes <- call(t, config.HTTP{}, url, "/") }()
	}
	for range gateSeats {
		<-inside
	}
	select {
	case <-inside:
		t.Error("one more is served")
	case <-time.After(20 * time.Millisecond):
	}
	leave <- struct{}{}
	<-inside
	close(leave)
	for range gateSeats + 1 {
		if code := <-codes; code != 200 {
			t.Errorf("%d", code)
		}
	}
}
