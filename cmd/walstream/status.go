package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/term"
	"github.com/walstream/walstream/receiver"
	"github.com/walstream/walstream/recovery"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// statusView is what status shows, of a running receiver or of what one left.
type statusView struct {
	Running bool `json:"running"`
	receiver.Status
	// SyncState is sync_state in pg_stat_replication, "" when it is not known.
	SyncState string `json:"sync_state,omitempty"`
	// LagBytes is what the server has and is not durable here, nil without a
	// stream; LagSeconds is the age of the newest moment for which nothing is.
	LagBytes   *int64   `json:"lag_bytes,omitempty"`
	LagSeconds *float64 `json:"lag_seconds,omitempty"`
	// FlushP99 is what 99 of 100 fdatasyncs took at most, in the last minute
	// or two.
	FlushP99 *float64 `json:"flush_p99_seconds,omitempty"`
	// Ack is what a commit waits for: spool or archive.
	Ack string `json:"ack,omitempty"`
	// ArchivedLSN is up to where the archive holds WAL without a hole: while a
	// receiver runs in complete segments, TailLSN with its tail.
	ArchivedLSN wal.LSN              `json:"archived_lsn"`
	TailLSN     wal.LSN              `json:"tail_archived_lsn,omitempty"`
	Slot        *receiver.HoldStatus `json:"slot,omitempty"`
	Archive     archiveView          `json:"archive"`
	Spool       spoolView            `json:"spool"`
	Backup      *backupView          `json:"last_backup,omitempty"`
	// Gaps is WAL that nobody has.
	Gaps []gapView `json:"gaps,omitempty"`
	// Recoverable is what can be restored, nil when it is not known.
	Recoverable []recovery.Window `json:"recoverable,omitempty"`
	Problems    []string          `json:"problems"`
}

type archiveView struct {
	Location    string    `json:"location"`
	LastSuccess time.Time `json:"last_success,omitzero"`
	LastFailure time.Time `json:"last_failure,omitzero"`
	Segments    int64     `json:"segments"` // stored by this process
	Failures    int64     `json:"failures"` // of tries to store something
	// Unsafe says that the store would overwrite objects.
	Unsafe bool `json:"unsafe_no_conditional_put,omitempty"`
	// Failure is why nothing is stored now, or the archive cannot be opened.
	Failure *hint.Failure `json:"failure,omitempty"`
	// Stopped holds the timelines that are not archived any more, and why.
	Stopped map[wal.Timeline]string `json:"stopped,omitempty"`
}

type spoolView struct {
	Dir     string `json:"dir"`
	Bytes   int64  `json:"bytes"`
	Waiting int    `json:"waiting_segments"`
	Limit   int64  `json:"limit_bytes,omitempty"`
	// FullSince is since when receiving waits because of Limit.
	FullSince time.Time `json:"full_since,omitzero"`
	// Failure is why the spool is not open, because its disk is full.
	Failure *hint.Failure `json:"failure,omitempty"`
	open    bool
}

func (a *app) statusCommand() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use: "status", Short: "Show what is received, durable and archived; exit code 3 when something is wrong", Args: wants(),
		Long: `Ask the running receiver how it is, through a socket in the spool directory. If
none is running, show what the spool and the archive hold.

With --watch it does so each second until it is interrupted: on a terminal in
place, otherwise a line at a time, with --json one object a line.`,
		RunE: a.configured(func(ctx context.Context, c *config.Loaded, _ []string) error { return a.status(ctx, c, watch) }),
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again each second")
	return cmd
}

func (a *app) status(ctx context.Context, c *config.Loaded, watch bool) error {
	l := looker{app: a, conf: c}
	if watch {
		return a.watchStatus(ctx, l.look)
	}
	v, err := l.look(ctx)
	if err != nil {
		return err
	}
	if err := a.printStatus(v); err != nil {
		return err
	}
	switch n := len(v.Problems); {
	case !v.Running:
		return hint.With(&problemsError{"nothing is being received"}, "walstream receive")
	case n > 0:
		return &problemsError{term.Count(n, "problem")}
	}
	return nil
}

// looker looks at a receiver again and again, at its archive less often.
type looker struct {
	app  *app
	conf *config.Loaded

	arch    *archive.Archive // nil when it cannot be opened
	backup  *backupView
	windows []recovery.Window
	gaps    []gapView
	read    time.Time // when they were
	err     error     // and what was in the way
}

const archiveInterval = 30 * time.Second

