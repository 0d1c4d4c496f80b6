package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/recovery"
)

// runbook is docs/runbook.md, whose blocks are run in a world.
type runbook struct {
	*world
	setup  string
	blocks map[string][]string // by section, those that were not run yet
	vars   map[string]string
}

func newRunbook(w *world) *runbook {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs/runbook.md"))
	if err != nil {
		w.t.Fatal(err)
	}
	r := &runbook{world: w, blocks: map[string][]string{}, vars: map[string]string{"WALSTREAM_ARCHIVE": w.archive, "WALSTREAM_SPOOL": w.spool}}
	section := ""
	for _, m := range regexp.MustCompile("(?ms)^## ([^\n]*)$|^```sh\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		switch {
		case m[1] != "":
			section = m[1]
		case section == "":
			r.setup = m[2]
		default:
			r.blocks[section] = append(r.blocks[section], m[2])
		}
	}
	return r
}

// next runs the next blocks of a section, with variables as in vars.
func (r *runbook) next(section string, n int) (out string) {
	r.t.Helper()
	// Status may have something to tell, and the test is the service manager.
	script := "set -eu\nsystemctl() { :; }\nsudo() { \"$@\"; }\n" +
		"walstream() { [ \"$1\" != status ] || { command walstream \"$@\" || [ $? -eq 3 ]; return; }; command walstream \"$@\"; }\ncd " + hint.Quote(r.dir) + "\n" + r.setup
	for _, block := range r.blocks[section][:n] {
		script += block
	}
	r.blocks[section] = r.blocks[section][n:]
	for name, value := range r.vars {
		script = regexp.MustCompile(`(?m)^(export )?`+name+`=.*$`).ReplaceAllString(script, "${1}"+name+"="+strings.ReplaceAll(hint.Quote(value), "$", "$$"))
	}
	out, errs, code := r.shell(script)
	if code != 0 {
		r.t.Fatalf("%s: exit code %d\n%s%s\n%s", section, code, out, errs, script)
	}
	return out
}

// into is the directory of the next blocks.
func (r *runbook) into(name string) string {
	r.vars["DIR"] = filepath.Join(r.dir, name)
	r.servers(r.vars["DIR"])
	return r.vars["DIR"]
}

// servers in dir end with the test.
func (w *world) servers(dir string) {
	w.t.Cleanup(func() {
		testkit.Command(w.t, filepath.Join(w.primary.Bin, "pg_ctl"), "-D", dir, "-m", "immediate", "stop").Run()
	})
}

// orders is how many rows are in the table.
func orders(t *testing.T, c *testkit.Cluster, want int) {
	t.Helper()
	if got := c.Psql(t, "SELECT count(*) FROM orders"); got != fmt.Sprint(want) {
		t.Errorf("%s rows, want %d", got, want)
	}
}

// quarantined is the server that restore --wait started.
func quarantined(dir string) *testkit.Cluster {
	return &testkit.Cluster{SocketDir: recovery.SideDir(dir), Port: socketPort}
}

// elsewhere gives a standby that is started on the same machine a place of its own.
func (r *runbook) elsewhere(dir string) *testkit.Cluster {
	c := testkit.Adopt(r.t, dir)
	c.Configure("unix_socket_directories = '" + c.SocketDir + "'")
	return c
}

