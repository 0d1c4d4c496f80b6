package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/internal/testkit"
)

// doctor runs it and returns the state of each check, and the report.
func (w *world) doctor(code int, args ...string) (map[string]string, string) {
	w.t.Helper()
	out, errs, got := w.run(append([]string{"doctor", "--json"}, args...)...)
	var v struct {
		Checks []checkView `json:"checks"`
		Failed int         `json:"failed"`
	}
	decode(w.t, out, &v)
	states := map[string]string{}
	for _, c := range v.Checks {
		states[c.Check] = c.State
	}
	if got != code || (v.Failed > 0) != (code == 3) {
		w.t.Errorf("doctor: exit code %d, want %d\n%s%s", got, code, out, errs)
	}
	return states, out
}

// doctor finds what is wrong before receive or restore would.
func TestDoctor(t *testing.T) {
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1, Settings: []string{"autovacuum = off", "wal_level = logical"}})
	expect := func(code int, want map[string]string, texts []string, args ...string) {
		t.Helper()
		fine := map[string]string{"configuration": "ok", "connect": "ok", "settings": "ok", "synchronous": "ok", "sql": "ok", "slot": "ok",
			"spool": "ok", "archive": "ok", "backup": "ok", "encryption": "ok"}
		for check, state := range want {
			if fine[check] = state; state == "" {
				delete(fine, check)
			}
		}
		states, out := w.doctor(code, args...)
		if diff := cmp.Diff(fine, states); diff != "" {
			t.Errorf("%s\n%s", diff, out)
		}
		for _, text := range texts {
			if !strings.Contains(out, text) {
				t.Errorf("no %q in\n%s", text, out)
			}
		}
	}
	none := map[string]string{"slot": "FAIL", "backup": "", "encryption": ""}
	expect(3, none, []string{"does not exist", "walstream slot create", "receive makes it"})
	if exists(w.archive) || exists(w.spool) {
		t.Error("doctor made archive or spool")
	}

	r := w.receive("--create-slot")
	expect(0, map[string]string{"backup": "warning"}, []string{"there is none yet", "put again (refused)"})
	w.must("backup", "--checkpoint", "fast")
	before := snapshot(t, w.spool)
	expect(0, nil, []string{`lists \"walstream\"`})
	for _, path := range changes(before, snapshot(t, w.spool)) {
		if strings.Contains(path, "doctor") {
			t.Errorf("left behind: %s", path)
		}
	}
	r.stop()

	w.primary.Psql(t, "ALTER SYSTEM SET synchronous_commit = 'remote_apply'")
	w.primary.Psql(t, "ALTER SYSTEM SET max_slot_wal_keep_size = '1GB'")
	w.primary.Psql(t, "ALTER SYSTEM SET wal_sender_timeout = 0")
	w.primary.Psql(t, "SELECT pg_reload_conf()")
	conf := filepath.Join(w.dir, "walstream.yml")
	if err := os.WriteFile(conf, []byte("spool: { max_size: 900TiB }\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(conf, 0o666); err != nil {
		t.Fatal(err)
	}
	expect(3, map[string]string{"configuration": "warning", "settings": "warning", "synchronous": "FAIL", "spool": "warning"},
		[]string{"remote_apply", "before hold_max, 32GiB", "wal_sender_timeout is 0", "before spool.max_size", "chmod go-w "}, "-c", conf)
	w.primary.Psql(t, "ALTER SYSTEM RESET ALL")
	w.primary.Psql(t, "SELECT pg_reload_conf()")

	w.primary.Psql(t, "SELECT pg_drop_replication_slot('walstream')")
	w.primary.Psql(t, "SELECT pg_create_logical_replication_slot('walstream', 'test_decoding')")
	out, errs, code := w.run("doctor") // as text
	if code != 3 || !strings.Contains(out, "FAIL ") || !strings.Contains(out, "logical slot") || !strings.Contains(errs, "1 of 10 checks failed") {
		t.Errorf("a logical slot: exit code %d\n%s%s", code, out, errs)
	}

	away := []string{"-d", "host=" + w.dir + " user=nobody", "--archive", filepath.Join(w.dir, "elsewhere")}
	lost := map[string]string{"connect": "FAIL", "backup": "", "encryption": ""}
	for _, check := range []string{"settings", "synchronous", "sql", "slot"} {
		lost[check] = ""
	}
	expect(3, lost, []string{"does a server listen there?", "receive makes it"}, away...)

	// On a host that only restores nothing is asked of a server, and nothing written.
	before = snapshot(t, w.archive)
	w.env = []string{"WALSTREAM_DBNAME="}
	var states map[string]string
	states, out = w.doctor(0, "--spool", filepath.Join(w.dir, "none"))
	want := map[string]string{"configuration": "ok", "server": "left out", "spool": "left out", "archive": "ok", "backup": "ok", "encryption": "ok"}
	if diff := cmp.Diff(want, states); diff != "" {
		t.Errorf("%s\n%s", diff, out)
	}
	if changed := changes(before, snapshot(t, w.archive)); len(changed) > 0 {
		t.Errorf("changed: %s", changed)
	}
	if _, out = w.doctor(3, "--archive", filepath.Join(w.dir, "elsewhere")); !strings.Contains(out, "there is no such directory") {
		t.Error(out)
	}
}

func TestListsStandby(t *testing.T) {
	for names, want := range map[string]bool{
		"": false, "walstream": true, "WalStream": true, "walstream2": false, "*": true, "ANY 1 (a, walstream)": true, "FIRST 2 (a,walstream , b)": true,
		`"walstream"`: true, `"wal""stream"`: false, "2 (a, b)": false, "a, b": false,
	} {
		if listsStandby(names, "walstream") != want {
			t.Errorf("%q: %v", names, !want)
		}
	}
	if !listsStandby(`ANY 1 ("my ""own""", b)`, `my "own"`) {
		t.Error("a quoted name is not found")
	}
}
