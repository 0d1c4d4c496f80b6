package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/receiver"
	"github.com/walstream/walstream/recovery"
	"github.com/walstream/walstream/wal"
)

// inBerlin makes the local zone one that is not UTC.
func inBerlin(t *testing.T) {
	t.Helper()
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	local := time.Local
	time.Local = zone
	t.Cleanup(func() { time.Local = local })
}

func utc(clock string) time.Time {
	t, err := time.Parse(time.DateTime, "2026-11-22 "+clock)
	if err != nil {
		panic(err)
	}
	return t
}

func TestWindowsText(t *testing.T) {
	inBerlin(t)
	first := recovery.Window{From: utc("01:08:34"), To: utc("14:58:44")}
	behind := recovery.Window{From: utc("16:00:00"), To: utc("17:00:00"), Open: true}
	idle := recovery.Window{From: utc("16:00:00"), Open: true}
	for want, windows := range map[string][]recovery.Window{
		"nothing yet, no backup has all the WAL that it needs":                                                          nil,
		"2026-11-22 17:00:00 .. 18:00:00 CET":                                                                           {behind},
		"2026-11-22 17:00:00 CET, no commit since":                                                                      {idle},
		"2026-11-22 02:08:34 .. 15:58:44 CET (1 gap, see: walstream list wal)":                                          {first},
		"2026-11-22 02:08:34 .. 15:58:44 CET, and 2026-11-22 17:00:00 .. 18:00:00 CET (1 gap, see: walstream list wal)": {first, behind},
	} {
		if got := windowsText(windows); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}

func TestStatusForPeople(t *testing.T) {
	inBerlin(t)
	now := utc("09:41:00")
	p99 := 0.0031
	v := &statusView{
		Running: true,
		Status: receiver.Status{State: receiver.Streaming, Since: now.Add(-131 * time.Minute), Server: "db1:5432",
			ServerVersion: "15.18 (Debian)", Timeline: 3, Received: 0xA15F3A1C0D8, Flushed: 0xA15F3A1C000, ServerLSN: 0xA15F3A1D0D8,
			LastMessage: now.Add(-200 * time.Millisecond), LastFlush: now.Add(-300 * time.Millisecond), CaughtUp: now.Add(-40 * time.Millisecond)},
		SyncState: "quorum", FlushP99: &p99,
		ArchivedLSN: 0xA15F3000000,
		Slot:        &receiver.HoldStatus{SlotState: receiver.SlotState{Name: "walstream", Exists: true, RestartLSN: 0xA15F3000000, WALStatus: "reserved"}, Looked: now},
		Archive: archiveView{LastSuccess: now.Add(-41 * time.Second),
			Failure: &hint.Failure{Error: "put: no space left on device", Hints: []string{"df /srv"}, Since: now.Add(-30 * time.Second), Count: 4}},
		Spool:       spoolView{Dir: "/var/lib/walstream/spool", Bytes: 48 << 20, Waiting: 1},
		Backup:      &backupView{ID: "20261122T010003Z", PlainBytes: 41 << 30, Finished: now.Add(-8 * time.Hour)},
		Recoverable: []recovery.Window{{From: utc("01:08:34"), To: utc("09:40:19"), Open: true}},
	}
	v.measureLag(now, now)
	v.findProblems()
	check := func(want string) {
		t.Helper()
		var b bytes.Buffer
		if err := v.print(&b, now); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(strings.TrimPrefix(want, "\n"), b.String()); diff != "" {
			t.Error(diff)
		}
	}
	check(`
state     streaming for 2h11m from db1:5432, PostgreSQL 15.18, timeline 3, synchronous
received  A15/F3A1C0D8  4.0 KiB behind the server, heard 0.2 s ago
flushed   A15/F3A1C000  216 B received and not durable yet, lag 4.2 KiB, 40 ms, acknowledged 0.3 s ago, fsync p99 3.1 ms
archived  A15/F3000000  10.1 MiB in the spool only, 1 segment waiting, last put 41 s ago
spool     48.0 MiB      /var/lib/walstream/spool
slot      A15/F3000000  walstream (reserved) keeps 10.1 MiB on the server
backup    20261122T010003Z, 41.0 GiB, finished 8 h ago
recover   2026-11-22 02:08:34 .. 10:40:19 CET, last commit 41 s ago
PROBLEM   archiving fails since 2026-11-22 10:40:30 CET, 4 times: put: no space left on device
hint      df /srv
`)
	if got, want := v.line(now), "2026-11-22 10:41:00 CET  streaming, flushed A15/F3A1C000, lag 4.2 KiB, 40 ms, archived A15/F3000000, 10.1 MiB in the spool only, 1 segment waiting, last put 41 s ago"+
		"  PROBLEM: archiving fails since 2026-11-22 10:40:30 CET, 4 times: put: no space left on device"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}

	// All is well, and then the connection breaks.
	v.Received, v.Flushed, v.Archive, v.SyncState, v.Problems = v.ServerLSN, v.ServerLSN, archiveView{}, "async", nil
	v.measureLag(now, now)
	v.findProblems()
	check(`
state     streaming for 2h11m from db1:5432, PostgreSQL 15.18, timeline 3, not synchronous
received  A15/F3A1D0D8  0 B behind the server, heard 0.2 s ago
flushed   A15/F3A1D0D8  all that was received is durable, acknowledged 0.3 s ago, fsync p99 3.1 ms
archived  A15/F3000000  10.1 MiB in the spool only, 1 segment waiting
spool     48.0 MiB      /var/lib/walstream/spool
slot      A15/F3000000  walstream (reserved) keeps 10.1 MiB on the server
backup    20261122T010003Z, 41.0 GiB, finished 8 h ago
recover   2026-11-22 02:08:34 .. 10:40:19 CET, last commit 41 s ago
`)
	v.State, v.Since, v.SyncState, v.FlushP99, v.CaughtUp = receiver.Waiting, now.Add(-2*time.Second), "", nil, now.Add(-95*time.Second)
	v.Failure = v.Failure.Again(hint.Errorf("pg_isready -h db1", "connect to db1:5432: connection refused"), now.Add(-94*time.Second))
	v.Slot.Failure = v.Failure.Again(hint.Errorf("pg_isready -h db1", "connect to db1:5432: connection refused"), now)
	v.LagBytes = nil
	v.measureLag(now, now)
	v.findProblems()
	check(`
state     waiting for 2.0 s, PostgreSQL 15.18, timeline 3
received  A15/F3A1D0D8
flushed   A15/F3A1D0D8  all that was received is durable, lag 1m35s, acknowledged 0.3 s ago
archived  A15/F3000000  10.1 MiB in the spool only, 1 segment waiting
spool     48.0 MiB      /var/lib/walstream/spool
slot      A15/F3000000  walstream (reserved) keeps 10.1 MiB on the server
backup    20261122T010003Z, 41.0 GiB, finished 8 h ago
recover   2026-11-22 02:08:34 .. 10:40:19 CET, last commit 41 s ago
PROBLEM   not streaming since 2026-11-22 10:39:26 CET: connect to db1:5432: connection refused
PROBLEM   slot walstream cannot be looked at or moved since 2026-11-22 10:39:26 CET, 2 times: connect to db1:5432: connection refused
hint      pg_isready -h db1
`)
	if got, want := v.line(now), "2026-11-22 10:41:00 CET  waiting, flushed A15/F3A1D0D8, lag 1m35s, archived A15/F3000000, 10.1 MiB in the spool only, 1 segment waiting"+
		"  PROBLEM: not streaming since 2026-11-22 10:39:26 CET: connect to db1:5432: connection refused (and 1 more)"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	v = &statusView{Status: receiver.Status{State: receiver.Stopped}, Problems: []string{"no receiver is running on this spool"}}
	check(`
state     stopped
received  -
flushed   -
archived  -  nothing yet
backup    none yet; take one: walstream backup
PROBLEM   no receiver is running on this spool
`)
	// What cannot be looked at is not "none".
	v.Archive.Failure = v.Archive.Failure.Again(errors.New("archive /srv: permission denied"), now)
	check(`
state     stopped
received  -
flushed   -
archived  -  nothing yet
backup    not known
PROBLEM   no receiver is running on this spool
`)
}

