package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/receiver"
)

// checkServer looks at all that concerns the server.
func (d *doctor) checkServer(ctx context.Context) {
	if !d.receives {
		d.leftOut("server", "no -d/--dbname given: nothing is received here")
		return
	}
	opts := server(d.conf, "doctor")
	d.checkHosts(ctx, opts)
	conn, err := pg.ConnectReplication(ctx, opts)
	if err != nil {
		d.fail("connect", err)
		return
	}
	defer conn.Done()
	id, sys, err := conn.Identity(ctx)
	if err != nil {
		d.fail("connect", err)
		return
	}
	d.identity = &id
	d.ok("connect", "%s, PostgreSQL %s, timeline %s, with the right to replicate", conn.Address(), conn.ParameterStatus("server_version"), sys.Timeline)
	settings := map[string]string{}
	for _, name := range []string{"wal_level", "max_wal_senders", "wal_sender_timeout", "max_slot_wal_keep_size", "synchronous_commit", "synchronous_standby_names"} {
		if settings[name], err = conn.Show(ctx, name); err != nil {
			d.fail("settings", err)
			return
		}
	}
	d.checkSettings(settings)
	d.checkSynchronous(settings["synchronous_standby_names"], settings["synchronous_commit"])
	sql, err := pg.ConnectSQL(ctx, opts)
	switch {
	case err == nil:
		sql.Done()
		d.ok("sql", "allowed; the slot is moved by it")
	case id.MajorVersion < 15:
		d.fail("sql", err)
	default:
		d.warn("sql", fmt.Errorf("not allowed, so the slot is moved by the replication protocol, and mark cannot work: %w", err))
	}
	d.checkSlot(ctx, receiver.Slot{Options: opts, Name: d.conf.Slot})
}

// checkHosts tries each of several hosts.
func (d *doctor) checkHosts(ctx context.Context, opts pg.Options) {
	hosts, err := opts.Hosts()
	if err != nil || len(hosts) < 2 {
		return // connecting tells
	}
	for _, o := range hosts {
		o.AllowStandby = true
		s, err := pg.Look(ctx, o)
		if err != nil {
			d.warn("host", err)
			continue
		}
		kind := "primary"
		if s.Standby {
			kind = "standby"
		}
		d.ok("host", "%s is a %s on timeline %s", o.Host, kind, s.System.Timeline)
		s.Done()
	}
}

func (d *doctor) checkSettings(settings map[string]string) {
	const check = "settings"
	fine := len(d.checks)
	// One streams, one takes a backup, one may move the slot.
	if n, err := strconv.Atoi(settings["max_wal_senders"]); err == nil && n < 3 {
		d.warn(check, hint.Errorf("restart PostgreSQL after: ALTER SYSTEM SET max_wal_senders = 10;", "max_wal_senders is %d; receive and a backup together need 3", n))
	}
	if settings["wal_sender_timeout"] == "0" {
		d.warn(check, hint.Errorf("ALTER SYSTEM RESET wal_sender_timeout; SELECT pg_reload_conf();", "wal_sender_timeout is 0: the server never notices that a receiver is gone"))
	}
	var limit config.Size
	keep := settings["max_slot_wal_keep_size"]
	// PostgreSQL's GB is a GiB.
	if err := limit.Set(strings.Replace(keep, "B", "iB", 1)); err == nil && (d.conf.HoldMax == 0 || limit < d.conf.HoldMax) {
		d.warn(check, hint.Errorf("ALTER SYSTEM SET max_slot_wal_keep_size = -1; SELECT pg_reload_conf();",
			"max_slot_wal_keep_size is %s: the server gives the slot up before hold_max, %s, is reached, and removes WAL that nobody else has", keep, d.conf.HoldMax))
	}
	if fine == len(d.checks) {
		d.ok(check, "wal_level %s, max_wal_senders %s, wal_sender_timeout %s, max_slot_wal_keep_size %s",
			settings["wal_level"], settings["max_wal_senders"], settings["wal_sender_timeout"], keep)
	}
}

// standbyName is one name in synchronous_standby_names, or a part of its syntax.
var standbyName = regexp.MustCompile(`"(?:[^"]|"")*"|[^\s,()"]+`)

// listsStandby says whether a standby of this name counts as synchronous.
func listsStandby(names, name string) bool {
	for _, n := range standbyName.FindAllString(names, -1) {
		if n == "*" {
			return true
		}
		if strings.HasPrefix(n, `"`) {
			n = strings.ReplaceAll(n[1:len(n)-1], `""`, `"`)
		}
		if strings.EqualFold(n, name) {
			return true
		}
	}
	return false
}

func (d *doctor) checkSynchronous(names, commit string) {
	const check = "synchronous"
	name, err := pg.Options{Conninfo: d.conf.DBName, ApplicationName: d.conf.ApplicationName}.Name()
	switch {
	case err != nil:
		d.fail(check, err)
	case !listsStandby(names, name):
		d.ok(check, "synchronous_standby_names does not list %q: no commit waits for walstream", name)
	case commit == "remote_apply":
		d.fail(check, hint.Errorf("ALTER SYSTEM SET synchronous_commit = 'on'; SELECT pg_reload_conf();",
			"synchronous_commit is remote_apply: walstream applies nothing, so commits wait for it for ever"))
	case commit == "off" || commit == "local":
		d.warn(check, hint.Errorf("ALTER SYSTEM SET synchronous_commit = 'on'; SELECT pg_reload_conf();",
			"synchronous_commit is %s: commits do not wait for walstream although synchronous_standby_names lists it", commit))
	default:
		d.ok(check, "synchronous_standby_names lists %q, synchronous_commit is %s", name, commit)
	}
}

func (d *doctor) checkSlot(ctx context.Context, slot receiver.Slot) {
	const check = "slot"
	s, err := slot.Show(ctx)
	switch {
	case err != nil:
		d.fail(check, err)
	case !s.Exists:
		d.fail(check, hint.With(fmt.Errorf("%q does not exist", slot.Name), "walstream slot create"))
	case !s.Holds():
		d.fail(check, hint.With(fmt.Errorf("%q keeps no WAL: the server has given it up", slot.Name), "walstream slot create"))
	case s.WALStatus == "unreserved":
		d.warn(check, hint.With(errors.New("the server may give it up at its next checkpoint (max_slot_wal_keep_size)"), "is receive archiving? walstream status"))
	case s.Active && d.conf.SlotMode == "hold":
		d.warn(check, hint.With(fmt.Errorf("%q is in use by a connection; walstream cannot move it meanwhile", slot.Name),
			"who uses it? SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s;", pg.QuoteLiteral(slot.Name)))
	default:
		d.ok(check, "%q keeps WAL from %s on (%s)", slot.Name, s.RestartLSN, orUnknown(s.WALStatus))
	}
}
