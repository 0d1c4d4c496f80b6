package recovery

import (
	"fmt"

	"github.com/walstream/walstream/archive"
)

// quietUntil is a stop at the end of WAL for a target time behind the last
// transaction, if a heartbeat proves that none finished in between.
func (r *route) quietUntil(t Target) (*stop, error) {
	if err := r.toEnd(); err != nil {
		return nil, err
	}
	end, _ := r.end()
	for i, b := range r.facts.Heartbeats {
		if t.Kind == KindTime && r.hole == nil && b.Covers(t.Time, r.history, r.reach()) {
			return &stop{end: end, need: end, quiet: &r.facts.Heartbeats[i]}, nil
		}
	}
	return nil, r.notFound()
}

// instead is what PostgreSQL is told where a heartbeat is the proof: it stops
// at a time only when it sees a later transaction.
func (r *route) instead(s *stop) *Target {
	if s.quiet == nil {
		return nil
	}
	if _, last := r.end(); last >= r.backup.StopLSN {
		return &Target{Kind: KindLSN, LSN: last}
	}
	return &Target{Kind: KindImmediate}
}

// fromHeartbeats says what else receivers have noted that matters to a recovery
// which ends where all WAL does.
func (r *route) fromHeartbeats(t Target, s *stop) (list []string) {
	note := func(b archive.Heartbeat, format string, args ...any) {
		list = append(list, fmt.Sprintf("receiver %s: ", b.Receiver)+fmt.Sprintf(format, args...))
	}
	if s.quiet != nil {
		note(*s.quiet, "all WAL that the server had written at %s is there, so no transaction finished between the last one and the target time", t.show(s.quiet.Time))
	}
	for _, b := range r.facts.Heartbeats {
		if end, _ := r.end(); r.done && s.end == end && b.FlushedLSN > r.reach() && r.history.Timeline == b.Timeline {
			note(b, "its spool held WAL of timeline %s up to %s, which is more than there is here; where that spool still is: walstream restore --spool SPOOL DIR", b.Timeline, b.FlushedLSN)
		}
	}
	return list
}
