package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/internal/testkit/memstore"
	"github.com/walstream/walstream/internal/testkit/walgen"
	"github.com/walstream/walstream/segment"
)

// replay is a restored cluster that can be brought, as often as one likes,
// into the middle of its replay: to where PostgreSQL asks for a certain file.
type replay struct {
	*world
	program string // what restore_command runs: says so in gate/started, and is program.real
	gate    string // holds file, the name at which to wait, then reached, then open
	wait    string // what waits there, before all else in restore_command
	config  string
	dir     string // the data directory of the moment, beside it its .walstream
	sets    []*writers

	middle   segment.ID // one of the last segments of timeline 2
	segments string     // where timeline 2 is in the archive
}

const gateScript = `#!/bin/sh
cd GATE
if [ "$1" = "$(cat file)" ] && [ ! -e reached ]; then
	: > reached
	while [ ! -e open ]; do sleep 0.02; done
fi
`

const startScript = `#!/bin/sh
echo "$@" >>GATE/started
exec "$0.real" "$@"
`

// newReplay makes a history with a fork, the end of which only the spool
// holds, and restores it to the end ("end") and to a restore point that is the
// end too ("target").
func newReplay(t *testing.T) *replay {
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	p := &replay{
		world: w, program: filepath.Join(w.dir, "walstream"), gate: filepath.Join(w.dir, "gate"), wait: filepath.Join(w.dir, "wait"),
		config: filepath.Join(w.dir, "walstream.yml"), dir: filepath.Join(w.dir, "data"), segments: filepath.Join(w.archive, "wal", "00000002"),
	}
	testkit.Run(t, "cp", w.bin, p.program)
	p.write(p.config, "restore_retry: 300ms\nrestore_prefetch: 0\n", 0o644)
	r := w.receive("--create-slot")
	w.must("backup", "--checkpoint", "fast")
	p.commit(2)
	w.primary.Stop(syscall.SIGINT)
	r.stop()
	w.primary = w.restore(w.dir + "/second")
	r = w.receive("--create-slot")
	p.commit(4)
	last, err := segment.ParseName(w.primary.Psql(t, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())"), mib)
	if err != nil {
		t.Fatal(err)
	}
	p.middle = segment.ID{Timeline: last.Timeline, No: last.No - 2}
	ws := write(t, w.primary, 2)
	ws.atLeast(t, 20)
	ws.stop()
	p.sets = append(p.sets, ws)
	w.primary.Psql(t, "SELECT pg_create_restore_point('done')")
	w.primary.Psql(t, "CREATE TABLE undone ()") // waits until the spool has all that
	r.kill()

	w.bin = p.program
	for name, target := range map[string][]string{"end": nil, "target": {"--target-name", "done", "--target-action", "promote"}} {
		w.must(append([]string{"restore", p.dir, "--config", p.config}, target...)...)
		move(t, p.dir, p.dir+"."+name)
		move(t, p.dir+".walstream", p.dir+".walstream."+name)
	}
	move(t, p.program, p.program+".real")
	w.bin += ".real"
	for name, script := range map[string]string{p.wait: gateScript, p.program: startScript} {
		p.write(name, strings.ReplaceAll(script, "GATE", p.gate), 0o755)
	}
	return p
}

// commit makes n segments, each with acknowledged commits, that are archived.
func (p *replay) commit(n int) {
	p.t.Helper()
	ws := write(p.t, p.primary, 2)
	for range n {
		ws.atLeast(p.t, 20)
		p.archived()
	}
	ws.stop()
	p.archived()
	p.sets = append(p.sets, ws)
}

func (p *replay) write(name, text string, mode os.FileMode) {
	p.t.Helper()
	if err := errors.Join(os.WriteFile(name, []byte(text), mode), os.Chmod(name, mode)); err != nil {
		p.t.Fatal(err)
	}
	testkit.Own(p.t, name)
}

const (
	patient     = "--restore-retry 1m"
	prefetching = "--restore-prefetch 1MiB" // one segment ahead
)

// to starts a fresh copy of a restored cluster and returns when PostgreSQL
// waits for the answer to its question for file. The options of wal-get are
// those of the restore, which prefetches nothing, but for these.
func (p *replay) to(t *testing.T, file, restored string, options ...string) *testkit.Cluster {
	t.Helper()
	for _, dir := range []string{p.dir, p.dir + ".walstream"} {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		testkit.Run(t, "cp", "-a", dir+"."+restored, dir)
	}
	conf := filepath.Join(p.dir, "postgresql.auto.conf")
	b, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	b = bytes.Replace(b, []byte("restore_command = '"), []byte("restore_command = '"+p.wait+" %f; "), 1)
	for _, option := range options {
		name, _, _ := strings.Cut(option, " ")
		b = regexp.MustCompile(name+" [^ ]+").ReplaceAll(b, []byte(option))
	}
	p.write(conf, string(b), 0o600)
	if err := errors.Join(os.RemoveAll(p.gate), os.Mkdir(p.gate, 0o700)); err != nil {
		t.Fatal(err)
	}
	p.write(filepath.Join(p.gate, "file"), file, 0o600)
	testkit.Own(t, p.gate)
	c := testkit.Adopt(t, p.dir)
	c.Launch()
	testkit.Wait(t, "PostgreSQL to ask for "+file, func() (bool, string) { return exists(p.gate + "/reached"), c.Log() })
	return c
}

// started is how often the program was started for a file.
func (p *replay) started(file string) int {
	p.t.Helper()
	b, err := os.ReadFile(p.gate + "/started")
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.Count(string(b), " "+file+" ")
}

func (p *replay) open() { p.write(p.gate+"/open", "", 0o600) }

// promoted says whether the cluster has begun a timeline of its own.
func (p *replay) promoted() bool { return exists(p.dir + "/pg_wal/00000003.history") }

// complete checks that a cluster is at the end of its WAL.
func (p *replay) complete(t *testing.T, c *testkit.Cluster) {
	t.Helper()
	testkit.Wait(t, "the end of recovery", func() (bool, string) {
		state, err := c.Query("SELECT pg_is_in_recovery()")
		return err == nil && state == "f", c.Log()
	})
	for _, ws := range p.sets {
		if lost := ws.lost(t, c); len(lost) > 0 {
			t.Errorf("%d of %d commits are missing", len(lost), ws.count())
		}
	}
	if !p.promoted() {
		t.Error("there is no timeline 3: this test does not see promotions")
	}
	c.Stop(syscall.SIGQUIT)
}

// inArchive is where the archive has a segment of timeline 2.
func (p *replay) inArchive(id segment.ID) string {
	return filepath.Join(p.segments, id.Name(mib)+".zst")
}

// copied is the restore's copy of the segment that only the spool had.
func (p *replay) copied() string {
	p.t.Helper()
	names, err := filepath.Glob(p.dir + ".walstream.end/*.tail")
	if err != nil || len(names) != 1 {
		p.t.Fatalf("copies of what only the spool had: %v %v", names, err)
	}
	return filepath.Join(p.dir+".walstream", filepath.Base(names[0]))
}

// identity is the cluster's.
func (p *replay) identity() segment.Identity {
	p.t.Helper()
	view, err := segment.ReadSpool(fsx.OS{}, p.spool)
	if err != nil {
		p.t.Fatal(err)
	}
	return view.Identity
}

// object is the archive's object of a segment that is made up.
func (p *replay) object(t *testing.T, identity segment.Identity, id segment.ID) []byte {
	t.Helper()
	g := walgen.New(identity.ScanConfig(id), 1)
	g.FillSegments(1)
	store := memstore.New()
	a, err := archive.Pin(t.Context(), store, identity)
	if err != nil {
		t.Fatal(err)
	}
	piece := archive.Piece{ID: id, To: int64(mib)}
	data := bytes.NewReader(g.Bytes[:mib])
	h, err := a.Describe(piece, data, nil)
	if err == nil {
		err = a.PutSegment(t.Context(), piece, h, data, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	r, err := store.Get(t.Context(), piece.Name(mib), 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	body, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return body
}
