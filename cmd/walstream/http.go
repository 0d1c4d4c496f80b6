package main

import (
	"context"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/recovery"
)

// httpListener is the address of http.listen, and who may read WAL there.
type httpListener struct {
	net.Listener
	gate *gate
}

// listenHTTP takes the address of http.listen; nil when there is to be no
// HTTP server. The remedy is for an address that cannot be had.
func listenHTTP(ctx context.Context, c config.HTTP, remedy string) (*httpListener, error) {
	if c.Listen == "" {
		return nil, nil
	}
	gate, tls, err := newGate(c)
	if err != nil {
		return nil, &usageError{err}
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", c.Listen)
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	if err != nil {
		return nil, hint.Errorf(remedy, "http.listen %s: %w", c.Listen, errors.Unwrap(err))
	}
	gate.local = l.Addr().(*net.TCPAddr).IP.IsLoopback()
	return &httpListener{tls(l), gate}, nil
}

// serveHTTP answers on l until ctx ends.
func serveHTTP(ctx context.Context, l net.Listener, handler http.Handler, log zerolog.Logger) error {
	server := &http.Server{Handler: handler, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, ErrorLog: stdlog.New(log, "", 0)}
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		answer, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if server.Shutdown(answer) != nil {
			_ = server.Close() // who still waits for an answer gets none
		}
	})
	err := server.Serve(l)
	if stop() { // it ended by itself
		return err
	}
	<-closed
	return nil
}

// serveHTTP answers on l until ctx ends. Without it streaming goes on.
func (d *daemon) serveHTTP(ctx context.Context, l *httpListener) error {
	handler, err := d.handler(l.gate)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	d.log.Info().Stringer("address", l.Addr()).Msg("serving /metrics")
	if err := serveHTTP(ctx, l, handler, d.log); err != nil {
		d.log.Error().Err(err).Msg("no /metrics any more")
	}
	return nil
}

func (d *daemon) handler(g *gate) (http.Handler, error) {
	reg := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{newCollector(d.status), d.flushes,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	mux := newWALMux(g, recovery.Server{
		Open:  d.archiveAnew,
		Spool: func() (string, error) { return d.conf.SpoolDir, nil }, Log: d.log,
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if lacks := d.status().unready(); len(lacks) > 0 {
			http.Error(w, strings.Join(lacks, "\n"), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "streaming and archiving")
	})
	return mux, nil
}

// archiveAnew opens the archive again, for those that it serves.
func (d *daemon) archiveAnew(ctx context.Context) (*archive.Archive, error) {
	arch, err := d.archiveOpen()
	if err != nil {
		return nil, err
	}
	return keys(d.conf).Open(ctx, arch.Store())
}
