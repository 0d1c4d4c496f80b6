package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
)

// Somebody deletes segments that wait in the spool, while the receiver is
// stopped or runs. They come again from the server, and nobody has to help.
// Until they have, no commit is acknowledged with ack: archive: what was can be
// restored without primary and spool.
func TestSegmentTakenFromSpool(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ack     string
		running bool
		take    []int // of those that wait, negative from the end
	}{
		"ack: spool, stopped":   {ack: "spool", take: []int{0, 2, 3, -1}},
		"ack: spool, running":   {ack: "spool", running: true, take: []int{1, -1}},
		"ack: archive, stopped": {ack: "archive", take: []int{0, 3}},
		"ack: archive, running": {ack: "archive", running: true, take: []int{1, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
			w.env = append(w.env, "WALSTREAM_ACK="+c.ack)
			ws, r := w.takeFromSpool(c.running, c.take, func() {})
			if c.ack == "archive" {
				w.onlyArchive(r)
				ws.stop()
			} else {
				w.wantNoHole(ws, r)
				w.crash()
			}
			w.rescue("restored", ws)
		})
	}
}

// takeFromSpool deletes files, lets something happen, and returns when more has
// been acknowledged.
func (w *world) takeFromSpool(running bool, take []int, meanwhile func()) (*writers, *receiving) {
	t := w.t
	t.Helper()
	r := w.receive("--create-slot")
	w.must("backup", "--checkpoint", "fast")
	ws := write(t, w.primary, 2)
	ws.atLeast(t, 20)
	r.stop()
	move(t, w.archive, w.archive+".away")
	r = w.launch()
	var waiting []string
	testkit.Wait(t, "segments to wait in the spool", func() (bool, string) {
		w.fill()
		waiting, _ = filepath.Glob(filepath.Join(w.spool, "????????????????????????"))
		return len(waiting) > 5, r.output()
	})
	if !running {
		r.stop()
	}
	for _, i := range take {
		if err := os.Remove(waiting[(i+len(waiting))%len(waiting)]); err != nil {
			t.Fatal(err)
		}
	}
	meanwhile()
	before := ws.count()
	move(t, w.archive+".away", w.archive)
	if !running {
		r = w.launch("--create-slot")
	}
	ws.atLeast(t, before+20-ws.count())
	return ws, r
}

// fill ends a segment, although no commit is acknowledged.
func (w *world) fill() {
	w.primary.Psql(w.t, "SET synchronous_commit = off; SELECT pg_logical_emit_message(true, 'filler', 'x'); SELECT pg_switch_wal()")
}

// wantNoHole waits until the archive has everything, and the slot may move.
func (w *world) wantNoHole(ws *writers, r *receiving) {
	w.t.Helper()
	missing := regexp.MustCompile("missing|gap")
	testkit.Wait(w.t, "the archive to have no hole", func() (bool, string) {
		w.fill()
		out := w.must("list", "wal")
		return !missing.MatchString(out), out + r.output()
	})
	ws.stop()
	at := w.primary.Psql(w.t, "SELECT pg_current_wal_lsn()")
	w.archived()
	testkit.Wait(w.t, "the slot to move on", func() (bool, string) {
		out := w.primary.Psql(w.t, "SELECT restart_lsn >= '"+at+"', restart_lsn FROM pg_replication_slots")
		return strings.HasPrefix(out, "t"), out + r.output()
	})
}

// The server lacks what was deleted: it becomes a gap, and nobody has to help.
func TestTakenFromSpoolAndGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, forgetful)
	ws, r := w.takeFromSpool(false, []int{2}, func() {
		w.waitFor("")
		w.forget()
	})
	w.synchronous(r)
	testkit.Wait(t, "a backup behind both gaps", func() (bool, string) {
		v, _ := w.statusView() // the first one is what the server has removed since
		return len(v.Gaps) == 2 && v.Gaps[0].Closed && v.Gaps[1].Closed, strings.Join(v.Problems, "\n") + r.output()
	})
	ws.atLeast(t, 20)
	w.archived()
	ws.stop()
	w.crash()
	w.rescue("restored", ws)
}
