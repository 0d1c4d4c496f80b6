package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/walstream/walstream/internal/config"
)

// gate lets those in who may read WAL, which holds all that is in the database:
// who has the token and the certificate, as far as they are asked for, or else
// only this machine. Of those that are in, it lets a few be served at a time.
type gate struct {
	local bool               // the address is of this machine only
	token *[sha256.Size]byte // of the token; nil: none is asked for
	certs bool               // a certificate of the clients' authority is asked for
	seats chan struct{}
}

const (
	gateSeats = 8
	gateWait  = 10 * time.Second
	gateTime  = 5 * time.Minute // for a request that has a seat
)

// newGate reads what the settings name. The function puts TLS on a listener, if
// there is a certificate.
func newGate(c config.HTTP) (*gate, func(net.Listener) net.Listener, error) {
	g := &gate{seats: make(chan struct{}, gateSeats), certs: c.ClientCA != ""}
	token, err := readToken(c)
	if err != nil {
		return nil, nil, err
	}
	if token != "" {
		sum := sha256.Sum256([]byte(token))
		g.token = &sum
	}
	if c.TLSCert == "" {
		if g.certs || c.TLSKey != "" {
			return nil, nil, errors.New("http.tls_cert: not set, but http.client_ca or http.tls_key")
		}
		return g, func(l net.Listener) net.Listener { return l }, nil
	}
	if _, err := readCert(c); err != nil {
		return nil, nil, err
	}
	// Read for each connection, so that a renewed certificate is used.
	conf := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return readCert(c) }}
	if g.certs {
		conf.ClientAuth = tls.VerifyClientCertIfGiven // who reads metrics needs none
		if conf.ClientCAs, err = readCA("http.client_ca", c.ClientCA); err != nil {
			return nil, nil, err
		}
	}
	return g, func(l net.Listener) net.Listener { return tls.NewListener(l, conf) }, nil
}

// readToken is the word of http.token_file, empty without one.
func readToken(c config.HTTP) (string, error) {
	if c.TokenFile == "" {
		return "", nil
	}
	body, err := os.ReadFile(c.TokenFile)
	words := strings.Fields(string(body))
	if err == nil && len(words) != 1 {
		err = fmt.Errorf("%s: it holds %d words, not one", c.TokenFile, len(words))
	}
	if err != nil {
		return "", fmt.Errorf("http.token_file: %w", err)
	}
	return words[0], nil
}

func readCert(c config.HTTP) (*tls.Certificate, error) {
	cert, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("http.tls_cert, http.tls_key: %w", err)
	}
	return &cert, nil
}

func readCA(key, name string) (*x509.CertPool, error) {
	body, err := os.ReadFile(name)
	pool := x509.NewCertPool()
	if err == nil && !pool.AppendCertsFromPEM(body) {
		err = fmt.Errorf("%s: there is no certificate in it", name)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return pool, nil
}

// open says whether anyone is let in at all.
func (g *gate) open() bool { return g.local || g.certs || g.token != nil }

// guard puts the gate before a handler.
func (g *gate) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		have := sha256.Sum256([]byte(token))
		switch {
		case !g.open():
			http.Error(w, errUnguarded.Error(), http.StatusForbidden)
			return
		case g.certs && len(r.TLS.VerifiedChains) == 0:
			http.Error(w, "a client certificate of the authority in http.client_ca is missing", http.StatusForbidden)
			return
		case g.token != nil && subtle.ConstantTimeCompare(have[:], g.token[:]) == 0:
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "the token is missing or wrong", http.StatusUnauthorized)
			return
		}
		wait := time.NewTimer(gateWait)
		defer wait.Stop()
		select {
		case g.seats <- struct{}{}:
			defer func() { <-g.seats }()
			ctx, cancel := context.WithTimeout(r.Context(), gateTime)
			defer cancel()
			// In place of the server's; a connection that has no deadline says so.
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(gateTime))
			next.ServeHTTP(w, r.WithContext(ctx))
		case <-r.Context().Done():
		case <-wait.C:
			http.Error(w, "too many requests at a time", http.StatusServiceUnavailable)
		}
	})
}

var errUnguarded = errors.New("WAL is given to other machines only with http.token_file or http.client_ca")
