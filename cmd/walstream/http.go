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

	"github.com/walstream/walstream/internal/hint"
)

// listenHTTP takes the address of http.listen; nil when there is to be no
// HTTP server.
func (d *daemon) listenHTTP(ctx context.Context) (net.Listener, error) {
	address := d.conf.HTTPListen
	if address == "" {
		return nil, nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	if err != nil {
		err = fmt.Errorf("http.listen %s: %w", address, errors.Unwrap(err))
		return nil, hint.With(err, "set http.listen in the configuration to a free address; once, or without metrics: WALSTREAM_HTTP_LISTEN=off walstream receive")
	}
	return l, nil
}

// serveHTTP answers on l until ctx ends. Without it streaming goes on.
func (d *daemon) serveHTTP(ctx context.Context, l net.Listener) error {
	handler, err := d.handler()
	if err != nil {
		return errors.Join(err, l.Close())
	}
	server := &http.Server{Handler: handler, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, ErrorLog: stdlog.New(d.log, "", 0)}
	d.log.Info().Stringer("address", l.Addr()).Msg("serving /metrics")
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		answer, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if server.Shutdown(answer) != nil {
			_ = server.Close() // who still waits for an answer gets none
		}
	})
	err = server.Serve(l)
	if stop() { // it ended by itself
		d.log.Error().Err(err).Msg("no /metrics any more")
		return nil
	}
	<-closed
	return nil
}

func (d *daemon) handler() (http.Handler, error) {
	reg := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{newCollector(d.status), d.flushes,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "alive") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if lacks := d.status().unready(); len(lacks) > 0 {
			http.Error(w, strings.Join(lacks, "\n"), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "streaming and archiving")
	})
	return mux, nil
}
