package pg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// How long the hosts that have not answered are waited for once a primary or a
// standby has: after a failover the old primary may be silent for ever.
const (
	primaryGrace = 1500 * time.Millisecond
	standbyGrace = 5 * time.Second
)

// Server is a host that answered, and who it is.
type Server struct {
	*Conn
	Options  Options // lead to this host alone
	Identity segment.Identity
	System   System
	Standby  bool
	History  segment.History // of its timeline
	// HistoryFile is the file's body; timeline 1 has none.
	HistoryFile []byte
}

// SupersededError says that a server is a primary of the past: a timeline that
// descends from its own is known.
type SupersededError struct {
	Server   string // its address
	Timeline wal.Timeline
	Newer    wal.Timeline
	Where    string // what knows the newer one: "server b:5432", "archive s3://…"
}

func (e *SupersededError) Error() string {
	return fmt.Sprintf("server %s is on timeline %s, but %s knows timeline %s, which descends from it: an old primary",
		e.Server, e.Timeline, e.Where, e.Newer)
}

// Look connects to one host and asks who it is.
func Look(ctx context.Context, o Options) (*Server, error) {
	conn, err := ConnectReplication(ctx, o)
	if err != nil {
		return nil, err
	}
	s := &Server{Conn: conn, Options: o}
	if s.Standby, err = conn.InRecovery(ctx); err == nil {
		s.Identity, s.System, err = conn.Identity(ctx)
	}
	if err == nil {
		err = s.readHistory(ctx)
	}
	if err != nil {
		conn.Done()
		return nil, fmt.Errorf("server %s: %w", conn.Address(), err)
	}
	return s, nil
}

func (s *Server) readHistory(ctx context.Context) (err error) {
	tli := s.System.Timeline
	if tli > 1 { // timeline 1 has no file
		s.HistoryFile, err = s.TimelineHistory(ctx, tli)
	}
	if err == nil {
		s.History, err = segment.ParseHistory(tli, s.HistoryFile)
	}
	return err
}

// Again asks a server that was looked at how far it is now.
func (s *Server) Again(ctx context.Context) (err error) {
	before := s.System.Timeline
	if s.System, err = s.IdentifySystem(ctx); err == nil && s.System.Timeline != before {
		err = s.readHistory(ctx)
	}
	return err
}

// Supersedes fails with a [*SupersededError] if the server is on a timeline
// that descends from old's.
func (s *Server) Supersedes(old *Server) error {
	if _, ended := s.History.EndOf(old.System.Timeline); !ended {
		return nil
	}
	return old.Superseded(s.System.Timeline, "server "+s.Address())
}

// Superseded is the [*SupersededError] of s, with a hint.
func (s *Server) Superseded(newer wal.Timeline, where string) error {
	return hint.With(&SupersededError{Server: s.Address(), Timeline: s.System.Timeline, Newer: newer, Where: where},
		"give the address of the present primary in -d/--dbname, and make the old one its standby: pg_rewind")
}

// Survey looks at all hosts at once. It returns those that answered, the
// newest timeline first, which the caller closes, and why others did not. Once
// one has answered the others have little time left. A standby counts as an
// answer if there are several hosts.
func Survey(ctx context.Context, hosts []Options) ([]*Server, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		*Server
		err error
	}
	answers := make(chan answer)
	for _, o := range hosts {
		o.AllowStandby = len(hosts) > 1
		go func() {
			s, err := Look(ctx, o)
			answers <- answer{s, err}
		}()
	}
	var servers []*Server
	var failed []error
	for range hosts {
		a := <-answers
		if a.err != nil {
			failed = append(failed, a.err)
			continue
		}
		servers = append(servers, a.Server)
		grace := primaryGrace
		if a.Standby {
			grace = standbyGrace
		}
		defer time.AfterFunc(grace, cancel).Stop()
	}
	slices.SortStableFunc(servers, func(a, b *Server) int { return cmp.Compare(b.System.Timeline, a.System.Timeline) })
	return servers, silent(failed)
}

// silent makes one error of why hosts did not answer; definite only if all
// are.
func silent(failed []error) error {
	if len(failed) < 2 {
		return errors.Join(failed...)
	}
	slices.SortStableFunc(failed, func(a, b error) int { return cmp.Compare(rank(a), rank(b)) })
	var others []string
	for _, err := range failed[1:] {
		others = append(others, err.Error())
	}
	return fmt.Errorf("%w; %s", failed[0], strings.Join(others, "; "))
}

func rank(err error) int {
	if Definite(err) {
		return 1
	}
	return 0
}

// Choose takes the first primary of a survey that no other server supersedes
// and that fits, and closes the others. Without one it says what is wrong with
// the first primary, or that there is none.
func Choose(servers []*Server, failed error, fits func(*Server) error) (chosen *Server, err error) {
	for _, s := range servers {
		if s.Standby || chosen != nil {
			continue
		}
		var unfit error
		for _, other := range servers {
			unfit = cmp.Or(unfit, other.Supersedes(s))
		}
		if unfit == nil {
			unfit = fits(s)
		}
		if unfit == nil {
			chosen = s
		}
		err = cmp.Or(err, unfit)
	}
	for _, s := range servers {
		if s != chosen {
			s.Done()
		}
	}
	switch {
	case chosen != nil:
		return chosen, nil
	case err == nil && len(servers) > 0:
		return nil, noPrimary(servers, failed)
	}
	return nil, cmp.Or(err, failed)
}

// noPrimary is not definite: one of the standbys may be about to be promoted.
func noPrimary(standbys []*Server, failed error) error {
	var where []string
	for _, s := range standbys {
		where = append(where, s.Address())
	}
	err := fmt.Errorf("no primary: in recovery are %s", strings.Join(where, ", "))
	if failed != nil {
		err = fmt.Errorf("%w; %s", err, failed.Error())
	}
	return hint.With(err, "promote one of them (pg_ctl promote), or add the primary's address to -d/--dbname")
}

// primary is of several hosts the primary that is superseded by none; nil where
// there is no choice.
func (o Options) primary(ctx context.Context) (*Server, error) {
	hosts, err := o.Hosts()
	if err != nil || len(hosts) < 2 || o.AllowStandby {
		return nil, err
	}
	servers, failed := Survey(ctx, hosts)
	return Choose(servers, failed, func(*Server) error { return nil })
}
