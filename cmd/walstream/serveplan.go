package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/term"
	"github.com/walstream/walstream/recovery"
)

// servePlan answers with what a dry run would plan, or why it would not.
func servePlan(w http.ResponseWriter, r *http.Request, s recovery.Server) {
	plan, err := planFor(r, s)
	var code int
	var answer any
	switch {
	case err == nil:
		code, answer = http.StatusOK, planFacts{plan, viewBackup(&plan.Backup)}
	case errors.As(err, new(*usageError)):
		code, answer = http.StatusBadRequest, failure{"error", exitUsage, err.Error(), hint.Of(err)}
	case errors.As(err, new(*recovery.Refusal)):
		code, answer = http.StatusUnprocessableEntity, failure{"error", exitUnreachable, err.Error(), hint.Of(err)}
	default:
		s.Log.Warn().Err(err).Str("client", r.RemoteAddr).Msg("cannot plan")
		code, answer = http.StatusServiceUnavailable, failure{"error", exitFailed, err.Error(), hint.Of(err)}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = term.JSON(w, answer) // a client that is gone needs none
}

func planFor(r *http.Request, s recovery.Server) (*recovery.Plan, error) {
	target, err := targetOf(r.URL.Query(), time.Now())
	if err != nil {
		return nil, &usageError{err}
	}
	var source recovery.Source
	if source.Spool, err = s.Spool(); err != nil {
		return nil, err
	}
	if source.Archive, err = s.Open(r.Context()); err != nil {
		return nil, err
	}
	return source.Plan(r.Context(), target)
}

// targetOf reads restore's flags for the target from a query.
func targetOf(query url.Values, now time.Time) (recovery.Target, error) {
	var f restoreFlags
	cmd := &cobra.Command{}
	f.addTarget(cmd)
	for name, values := range query {
		for _, v := range values {
			if flag := cmd.Flags().Lookup(name); flag != nil && v == "" {
				v = flag.NoOptDefVal // as if it stood alone on the command line
			}
			if err := cmd.Flags().Set(name, v); err != nil {
				return recovery.Target{}, fmt.Errorf("parameter %s: %w", name, err)
			}
		}
	}
	if err := cmd.ValidateFlagGroups(); err != nil {
		return recovery.Target{}, err
	}
	return f.target(now)
}
