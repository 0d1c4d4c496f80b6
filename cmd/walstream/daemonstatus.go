package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/term"
	"github.com/walstream/walstream/receiver"
	"github.com/walstream/walstream/wal"
)

// socketName is the socket in the spool directory on which a receiver tells
// its status: one JSON object for each connection.
const socketName = "status.sock"

// status is the daemon's present state.
func (d *daemon) status() *statusView {
	hold := d.recv.HoldSlot().Status()
	v := &statusView{
		Running: true, Status: d.recv.Status(), Slot: &hold, Ack: d.conf.Ack,
		Archive: archiveView{Location: d.conf.Archive, Unsafe: d.conf.S3.UnsafeUnconditional}, Spool: spoolView{Dir: d.conf.SpoolDir, Limit: int64(d.conf.SpoolMax)}, Problems: []string{},
	}
	v.TailLSN, v.ArchivedLSN = d.archived.lsn()
	d.mu.Lock()
	spool, up, away := d.spool, d.up, d.archAway
	v.Backup, v.Gaps, v.Spool.Failure = d.backup, d.gaps, d.spoolFull
	d.mu.Unlock()
	if spool != nil {
		u := spool.Usage()
		v.Spool.open, v.Spool.FullSince, v.Spool.Bytes, v.Spool.Waiting = true, u.FullSince, u.Bytes, u.Waiting
	}
	v.SyncState = hold.SyncStates[v.BackendPID]
	if v.SyncState != "" && v.State != receiver.Streaming {
		v.SyncState = "async" // until the next look
	}
	v.FlushP99 = d.flushes.p99()
	v.measureLag(d.started, time.Now())
	if v.Archive.Failure = away; away != nil {
		v.Archive.Failures, v.Archive.LastFailure = away.Count, away.Last
	}
	if up != nil {
		s := up.Status()
		v.Archive.Segments, v.Archive.LastSuccess, v.Archive.Failure = s.Segments, s.LastSuccess, s.Failure
		v.Archive.Failures += s.Failures
		if !s.LastFailure.IsZero() {
			v.Archive.LastFailure = s.LastFailure
		}
		v.Archive.Stopped = map[wal.Timeline]string{}
		for tli, err := range s.Stopped {
			v.Archive.Stopped[tli] = err.Error()
		}
	}
	v.findProblems()
	v.inUTC()
	return v
}

// measureLag says how far what is durable here is behind the server. Without a
// connection nobody knows how far the server is.
func (v *statusView) measureLag(started, now time.Time) {
	since := v.CaughtUp
	if since.IsZero() {
		since = started
	}
	age := max(0, now.Sub(since)).Seconds()
	if v.State == receiver.Streaming {
		behind := lsnDistance(v.Flushed, v.ServerLSN)
		if v.LagBytes = &behind; behind == 0 {
			age = 0
		}
	}
	v.LagSeconds = &age
}

// inUTC turns every time of the view into what --json promises.
func (v *statusView) inUTC() {
	for _, t := range []*time.Time{&v.Since, &v.LastMessage, &v.LastFlush, &v.CaughtUp, &v.Slot.Looked, &v.Slot.OverMax, &v.Spool.FullSince, &v.Archive.LastSuccess, &v.Archive.LastFailure} {
		*t = t.UTC()
	}
	for _, f := range []**hint.Failure{&v.Failure, &v.Slot.Failure, &v.Archive.Failure, &v.Spool.Failure} {
		*f = (*f).InUTC()
	}
}

// unready lists why WAL is not streamed, or not archived.
func (v *statusView) unready() (lacks []string) {
	add := func(format string, args ...any) { lacks = append(lacks, fmt.Sprintf(format, args...)) }
	if v.Spool.Failure != nil {
		add("the spool cannot be opened%s", failureText(v.Spool.Failure))
	}
	if !v.Spool.FullSince.IsZero() {
		add("the spool is full since %s: receiving waits for the archive", term.Time(v.Spool.FullSince))
	}
	switch {
	case v.State == receiver.Streaming:
	case v.Failure == nil:
		add("not streaming: still connecting")
	default:
		add("not streaming%s", failureText(v.Failure))
	}
	if v.Archive.Failure != nil {
		waits := ""
		if v.Ack == "archive" {
			waits = ", and commits wait for the archive"
		}
		add("archiving fails%s%s", waits, failureText(v.Archive.Failure))
	}
	for _, tli := range slices.Sorted(maps.Keys(v.Archive.Stopped)) {
		add("timeline %s is not archived any more: %s", tli, v.Archive.Stopped[tli])
	}
	return lacks
}

