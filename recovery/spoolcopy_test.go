package recovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/segment"
)

// What only the spool has is copied; what an earlier restore left is kept.
func TestExecuteCopiesSpool(t *testing.T) {
	m := newMade(t)
	m.put(t)
	cfg := m.config(t)
	cfg.Source.Spool = t.TempDir()
	body := generateWAL(1, 1, 2)
	spool, err := segment.OpenSpool(segment.SpoolConfig{Dir: cfg.Source.Spool, Identity: testCluster})
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	if err := errors.Join(spool.Begin(1, 0x100000), spool.Append(1, 0x100000, body[:0x180000])); err != nil {
		t.Fatal(err)
	}
	if _, err := spool.Sync(); err != nil {
		t.Fatal(err)
	}
	m.plan.Need, m.plan.End = 0x270000, 0x270000
	m.plan.WAL = []Range{{Timeline: 1, First: seg(1, 1), Last: seg(1, 2)}}
	m.plan.SpoolOnly = []SpoolPiece{{Segment: seg(1, 1), Complete: true, End: 0x200000}, {Segment: seg(1, 2), End: 0x270000}}
	write(t, filepath.Join(SideDir(cfg.Dir), "precious"))
	if err := m.plan.Execute(context.Background(), cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(SideDir(cfg.Dir) + ".old/precious"); err != nil {
		t.Errorf("an earlier side directory was not kept: %v", err)
	}
	g := &getter{dir: t.TempDir(), spool: SideDir(cfg.Dir)}
	g.expect(t, m.store, seg(1, 1), Delivered, body[:testSize])
	if out, err := g.ask(m.store, seg(1, 2)); out != Delivered {
		t.Fatal(err)
	}
	have, err := os.ReadFile(g.target())
	if err != nil || !bytes.Equal(have[:0x70000], body[0x100000:0x170000]) {
		t.Errorf("the beginning of the unfinished segment is not what the spool held: %v", err)
	}

	// More than the spool holds cannot have been planned.
	m.plan.Need = 0x290000
	cfg.Dir += "2"
	cfg.TablespaceMap[m.space(t)] += "2"
	if err := m.plan.Execute(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), seg(1, 2)) {
		t.Errorf("%v, want an error that names the segment", err)
	}
}

// The receiver goes on after the spool was looked at: what is planned is there
// all the same, under another name or in the archive.
func TestExecuteCopiesSpoolThatMoves(t *testing.T) {
	body := generateWAL(1, 1, 2)
	id := segment.ID{Timeline: 1, No: 1}
	// ends ends the timeline, after which a remainder is archived and released.
	ends := func(to int64) func(*testing.T, *segment.Spool, *archive.Archive) error {
		return func(t *testing.T, spool *segment.Spool, a *archive.Archive) error {
			_, err := spool.EndTimeline(1, 0x180000)
			if err != nil {
				return err
			}
			p, err := spool.Next(t.Context())
			store(t, a, id, body, to)
			return errors.Join(err, spool.Release(p))
		}
	}
	for _, c := range []struct {
		name  string
		moves func(*testing.T, *segment.Spool, *archive.Archive) error
		copy  []byte
		fails string
	}{
		{"sealed", func(_ *testing.T, spool *segment.Spool, _ *archive.Archive) error {
			err := spool.Append(1, 0x180000, body[0x80000:0x100000])
			_, serr := spool.Sync()
			return errors.Join(err, serr)
		}, body[:testSize], ""},
		{"archived", ends(0x80000), nil, ""},
		{"archived in part", ends(0x60000), nil, seg(1, 1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMade(t)
			m.plan.Need, m.plan.End = 0x170000, 0x170000
			m.plan.WAL = []Range{{Timeline: 1, First: seg(1, 1), Last: seg(1, 1)}}
			m.plan.SpoolOnly = []SpoolPiece{{Segment: seg(1, 1), End: 0x170000}}
			cfg := m.config(t)
			cfg.Source.Spool = t.TempDir()
			spool, err := segment.OpenSpool(segment.SpoolConfig{Dir: cfg.Source.Spool, Identity: testCluster})
			if err != nil {
				t.Fatal(err)
			}
			defer spool.Close()
			err = errors.Join(spool.Begin(1, 0x100000), spool.Append(1, 0x100000, body[:0x80000]))
			if _, serr := spool.Sync(); err != nil || serr != nil {
				t.Fatal(err, serr)
			}
			r, err := m.plan.prepare(cfg)
			if err != nil {
				t.Fatal(err)
			}
			read, views := r.readSpool, 0
			r.readSpool = func() (*segment.SpoolView, error) {
				v, err := read()
				if views++; views == 1 {
					err = errors.Join(err, c.moves(t, spool, cfg.Source.Archive))
				}
				return v, err
			}
			err = errors.Join(r.makeSide(), r.copySpool(t.Context()))
			if (err != nil) != (c.fails != "") || err != nil && !strings.Contains(err.Error(), c.fails) {
				t.Fatalf("%v, want an error with %q", err, c.fails)
			}
			if have, _ := os.ReadFile(filepath.Join(r.side, seg(1, 1))); !bytes.Equal(have, c.copy) {
				t.Errorf("%d bytes were copied, want %d", len(have), len(c.copy))
			}
		})
	}
}

func TestOwner(t *testing.T) {
	dir := t.TempDir()
	want := &Owner{1, 2}
	if o, err := ownerFor(RestoreConfig{Dir: dir, Owner: want}); err != nil || o != want {
		t.Errorf("%v, %v", o, err)
	}
	if _, err := LookupOwner("no-such-user-anywhere"); err == nil || len(hint.Of(err)) == 0 {
		t.Errorf("%v", err)
	}
	cfg := RestoreConfig{Dir: filepath.Join(dir, "data")}
	if os.Getuid() != 0 {
		if o, err := ownerFor(cfg); err != nil || o != nil {
			t.Errorf("an ordinary user can only own the files: %v, %v", o, err)
		}
		return
	}
	if _, err := ownerFor(cfg); err == nil || !strings.Contains(err.Error(), dir) || !slices.Contains(hint.Of(err), "say who shall own the files: --owner postgres") {
		t.Errorf("files of root: %v, hints %q", err, hint.Of(err))
	}
	if err := os.Chown(dir, 65534, 65533); err != nil {
		t.Fatal(err)
	}
	if o, err := ownerFor(cfg); err != nil || o == nil || *o != (Owner{65534, 65533}) {
		t.Errorf("by the parent: %v, %v", o, err)
	}

	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	key, o := filepath.Join(dir, "walstream.key"), &Owner{65534, 65533}
	if err := os.WriteFile(key, []byte("key"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Owner = o
	cfg.Reads = []Read{{key, func(o *Owner) string { return fmt.Sprintf("install -o %d %s", o.UID, key) }}}
	if _, err := (&Plan{}).prepare(cfg); err == nil || !strings.Contains(err.Error(), key+": permission denied") || !strings.Contains(strings.Join(hint.Of(err), ""), "install -o 65534 "+key) {
		t.Errorf("a key of root only: %v, %q", err, hint.Of(err))
	}
	if err := os.Chown(key, o.UID, o.GID); err != nil {
		t.Fatal(err)
	}
	if err := o.mayRead(key); err != nil {
		t.Errorf("a key of the owner: %v", err)
	}
}