func TestTransactionForPeople(t *testing.T) {
	inBerlin(t)
	f := &wal.Finish{LSN: 0x54D8EA8, XID: 726, Time: utc("09:41:00").Add(818759 * time.Microsecond)}
	if got, want := finishText(f, "", "the last"), "xid 726 committed 2026-11-22 10:41:00.818759 CET at 0/54D8EA8, the last"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	f.Abort = true
	if got := finishText(f, "", "the last"); !strings.Contains(got, "xid 726 aborted ") {
		t.Errorf("%s", got)
	}
	if got := finishText(nil, "none", "the last"); got != "none" {
		t.Errorf("%s", got)
	}
}

// What --json promises: every time in UTC.
func TestStatusInUTC(t *testing.T) {
	inBerlin(t)
	v := &statusView{Status: receiver.Status{Since: utc("09:41:00").Local(), LastMessage: utc("09:41:01").Local()}, Slot: &receiver.HoldStatus{Looked: utc("09:41:02").Local()}}
	v.inUTC()
	app := &app{stdout: &bytes.Buffer{}, json: true}
	if err := app.printStatus(v); err != nil {
		t.Fatal(err)
	}
	out := app.stdout.(*bytes.Buffer).String()
	for _, want := range []string{`"since": "2026-11-22T09:41:00Z"`, `"last_message": "2026-11-22T09:41:01Z"`, `"looked": "2026-11-22T09:41:02Z"`} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in %s", want, out)
		}
	}
}

