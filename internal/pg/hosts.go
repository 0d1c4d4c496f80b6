package pg

import (
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"
)

// Hosts returns options for each host of the conninfo alone, in its order; o
// itself when there is only one. What a name resolves to is not told apart.
func (o Options) Hosts() ([]Options, error) {
	cfg, err := parse(o, "replication")
	if err != nil {
		return nil, err
	}
	var list []Options
	for _, way := range ways(cfg) {
		o.Host = address(way.Host, way.Port)
		if !slices.Contains(list, o) {
			list = append(list, o)
		}
	}
	if len(list) == 1 {
		list[0].Host = ""
	}
	return list, nil
}

// ways lists all that the driver would try: a host comes twice when it is
// tried with TLS and without.
func ways(cfg *pgconn.Config) []*pgconn.FallbackConfig {
	first := &pgconn.FallbackConfig{Host: cfg.Host, Port: cfg.Port, TLSConfig: cfg.TLSConfig}
	return append([]*pgconn.FallbackConfig{first}, cfg.Fallbacks...)
}

// only takes away the hosts that o does not want.
func (o Options) only(cfg *pgconn.Config) error {
	if o.Host == "" {
		return nil
	}
	left := slices.DeleteFunc(ways(cfg), func(w *pgconn.FallbackConfig) bool { return address(w.Host, w.Port) != o.Host })
	if len(left) == 0 {
		return fmt.Errorf("connection string: it has no host %s", o.Host)
	}
	cfg.Host, cfg.Port, cfg.TLSConfig, cfg.Fallbacks = left[0].Host, left[0].Port, left[0].TLSConfig, left[1:]
	return nil
}
