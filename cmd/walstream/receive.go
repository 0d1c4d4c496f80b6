package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/receiver"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// drainTimeout is how long a stop waits for the archive, twice at most: once
// for complete segments, once for the open one. What is left over stays in the
// spool for the next start.
const drainTimeout = 10 * time.Second

// errReached ends the stream of --once-until.
var errReached = errors.New("the position of --once-until is flushed")

func (a *app) receiveCommand() *cobra.Command {
	var createSlot bool
	var until string
	cmd := &cobra.Command{
		Use: "receive", Short: "Stream and archive WAL until told to stop", Args: wants(),
		Long: `Stream WAL from the primary, make it durable in the spool, acknowledge it, and
archive it. It runs until SIGINT or SIGTERM; then it stores what it has of the
unfinished segment too. List it in synchronous_standby_names, by its
application_name, to let commits wait for it.`,
		RunE: a.configured(func(ctx context.Context, c *config.Loaded, _ []string) error {
			return a.receive(ctx, c, createSlot, until)
		}),
	}
	cmd.Flags().BoolVar(&createSlot, "create-slot", false, "make the replication slot if it is missing")
	cmd.Flags().StringVar(&until, "once-until", "", "end when everything before this LSN is archived")
	return cmd
}

func (a *app) receive(ctx context.Context, c *config.Loaded, createSlot bool, until string) (err error) {
	if _, err := requireArchive(c); err != nil {
		return err
	}
	d := newDaemon(c, a.daemonLogger())
	if until != "" {
		if d.until, err = wal.ParseLSN(until); err != nil {
			return &usageError{fmt.Errorf("--once-until: %w", err)}
		}
	}
	conf := receiver.Config{
		Options: pg.Options{Conninfo: c.DBName, ApplicationName: c.ApplicationName},
		Slot:    c.Slot, HoldMax: int64(c.HoldMax), StreamSlot: c.SlotMode == "stream", CreateSlot: createSlot, Held: d.held, Confirmed: c.Ack == "archive",
		OpenSink: d.openSink, ArchiveResume: d.archiveResume, Newer: d.newer, Covered: d.archiveCovers, Log: d.log,
	}
	if c.OnGap == "backup" {
		conf.OnGap = d.onGap
	}
	if d.name, err = conf.Options.Name(); err != nil {
		return err
	}
	if d.recv, err = receiver.New(conf); err != nil {
		return err
	}
	return d.run(ctx)
}

// run streams until ctx ends. What runs beside the stream outlives it: first
// the stream ends, then what it left is archived, then the slot moves a last
// time, then the spool is closed.
func (d *daemon) run(ctx context.Context) (err error) {
	unopened := d.reopenSpool()
	if unopened != nil && !errors.As(unopened, new(*segment.FullError)) {
		return unopened
	}
	defer func() { err = errors.Join(err, d.close()) }()
	// Behind the lock of the spool: a second receiver learns of that.
	listener, err := listenHTTP(ctx, d.conf.HTTP, "set http.listen in the configuration to a free address; once, or without metrics: WALSTREAM_HTTP_LISTEN=off walstream receive")
	if err != nil {
		return err
	}

	stream, stopStream := context.WithCancelCause(ctx)
	defer stopStream(nil)
	beside, stopBeside := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBeside()
	tasks, beside := errgroup.WithContext(beside)
	tasks.Go(func() error { return d.archiveWAL(beside) })
	tasks.Go(func() error { return d.recv.HoldSlot().Run(beside) })
	tasks.Go(func() error { return d.serveStatus(beside) })
	if listener != nil {
		tasks.Go(func() error { return d.serveHTTP(beside, listener) })
	}
	tasks.Go(func() error { d.notify(beside, ctx); return nil })
	if d.until != 0 {
		tasks.Go(func() error { d.watch(beside, stopStream); return nil })
	}
	defer context.AfterFunc(beside, func() { stopStream(context.Cause(beside)) })()

	if err = d.makeRoom(stream, unopened); err == nil {
		err = d.recv.Run(stream)
	}
	reached := errors.Is(context.Cause(stream), errReached)
	if beside.Err() == nil {
		limit := func() (context.Context, context.CancelFunc) { return context.WithTimeout(beside, drainTimeout) }
		if reached {
			limit = func() (context.Context, context.CancelFunc) { return context.WithCancel(ctx) }
		}
		d.drain(limit)
	}
	stopBeside()
	if terr := tasks.Wait(); terr != nil && !errors.Is(terr, context.Canceled) {
		err = errors.Join(terr, err)
	}
	if d.until != 0 && err == nil {
		err = d.missed(ctx)
	}
	return err
}

// watch ends the stream once everything before d.until is durable here or
// archived already, and the archive is there to take it.
func (d *daemon) watch(ctx context.Context, stop context.CancelCauseFunc) {
	for pause(ctx, 50*time.Millisecond) {
		archived, _ := d.archived.lsn()
		if max(d.recv.Status().Flushed, archived) >= d.until && d.uploading() != nil {
			stop(errReached)
			return
		}
	}
}

// missed says why --once-until ended too early.
func (d *daemon) missed(ctx context.Context) error {
	if have, _ := d.archived.lsn(); have < d.until {
		err := fmt.Errorf("only WAL up to %s is archived, not up to %s", have, d.until)
		return errors.Join(err, context.Cause(ctx))
	}
	return nil
}

// drain archives what the stream left behind. Each of its two waits has a
// limit of its own, so that a long queue does not keep the newest WAL out of
// the archive.
func (d *daemon) drain(limit func() (context.Context, context.CancelFunc)) {
	spool, up := d.spoolOpen(), d.uploading()
	if spool == nil {
		return
	}
	held, _ := spool.Resume()
	if up != nil {
		ctx, cancel := limit()
		defer cancel()
		for spool.Usage().Waiting > 0 && len(up.Status().Stopped) == 0 && pause(ctx, 20*time.Millisecond) {
		}
		ctx, cancel = limit()
		defer cancel()
		open, _ := spool.OpenSegment()
		if err := up.StoreTail(ctx, open); err != nil {
			d.log.Warn().Err(err).Msg("the unfinished segment is not archived")
		}
		ctx, cancel = limit()
		defer cancel()
		if err := d.lookAround(ctx, spool.NewestHistory(), held.LSN, spool.Usage().Waiting == 0); err != nil {
			d.log.Warn().Err(err).Msg("how far the archive reaches is not known")
		}
	}
	archived, _ := d.archived.lsn()
	d.log.Info().Int("waiting_segments", spool.Usage().Waiting).Stringer("flushed", held.LSN).
		Stringer("archived", archived).Msg("stopped; what waits in the spool is archived at the next start")
}