// The names in status --json are a contract as those of the metrics are.
func TestStatusNames(t *testing.T) {
	one, size, now := 1.0, int64(1), time.Now()
	failure := (*hint.Failure)(nil).Again(hint.Errorf("h", "e"), now)
	v := &statusView{
		Status: receiver.Status{Server: "s", ServerVersion: "v", BackendPID: 1, Timeline: 1, Received: 1, Flushed: 1, ServerLSN: 1,
			LastMessage: now, LastFlush: now, CaughtUp: now, Failure: failure, Alarm: "a", Orphan: &receiver.Orphan{}},
		SyncState: "sync", LagBytes: &size, LagSeconds: &one, FlushP99: &one,
		Slot:    &receiver.HoldStatus{SlotState: receiver.SlotState{RestartLSN: 1, WALStatus: "lost"}, Target: 1, Looked: now, Failure: failure},
		Archive: archiveView{LastSuccess: now, LastFailure: now, Failure: failure, Unsafe: true, Stopped: map[wal.Timeline]string{1: "x"}},
		Backup:  &backupView{}, Recoverable: []recovery.Window{{From: now, To: now}}, Problems: []string{"p"}, Gaps: []gapView{{}},
	}
	body, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	var walk func(prefix string, v any)
	walk = func(prefix string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for name, inner := range v {
				walk(prefix+"."+name, inner)
			}
		case []any:
			walk(prefix, v[0])
		default:
			got = append(got, strings.TrimPrefix(prefix, "."))
		}
	}
	walk("", *decode(t, string(body), new(any)))
	slices.Sort(got)
	want := strings.Fields(`
		alarm archive.failure.count archive.failure.error archive.failure.hints archive.failure.last archive.failure.since
		archive.failures archive.last_failure archive.last_success archive.location archive.segments archive.stopped.1 archive.unsafe_no_conditional_put archived_lsn
		backend_pid caught_up failure.count failure.error failure.hints failure.last failure.since flush_p99_seconds flushed_lsn
		gaps.closed gaps.from_lsn gaps.segments gaps.timeline gaps.to_lsn
		lag_bytes lag_seconds last_backup.checksum_failures last_backup.files last_backup.finished last_backup.id last_backup.label
		last_backup.parts last_backup.plain_bytes last_backup.server_version last_backup.start_lsn last_backup.started
		last_backup.stop_lsn last_backup.stored_bytes last_backup.timeline last_flush last_message orphan.end_lsn orphan.fork_lsn
		orphan.timeline problems received_bytes received_lsn reconnects recoverable.backups recoverable.from recoverable.from_lsn
		recoverable.open recoverable.timeline recoverable.to recoverable.to_lsn running server server_lsn server_version since
		slot.active slot.exists slot.failure.count slot.failure.error slot.failure.hints slot.failure.last slot.failure.since slot.looked
		slot.name slot.recreated slot.restart_lsn slot.target_lsn slot.wal_status spool.bytes spool.dir spool.waiting_segments state
		sync_state timeline`)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
