package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/wal"
)

// Somebody deletes one of the segments that wait in the spool. The slot stays
// before it, the log says so, and what it hints at mends it.
func TestSegmentTakenFromSpool(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	w.receive("--create-slot").stop()
	if err := os.Rename(w.archive, w.archive+".away"); err != nil {
		t.Fatal(err)
	}
	r := w.receive()
	for range 5 {
		w.primary.Psql(t, "SELECT pg_logical_emit_message(true, 'filler', 'x')")
		w.primary.Psql(t, "SELECT pg_switch_wal()")
	}
	r.stop()
	waiting, err := filepath.Glob(filepath.Join(w.spool, "????????????????????????"))
	if err != nil || len(waiting) < 4 {
		t.Fatalf("%v wait in the spool, %v", waiting, err)
	}
	taken := filepath.Base(waiting[2])
	if err := os.Remove(waiting[2]); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(w.archive+".away", w.archive); err != nil {
		t.Fatal(err)
	}

	r = w.receive()
	r.said("the slot stays before a hole in the archive")
	hole := filepath.Join(w.archive, "wal", taken[:8], taken+".zst")
	if log := r.output(); !strings.Contains(log, "mv "+w.spool+" "+w.spool+".old") || exists(hole) {
		t.Errorf("%s is archived: %v\n%s", taken, exists(hole), log)
	}
	w.primary.Psql(t, "SELECT pg_switch_wal()")
	r.stop()
	slot, err := wal.ParseLSN(w.primary.Psql(t, "SELECT restart_lsn FROM pg_replication_slots"))
	if err != nil {
		t.Fatal(err)
	}
	name := w.primary.Psql(t, "SELECT pg_walfile_name('"+(slot+1).String()+"')")
	if name > taken {
		t.Errorf("the slot is at %s, in %s: the server may remove %s", slot, name, taken)
	}
	w.sh("mv " + w.spool + " " + w.spool + ".old")
	r = w.receive()
	w.archived()
	r.stop()
	if list := w.must("list", "wal"); strings.Contains(list, "missing") || !exists(hole) {
		t.Errorf("list wal:\n%s", list)
	}
}
