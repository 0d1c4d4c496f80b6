package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/internal/testkit"
)

// url is where r answers.
func (r *receiving) url() string {
	r.t.Helper()
	testkit.Wait(r.t, "an address", func() (bool, string) { return servedAt.MatchString(r.output()), r.output() })
	return "http://" + servedAt.FindStringSubmatch(r.output())[1]
}

// follower makes a standby that has nothing but restore_command.
func (w *world) follower(command string) *testkit.Cluster {
	w.t.Helper()
	dir := filepath.Join(testkit.Dir(w.t), "data")
	testkit.Run(w.t, filepath.Join(w.primary.Bin, "pg_basebackup"), "-d", w.primary.Conninfo(), "-D", dir, "-X", "none", "-c", "fast")
	signal := filepath.Join(dir, "standby.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		w.t.Fatal(err)
	}
	testkit.Own(w.t, signal)
	s := testkit.Adopt(w.t, dir)
	s.Configure("wal_retrieve_retry_interval = '100ms'", command)
	return s
}

// A standby that can reach neither the archive nor the primary follows through
// walstream serve, and then through the receiver itself. When the primary is
// lost, it is promoted with every acknowledged commit: also those that only the
// receiver holds.
func TestStandbyWithoutArchive(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	token := filepath.Join(w.dir, "token")
	if err := os.WriteFile(token, []byte("a-long-random-word\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	testkit.Own(t, token)
	w.env = []string{"TMPDIR=" + w.dir, "WALSTREAM_TAIL_INTERVAL=0", "WALSTREAM_HTTP_TOKEN_FILE=" + token}
	r := w.receive("--create-slot")
	w.env = w.env[:2]
	w.must("backup", "--checkpoint", "fast")
	server := w.start("serve")
	from := func(url string) string {
		return "restore_command = 'WALSTREAM_HTTP_TOKEN_FILE=" + token + " " + w.bin + " wal-get --on-error fatal --restore-retry 1m --from " + url + " %f %p'"
	}
	s := w.follower(from(server.url()))
	w.archived()
	s.Start()
	w.plans(server)
	ws := write(t, w.primary, 2)
	ws.atLeast(t, 200)
	s.CaughtUp(w.primary)

	s.Configure(from(r.url()))
	s.Reload()
	ws.atLeast(t, 50)
	w.archived()
	s.CaughtUp(w.primary)
	server.stop() // nobody asks it any more
	ws.atLeast(t, 50)
	w.crash()
	ws.stop()
	if tli := s.Promote(); tli != "2" {
		t.Errorf("promoted on timeline %s", tli)
	}
	if lost := ws.lost(t, s); len(lost) > 0 {
		t.Errorf("%d of %d acknowledged commits are lost, the first is %d\n%s", len(lost), ws.count(), lost[0], s.Log())
	}
	if code, body := r.get("/wal/000000010000000000000001"); code != 401 {
		t.Errorf("without the token: %d %s", code, body)
	}
	if left, _ := filepath.Glob(filepath.Join(w.dir, "walstream-serve-*")); len(left) > 0 {
		t.Errorf("left %s", left)
	}
}

// plans compares what the server plans with a dry run of restore.
func (w *world) plans(server *receiving) {
	w.t.Helper()
	lsn := w.primary.Psql(w.t, "CREATE TABLE planned (); SELECT pg_current_wal_insert_lsn()")
	w.primary.Psql(w.t, "CREATE TABLE unplanned ()")
	w.archived()
	for query, want := range map[string]struct {
		code int
		args []string
	}{
		"target-lsn=" + lsn + "&target-exclusive": {200, []string{"--target-lsn", lsn, "--target-exclusive"}},
		"target-immediate&target-action=shutdown": {200, []string{"--target-immediate", "--target-action", "shutdown"}},
		"target-lsn=FF/0":                         {422, []string{"--target-lsn", "FF/0"}},
		"target-lsn=x":                            {400, []string{"--target-lsn", "x"}},
		"target-xid=1&target-immediate":           {400, []string{"--target-xid", "1", "--target-immediate"}},
		"target-timeline=2":                       {422, []string{"--target-timeline", "2"}},
		"jobs=2":                                  {400, nil},
		"target=immediate":                        {400, nil},
	} {
		code, body := server.get("/plan?" + query)
		if code != want.code {
			w.t.Errorf("/plan?%s: %d, want %d\n%s", query, code, want.code, body)
			continue
		}
		if want.args == nil {
			continue
		}
		out, errs, _ := w.run(append([]string{"restore", "/srv/DIR", "--dry-run", "--json"}, want.args...)...)
		if code != 200 {
			errs = errs[strings.LastIndex(strings.TrimSpace(errs), "\n")+1:]
			var said, meant failure
			decode(w.t, body, &said)
			decode(w.t, errs, &meant)
			text, _, _ := strings.Cut(meant.Error, ":")
			if said.Code != meant.Code || !strings.HasPrefix(said.Error, text) {
				w.t.Errorf("/plan?%s: %s\nrestore: %s", query, body, errs)
			}
			continue
		}
		var said, meant map[string]any
		decode(w.t, body, &said)
		decode(w.t, out, &meant)
		// What is of the host that restores, and what a server writes meanwhile.
		for _, name := range []string{"dir", "settings", "expected", "wal_end", "last_finish"} {
			delete(meant, name)
			delete(said, name)
		}
		if diff := cmp.Diff(meant, said); diff != "" {
			w.t.Errorf("/plan?%s: %s", query, diff)
		}
	}
}