// failureText is since when something fails, how often, and why.
func failureText(f *hint.Failure) string {
	if f.Count == 1 {
		return fmt.Sprintf(" since %s: %s", term.Time(f.Since), f)
	}
	return fmt.Sprintf(" since %s, %d times: %s", term.Time(f.Since), f.Count, f)
}

// findProblems lists what a person has to look at.
func (v *statusView) findProblems() {
	v.Problems = append(v.Problems, v.unready()...)
	add := func(format string, args ...any) { v.Problems = append(v.Problems, fmt.Sprintf(format, args...)) }
	if v.Alarm != "" {
		add("%s", v.Alarm)
	}
	if o := v.Orphan; o != nil {
		add("WAL of timeline %s from %s to %s was received but is not in the server's history", o.Timeline, o.Fork, o.End)
	}
	if v.Slot != nil && !v.Slot.Looked.IsZero() && !v.Slot.Holds() {
		add("slot %s keeps no WAL", v.Slot.Name)
	}
	if v.Slot != nil && !v.Slot.OverMax.IsZero() {
		add("since %s slot %s no longer keeps all that is not archived: that is more than hold_max", term.Time(v.Slot.OverMax), v.Slot.Name)
	} else if v.Slot != nil && v.Slot.Recreated > 0 && !v.Slot.Streamed && v.Slot.RestartLSN > v.ArchivedLSN {
		add("slot %s was made anew: what is not archived before %s is on the receiver's disk only", v.Slot.Name, v.Slot.RestartLSN)
	}
	if v.Slot != nil && v.Slot.Failure != nil && v.Slot.Failure.Count > 1 {
		add("slot %s cannot be looked at or moved%s", v.Slot.Name, failureText(v.Slot.Failure))
	}
	for _, g := range v.Gaps {
		if !g.Closed {
			add("gap: nobody has the WAL of timeline %s from %s to %s, and there is no backup behind it yet", g.Timeline, g.From, g.To)
		}
	}
}

// serveStatus answers on the socket until ctx ends. Without a socket streaming
// goes on.
func (d *daemon) serveStatus(ctx context.Context) error {
	select {
	case <-d.opened:
	case <-ctx.Done():
		return nil
	}
	path := filepath.Join(d.conf.SpoolDir, socketName)
	// Whoever listened there is dead: this process holds the spool's lock.
	err := os.Remove(path)
	var l net.Listener
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		l, err = new(net.ListenConfig).Listen(ctx, "unix", path)
	}
	if err != nil {
		d.log.Warn().Err(err).Msg("no status socket")
		return nil
	}
	defer context.AfterFunc(ctx, func() { _ = l.Close() })() // ends Accept
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			d.log.Warn().Err(err).Msg("status socket")
			time.Sleep(time.Second) // out of file descriptors, most likely
			continue
		}
		d.answer(conn)
	}
}

// answer never waits long for its reader, so connections can be served one
// after the other.
func (d *daemon) answer(conn net.Conn) {
	defer func() { _ = conn.Close() }() // the reader notices a cut answer
	err := conn.SetDeadline(time.Now().Add(time.Second))
	if err == nil {
		err = json.NewEncoder(conn).Encode(d.status())
	}
	if err != nil {
		d.log.Debug().Err(err).Msg("status socket")
	}
}

// notify tells systemd, if it started us, when WAL flows and where it is.
func (d *daemon) notify(ctx, user context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	ready := false
	stopping := user.Done()
	for {
		text := ""
		select {
		case <-ctx.Done():
			return
		case <-stopping:
			stopping = nil
			text = sd.SdNotifyStopping
		case <-tick.C:
			st := d.recv.Status()
			if !ready && st.State == receiver.Streaming && !st.LastMessage.IsZero() {
				ready = true
				text = sd.SdNotifyReady + "\n"
			}
			archived, _ := d.archived.lsn()
			text += fmt.Sprintf("STATUS=%s, flushed %s, archived %s", st.State, st.Flushed, archived)
		}
		if _, err := sd.SdNotify(false, text); err != nil {
			d.log.Debug().Err(err).Msg("sd_notify")
		}
	}
}
