package main

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/segment"
)

// makeRoom archives what waits in a spool that could not be opened because its
// disk is full, until it can be, or ctx ends. Any other error is returned.
func (d *daemon) makeRoom(ctx context.Context, err error) error {
	for {
		if !errors.As(err, new(*segment.FullError)) {
			return err
		}
		d.failing(&d.spoolFull, err, "not receiving, because the spool's disk is full: archiving what is in the spool to make room")
		if err = d.drainFull(ctx); err != nil {
			return err
		}
		if !pause(ctx, 3*time.Second) {
			return nil
		}
		if err = d.reopenSpool(); err == nil {
			d.mu.Lock()
			d.spoolFull = nil
			d.mu.Unlock()
			d.log.Info().Msg("the spool's disk has room again")
		}
	}
}

// drainFull archives and removes all complete segments of the spool.
func (d *daemon) drainFull(ctx context.Context) (err error) {
	spool, err := segment.OpenDrain(fsx.OS{}, d.conf.SpoolDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, spool.Close()) }()
	d.mu.Lock()
	d.identity = spool.Identity()
	d.mu.Unlock()
	ctx, done := context.WithCancel(ctx)
	defer done()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		arch, err := d.awaitArchive(ctx)
		if err != nil {
			return err
		}
		return d.uploader(arch, spool, archive.TailConfig{}, nil).Run(ctx)
	})
	g.Go(func() error {
		select {
		case <-spool.Done():
		case <-ctx.Done():
		}
		done()
		return nil
	})
	if err = g.Wait(); errors.Is(err, context.Canceled) {
		err = nil
	}
	return err
}
