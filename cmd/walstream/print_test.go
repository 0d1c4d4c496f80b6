package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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
	v := &statusView{
		Running: true,
		Status: receiver.Status{State: receiver.Streaming, Since: now.Add(-131 * time.Minute), Server: "db1:5432",
			ServerVersion: "15.18 (Debian)", Timeline: 3, Received: 0xA15F3A1C0D8, Flushed: 0xA15F3A1C000, ServerLSN: 0xA15F3A1D0D8, LastMessage: now.Add(-200 * time.Millisecond)},
		ArchivedLSN: 0xA15F3000000,
		Slot:        &receiver.HoldStatus{SlotState: receiver.SlotState{Name: "walstream", Exists: true, RestartLSN: 0xA15F3000000, WALStatus: "reserved"}, Looked: now},
		Archive:     archiveView{LastSuccess: now.Add(-41 * time.Second)},
		Spool:       spoolView{Waiting: 1},
		Backup:      &backupView{ID: "20261122T010003Z", PlainBytes: 41 << 30, Finished: now.Add(-8 * time.Hour)},
		Recoverable: []recovery.Window{{From: utc("01:08:34"), To: utc("09:40:19"), Open: true}},
		Problems:    []string{"archiving fails: put: no space left on device"},
	}
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
state     streaming for 2h11m from db1:5432, PostgreSQL 15.18, timeline 3
received  A15/F3A1C0D8  4.0 KiB behind the server, heard 0.2 s ago
flushed   A15/F3A1C000  216 B received and not durable yet
archived  A15/F3000000  10.1 MiB in the spool only, 1 segment waiting, last put 41 s ago
slot      A15/F3000000  walstream (reserved) keeps 10.1 MiB on the server
backup    20261122T010003Z, 41.0 GiB, finished 8 h ago
recover   2026-11-22 02:08:34 .. 10:40:19 CET, last commit 41 s ago
PROBLEM   archiving fails: put: no space left on device
`)
	v = &statusView{Status: receiver.Status{State: receiver.Stopped}, Problems: []string{"no receiver is running on this spool"}}
	check(`
state     stopped
received  -
flushed   -
archived  -  nothing yet
backup    none yet; take one: walstream backup
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
