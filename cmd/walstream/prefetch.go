package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/term"
	"github.com/walstream/walstream/recovery"
)

// prefetchFlag makes wal-get the server that fetches ahead. It is no setting.
const prefetchFlag = "prefetch-server"

// restoredSegment is what PostgreSQL's restore_command gets as %p for a
// segment. A person who runs wal-get wants no server.
const restoredSegment = "pg_wal/RECOVERYXLOG"

// prefetchKey stands for version and settings of wal-get with these arguments.
// It is made before any of them is read: a call that finds a server has to be
// short.
func (a *app) prefetchKey(args []string) string {
	hash := sha256.New()
	fmt.Fprintf(hash, "%q", programVersion())
	for _, word := range a.line {
		if !slices.Contains(args, word) {
			fmt.Fprintf(hash, "%q", word)
		}
	}
	for _, pair := range a.environ {
		if strings.HasPrefix(pair, "WALSTREAM_") || strings.HasPrefix(pair, "AWS_") {
			fmt.Fprintf(hash, "%q", pair)
		}
	}
	return fmt.Sprintf("%x", hash.Sum(nil))
}

// startPrefetching starts a server, unless one is running. It is a process of
// its own session, so that PostgreSQL can end the call without it.
func (a *app) startPrefetching(c *config.Loaded) (err error) {
	path := a.args[1]
	if path != restoredSegment || c.RestorePrefetch == 0 || !recovering(".") {
		return nil
	}
	dir, err := recovery.ClaimPrefetchDir(path)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	handle, socket, log, err := dir.Hand()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, socket.Close(), log.Close()) }()
	program, err := os.Executable()
	if err == nil {
		err = keepDescriptors()
	}
	if err != nil {
		return err
	}
	cmd := exec.Command(program, append([]string{"--" + prefetchFlag + "=" + a.prefetchKey(a.args)}, a.line...)...)
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = a.environ, log, log, []*os.File{handle, socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd.Start()
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

// prefetch is the server for requests with a key. Whatever happens, its exit
// code is 0: in a container its parent is PostgreSQL, which takes others for
// the crash of a backend.
func (a *app) prefetch(ctx context.Context, key string) error {
	c, conf, err := a.walGetConfig("")
	if err == nil {
		err = a.servePrefetched(ctx, c, conf, key)
	}
	if err != nil {
		log := a.logger(term.LogText)
		log.Error().Err(err).Msg("prefetching failed")
	}
	return nil
}

func (a *app) servePrefetched(ctx context.Context, c *config.Loaded, conf recovery.WalGetConfig, key string) error {
	check, err := wanted(c, conf.Spool)
	if err != nil {
		return err
	}
	dir, err := recovery.InheritPrefetchDir(a.args[1], os.NewFile(3, "directory"), os.NewFile(4, "socket"))
	if err != nil {
		return err
	}
	// PostgreSQL's replay goes first.
	if err := unix.Setpriority(unix.PRIO_PGRP, 0, 5); err != nil {
		conf.Log.Warn().Err(err).Msg("setpriority")
	}
	p, err := recovery.NewPrefetcher(ctx, recovery.PrefetchConfig{
		WalGetConfig: conf, Dir: dir, Key: key, After: a.args[0], Room: int64(c.RestorePrefetch), Check: check,
	})
	if err != nil {
		return err
	}
	return p.Run(ctx)
}

// recovering says whether a server recovers in a data directory.
func recovering(dir string) bool {
	has := func(name string) bool {
		_, err := os.Stat(filepath.Join(dir, name))
		return err == nil
	}
	return has("postmaster.pid") && (has("recovery.signal") || has("standby.signal"))
}

// wanted makes the check that this recovery goes on with this program and the
// settings as they are.
func wanted(c *config.Loaded, spool string) (func() error, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	files := []string{program, c.File, c.IdentityFile, filepath.Join(spool, "walstream.json"), filepath.Join(spool, "plan.json")}
	before := make([]os.FileInfo, len(files))
	for i, name := range files {
		before[i], _ = os.Stat(name) // that it is not there may change, too
	}
	return func() error {
		if !recovering(dir) {
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