// Every command of the runbook, through a night with all of its incidents. An
// included file has a target that is left over, which no restore goes to.
func TestRunbook(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1, Checksums: true, Settings: []string{"include_if_exists = 'leftover.conf'"}})
	if err := os.WriteFile(filepath.Join(w.primary.DataDir, "leftover.conf"), []byte("recovery_target_xid = '3'\nrecovery_target_action = 'shutdown'\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	recv := w.receive("--create-slot")
	r := newRunbook(w)
	r.vars["PRIMARY"] = w.primary.Conninfo()
	w.primary.Psql(t, "CREATE TABLE orders AS SELECT generate_series(1, 10) n")
	w.must("backup", "--checkpoint", "fast")
	w.primary.Psql(t, "INSERT INTO orders SELECT generate_series(11, 20)")
	if out := r.next("Assess", 1); !strings.Contains(out, "recoverable: ") {
		t.Errorf("nothing is recoverable:\n%s", out)
	}

	// A DELETE, and the clone that gives the rows back.
	r.vars["TIME"] = w.primary.Psql(t, "SELECT clock_timestamp()")
	w.primary.Psql(t, "DELETE FROM orders WHERE n > 5")
	w.archived()
	dir := r.into("clone")
	if out := r.next("Accidental DELETE or DROP", 2); !strings.Contains(out, "as planned") {
		t.Errorf("the clone is not as planned:\n%s", out)
	}
	orders(t, quarantined(dir), 20)
	w.primary.Psql(t, "TRUNCATE orders")
	r.next("Accidental DELETE or DROP", 1)
	orders(t, w.primary, 20)
	r.next("Accidental DELETE or DROP", 1)

	// Corruption: all is sound in what is restored.
	var list struct{ Backups []backupView }
	r.vars["BACKUP"] = decode(t, w.must("list", "--json"), &list).Backups[0].ID
	dir = r.into("sound")
	r.next("Corruption", 2)
	orders(t, quarantined(dir), 20)

	// A standby takes over in peace, and the old primary becomes one.
	old, a := w.primary, r.into("standby")
	r.next("Standbys", 1)
	standby := r.elsewhere(a)
	r.next("Standbys", 1)
	streams(t, w.primary, "walreceiver")
	standby.CaughtUp(w.primary)
	r.vars["STANDBY"], r.vars["OLD"] = standby.Conninfo(), old.DataDir
	r.next("Planned promotion", 1)
	if out := r.next("Planned promotion", 1); !strings.HasSuffix(out, "\nf\n") {
		t.Errorf("not promoted:\n%s", out)
	}
	recv.kill()
	recv = r.moved(standby)
	standby.Psql(t, "INSERT INTO orders SELECT generate_series(21, 30)")
	r.next("Planned promotion", 1)
	r.servers(old.DataDir)
	r.next("Planned promotion", 1)
	streams(t, standby, "walreceiver")

	// That one takes over in an emergency, without a restore_command and so
	// without the last rows, which are found again.
	old.CaughtUp(standby)
	r.ctl(old.DataDir, "stop")
	standby.Psql(t, "INSERT INTO orders SELECT generate_series(31, 35)")
	r.ctl(a, "-m", "immediate", "stop")
	r.ctl(old.DataDir, "-l", old.DataDir+".log", "-o", "-c restore_command=", "start")
	r.vars["DIR"], r.vars["STANDBY"] = old.DataDir, old.Conninfo()
	r.next("Emergency promotion", 1)
	orders(t, old, 30)
	recv.kill()
	recv = r.moved(old)
	if out := r.next("Emergency promotion", 1); !strings.Contains(out, "PROBLEM") {
		t.Errorf("no problem with the promotion:\n%s", out)
	}
	r.vars["TIMELINE"] = "2"
	dir = r.into("kept")
	r.next("Failed failover", 1)
	orders(t, quarantined(dir), 35)

	// Its disk is lost; what is restored becomes production.
	old.Psql(t, "INSERT INTO orders SELECT generate_series(31, 40)")
	r.ctl(old.DataDir, "-m", "immediate", "stop")
	dir = r.into("lost")
	r.next("Lost disk", 1)
	orders(t, quarantined(dir), 40)
	r.vars["PRIMARY"] = old.Conninfo()
	r.next("Resume", 3)
	recv.kill()
	recv = r.moved(old)
	r.next("Resume", 1)
	old.Psql(t, "INSERT INTO orders VALUES (41)")

	// All is lost but the archive.
	recv.stop()
	r.vars["WALSTREAM_SPOOL"] = filepath.Join(w.dir, "none")
	dir = r.into("site")
	r.next("Lost site", 1)
	orders(t, quarantined(dir), 41)
	r.next("Write down", 1)
	for section, blocks := range r.blocks {
		if len(blocks) > 0 {
			t.Errorf("%s: %d blocks are not run", section, len(blocks))
		}
	}
}

// moved starts a receiver that follows c.
func (r *runbook) moved(c *testkit.Cluster) *receiving {
	r.dbname, r.primary = c.Conninfo(), c
	return r.receive("--create-slot")
}

// ctl does to a server what is no part of the runbook.
func (r *runbook) ctl(dir string, args ...string) {
	r.t.Helper()
	testkit.Run(r.t, filepath.Join(r.primary.Bin, "pg_ctl"), append([]string{"-D", dir}, args...)...)
}
