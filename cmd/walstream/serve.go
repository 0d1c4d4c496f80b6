package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/recovery"
)

func (a *app) serveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "serve", Short: "Give WAL by HTTP to hosts that cannot read the archive", Args: wants(),
		Long: `Answer "walstream wal-get --from URL" on http.listen, until SIGINT or SIGTERM,
with the WAL of the archive and of a receiver's spool on this host (--spool).
"walstream receive" does the same on its own http.listen.

WAL holds all that is in the database. Other machines get it only with the word
in http.token_file, or a certificate of the authority in http.client_ca.

GET /wal/FILE is a segment or timeline history, /history/N the history of
timeline N, and /plan?target-time=T what "walstream restore --dry-run --json"
plans, with its flags for target and backup as parameters.`,
		RunE: a.configured(a.serve),
	}
}

func (a *app) serve(ctx context.Context, c *config.Loaded, _ []string) error {
	if _, err := requireArchive(c); err != nil {
		return err
	}
	l, err := listenHTTP(ctx, c.HTTP, "on a free address: WALSTREAM_HTTP_LISTEN=127.0.0.1:9787 walstream serve")
	if err != nil {
		return err
	}
	if l == nil {
		return &usageError{hint.Errorf("WALSTREAM_HTTP_LISTEN=127.0.0.1:9788 walstream serve", "http.listen: there is no address to serve on")}
	}
	defer func() { _ = l.Close() }() // the server does that too
	if !l.gate.open() {
		return &usageError{hint.With(fmt.Errorf("http.listen %s: %w", c.HTTP.Listen, errUnguarded),
			"put a long random word into a file that only walstream can read: WALSTREAM_HTTP_TOKEN_FILE=FILE walstream serve")}
	}
	arch, err := a.openArchive(ctx, c)
	if err != nil {
		return err
	}
	log := a.daemonLogger()
	log.Info().Stringer("address", l.Addr()).Msg("serving WAL")
	return serveHTTP(ctx, l, newWALMux(l.gate, recovery.Server{
		Open:  func(ctx context.Context) (*archive.Archive, error) { return keys(c).Open(ctx, arch.Store()) },
		Spool: func() (string, error) { return a.spoolToRead(c) }, Log: log,
	}), log)
}

// newWALMux answers what serve and receive both do.
func newWALMux(g *gate, s recovery.Server) *http.ServeMux {
	inner := http.NewServeMux()
	s.Register(inner)
	inner.HandleFunc("GET /plan", func(w http.ResponseWriter, r *http.Request) { servePlan(w, r, s) })
	mux := http.NewServeMux()
	for _, path := range []string{"/wal/", "/history/", "/plan"} {
		mux.Handle(path, g.guard(inner))
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "alive") })
	return mux
}

// remote is the server of --from.
func remote(c config.HTTP, from string) (*recovery.Remote, error) {
	u, err := url.Parse(from)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return nil, fmt.Errorf("--from %q: write it like http://127.0.0.1:9788", config.Mask(from))
	}
	r := &recovery.Remote{URL: strings.TrimRight(from, "/")}
	if r.Token, err = readToken(c); err != nil {
		return nil, err
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		if conf.RootCAs, err = readCA("http.ca_file", c.CAFile); err != nil {
			return nil, err
		}
	}
	if c.TLSCert != "" {
		cert, err := readCert(c)
		if err != nil {
			return nil, err
		}
		conf.Certificates = []tls.Certificate{*cert}
	}
	r.Client = &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: conf, DisableCompression: true}}
	return r, nil
}