func (l *looker) look(ctx context.Context) (*statusView, error) {
	v, err := askReceiver(ctx, l.conf.SpoolDir)
	if err != nil {
		return nil, err
	}
	if time.Since(l.read) > archiveInterval {
		l.readArchive(ctx)
	}
	if v == nil {
		if v, err = l.leftBehind(ctx); err != nil {
			return nil, err
		}
	}
	v.Backup, v.Recoverable = l.backup, l.windows
	if !v.Running {
		v.Gaps = l.gaps
	}
	if l.err != nil && v.Archive.Failure == nil { // else the receiver says so
		v.Archive.Failure = v.Archive.Failure.Again(l.err, time.Now().UTC())
		v.Problems = append(v.Problems, "the archive cannot be looked at: "+l.err.Error())
	}
	return v, nil
}

func (l *looker) readArchive(ctx context.Context) {
	if l.arch, l.err = l.app.openArchive(ctx, l.conf); l.err == nil {
		l.backup, l.err = lastBackup(ctx, l.arch)
	}
	if l.err == nil {
		l.windows, l.err = sourceToLookAt(l.conf, l.arch).Windows(ctx)
	}
	if l.err == nil {
		l.gaps, l.err = findGaps(ctx, l.arch)
	}
	l.read = time.Now()
}

// askReceiver asks the receiver that holds the spool; nil when there is none.
func askReceiver(ctx context.Context, dir string) (*statusView, error) {
	const patience = 10 * time.Second
	conn, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, "unix", filepath.Join(dir, socketName))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EINVAL) {
		return nil, nil // none, one that was killed, or a path too long for a socket
	}
	var v statusView
	if err == nil {
		defer func() { _ = conn.Close() }() // only read
		err = conn.SetDeadline(time.Now().Add(patience))
	}
	if err == nil {
		err = json.NewDecoder(conn).Decode(&v)
	}
	if err != nil {
		return nil, fmt.Errorf("ask the receiver: %w", err)
	}
	return &v, nil
}

// leftBehind describes spool and archive when no receiver runs.
func (l *looker) leftBehind(ctx context.Context) (*statusView, error) {
	c := l.conf
	v := &statusView{Status: receiver.Status{State: receiver.Stopped}, Archive: archiveView{Location: c.Archive, Unsafe: c.S3.UnsafeUnconditional}, Spool: spoolView{Dir: c.SpoolDir}}
	v.Problems = []string{"no receiver is running on this spool"}
	view, err := segment.ReadSpool(fsx.OS{}, c.SpoolDir)
	if errors.Is(err, fs.ErrNotExist) { // never used
		view, err = &segment.SpoolView{}, nil
		if l.arch == nil {
			err = l.err
		}
	}
	if err != nil {
		return nil, err
	}
	newest := slices.Max(append(slices.Collect(maps.Keys(view.Histories)), 1))
	history, err := segment.ParseHistory(newest, view.Histories[newest])
	if err != nil {
		return nil, err
	}
	if l.arch != nil {
		v.ArchivedLSN, err = archivedUpTo(ctx, l.arch, history)
	}
	return v, errors.Join(err, v.readSpool(view))
}

// archivedUpTo is the end of the archived WAL on the way of history h, tails
// included.
func archivedUpTo(ctx context.Context, arch *archive.Archive, h segment.History) (wal.LSN, error) {
	pos, ok, err := archiveEnd(ctx, arch, h, 0)
	if !ok && err == nil { // there may be the beginning of the first segment
		for p, perr := range arch.Pieces(ctx, h.Timeline, 0) {
			pos, ok, err = segment.Position{Timeline: p.ID.Timeline, LSN: p.ID.Start(arch.Identity().SegmentSize)}, true, perr
			break
		}
	}
	if err != nil || !ok {
		return 0, err
	}
	return covered(ctx, arch, h, pos)
}

// readSpool fills in what a spool holds. What the archive has too is not
// waiting, it is kept for the recovery of the open segment.
func (v *statusView) readSpool(view *segment.SpoolView) error {
	size := view.Identity.SegmentSize
	pieces := view.Sealed
	for _, p := range view.Partials {
		p, err := view.Valid(p)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		pieces = append(pieces, p)
	}
	for _, p := range pieces {
		end := p.ID.Start(size) + wal.LSN(p.To)
		v.Spool.Bytes += int64(size)
		if end > v.ArchivedLSN {
			v.Spool.Waiting++
		}
		if p.ID.Timeline > v.Timeline || p.ID.Timeline == v.Timeline && end > v.Flushed {
			v.Timeline, v.Flushed, v.Received = p.ID.Timeline, end, end
		}
	}
	return nil
}

// lastBackup is the backup that finished last; nil when there is none.
func lastBackup(ctx context.Context, arch *archive.Archive) (*backupView, error) {
	var last *backupView
	for c, err := range backup.List(ctx, arch) {
		if errors.As(err, new(*backup.UnusableError)) {
			continue
		}
		if err != nil {
			return last, err
		}
		if v := viewBackup(c); last == nil || v.Finished.After(last.Finished) {
			last = &v
		}
	}
	return last, nil
}
