package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/ready"
	"github.com/walstream/walstream/internal/term"
	"github.com/walstream/walstream/recovery"
)

// startPrefetching starts the server that answers r, unless one is running. A
// person who runs wal-get wants none. It is a process of its own session, so that
// PostgreSQL can end the call without it.
func (a *app) startPrefetching(c *config.Loaded) (r ready.Request, started bool, err error) {
	r, ok := ready.Parse(a.line, a.environ)
	if !ok || r.File != a.args[0] || r.Path != a.args[1] || c.RestorePrefetch == 0 || recovering(".") == 0 {
		return r, false, nil
	}
	dir, err := recovery.ClaimPrefetchDir(r.Dir)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return r, false, nil
	}
	if err != nil {
		return r, false, err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	handle, socket, log, err := dir.Hand()
	if err != nil {
		return r, false, err
	}
	defer func() { err = errors.Join(err, socket.Close(), log.Close()) }()
	program, err := os.Executable()
	if err == nil {
		err = keepDescriptors()
	}
	if err != nil {
		return r, false, err
	}
	cmd := exec.Command(program, append([]string{ready.ServerArg}, a.line...)...)
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = a.environ, log, log, []*os.File{handle, socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	return r, err == nil, err
}

// keepDescriptors keeps a server from inheriting what PostgreSQL's processes
// have open: older ones leave it their sockets, and the pipe of the log.
func keepDescriptors() error {
	entries, err := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if fd, _ := strconv.Atoi(e.Name()); fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return err
}

// prefetch is the server. Whatever happens, its exit code is 0: in a container
// its parent is PostgreSQL, which takes others for the crash of a backend.
func (a *app) prefetch(ctx context.Context, from string) error {
	c, conf, err := a.walGetConfig(from)
	if err == nil {
		err = a.servePrefetched(ctx, c, conf)
	}
	if err != nil {
		log := a.logger(term.LogText)
		log.Error().Err(err).Msg("prefetching failed")
	}
	return nil
}

func (a *app) servePrefetched(ctx context.Context, c *config.Loaded, conf recovery.WalGetConfig) error {
	request, ok := ready.Parse(a.line[1:], a.environ)
	if !ok {
		return errors.New(ready.ServerFlag + " is not for people")
	}
	start := recovering(".")
	check, err := wanted(c, conf.Spool, start)
	if err != nil {
		return err
	}
	dir, err := recovery.InheritPrefetchDir(request.Dir, os.NewFile(3, "directory"), os.NewFile(4, "socket"))
	if err != nil {
		return err
	}
	// PostgreSQL's replay goes first.
	if err := unix.Setpriority(unix.PRIO_PGRP, 0, 5); err != nil {
		conf.Log.Warn().Err(err).Msg("setpriority")
	}
	p, err := recovery.NewPrefetcher(ctx, recovery.PrefetchConfig{
		WalGetConfig: conf, Dir: dir, Key: request.Key, Room: int64(c.RestorePrefetch), Start: start, Check: check,
	})
	if err != nil {
		return err
	}
	return p.Run(ctx)
}

// recovering is the start of the server that recovers in a data directory, 0 if
// none does.
func recovering(dir string) int64 {
	for _, signal := range []string{"recovery.signal", "standby.signal"} {
		if _, err := os.Stat(filepath.Join(dir, signal)); err == nil {
			start, _ := recovery.ServerStart(dir) // that it has no postmaster.pid is one reason
			return start
		}
	}
	return 0
}

// wanted makes the check that the recovery of this start goes on with this
// program and the settings as they are.
func wanted(c *config.Loaded, spool string, start int64) (func() error, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	files := []string{program, c.File, c.IdentityFile, filepath.Join(dir, "postgresql.auto.conf"), filepath.Join(spool, "walstream.json"), filepath.Join(spool, "plan.json")}
	before := make([]os.FileInfo, len(files))
	for i, name := range files {
		before[i], _ = os.Stat(name) // that it is not there may change, too
	}
	return func() error {
		if start == 0 || recovering(dir) != start {
			return errors.New("recovery has ended")
		}
		for i, name := range files {
			now, _ := os.Stat(name)
			if was := before[i]; (was == nil) != (now == nil) || was != nil && (!os.SameFile(was, now) || !was.ModTime().Equal(now.ModTime()) || was.Size() != now.Size()) {
				return fmt.Errorf("%s has changed", name)
			}
		}
		return nil
	}, nil
}
