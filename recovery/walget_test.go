package recovery

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/testkit/memstore"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// faulty is a store whose reads of some objects go wrong.
type faulty struct {
	archive.Store
	get, list func(name string) error
	mangle    func(name string, body []byte) []byte
}

func (f faulty) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if f.get != nil {
		if err := f.get(name); err != nil {
			return nil, err
		}
	}
	r, err := f.Store.Get(ctx, name, off, n)
	if err != nil || f.mangle == nil {
		return r, err
	}
	defer r.Close()
	body, err := io.ReadAll(r)
	return io.NopCloser(bytes.NewReader(f.mangle(name, body))), err
}

func (f faulty) Stat(ctx context.Context, name string) (archive.Info, error) {
	if f.get != nil {
		if err := f.get(name); err != nil {
			return archive.Info{}, err
		}
	}
	return f.Store.Stat(ctx, name)
}

func (f faulty) List(ctx context.Context, prefix, after string) iter.Seq2[archive.Info, error] {
	if f.list != nil {
		if err := f.list(prefix); err != nil {
			return func(yield func(archive.Info, error) bool) { yield(archive.Info{}, err) }
		}
	}
	return f.Store.List(ctx, prefix, after)
}

// getter is an archive with timeline 1 in segments 1 to 4, where 3 is missing
// and of 5 there is a beginning; and of timeline 2 history and segment 4.
type getter struct {
	store archive.Store
	wal   []byte // timeline 1, from segment 1 on
	dir   string
	spool string
}

func newGetter(t *testing.T) *getter {
	t.Helper()
	g := &getter{store: memstore.New(), wal: generateWAL(1, 1, 6), dir: t.TempDir()}
	a, err := archive.Pin(context.Background(), g.store, testCluster)
	if err != nil {
		t.Fatal(err)
	}
	for _, no := range []uint64{1, 2, 4} {
		store(t, a, segment.ID{Timeline: 1, No: no}, nth(g.wal, int(no)-1), int64(testSize))
	}
	store(t, a, segment.ID{Timeline: 1, No: 5}, nth(g.wal, 4), 0x50000)
	store(t, a, segment.ID{Timeline: 2, No: 4}, generateWAL(2, 4, 1), int64(testSize))
	if err := a.PutHistory(context.Background(), 2, []byte("1\t0/400000\tno recovery target specified\n")); err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *getter) target() string { return filepath.Join(g.dir, "RECOVERYXLOG") }

func (g *getter) ask(store archive.Store, file string) (Outcome, error) {
	return WalGet(context.Background(), g.config(store), file, g.target())
}

func (g *getter) config(store archive.Store) WalGetConfig {
	return WalGetConfig{
		Open:  func(ctx context.Context) (*archive.Archive, error) { return archive.Open(ctx, store) },
		Spool: g.spool, RetryFor: -1,
	}
}

// expect asks and compares outcome and file.
func (g *getter) expect(t *testing.T, store archive.Store, file string, want Outcome, body []byte) {
	t.Helper()
	os.Remove(g.target())
	for range 2 { // repeated requests are answered alike
		got, err := g.ask(store, file)
		if got != want || (err == nil) != (want == Delivered) {
			t.Errorf("%s: %d, %v; want %d", file, got.ExitCode(), err, want.ExitCode())
			return
		}
	}
	have, err := os.ReadFile(g.target())
	if want != Delivered && !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: a file was left although the outcome is %d", file, want.ExitCode())
	}
	if want == Delivered && !bytes.Equal(have, body) {
		t.Errorf("%s: %d bytes were delivered that are not those stored", file, len(have))
	}
	if left, _ := filepath.Glob(g.target() + ".*"); len(left) > 0 {
		t.Errorf("%s: left %s", file, left)
	}
	g.behindServer(t, g.config(store), file, want, body)
}

func seg(tli wal.Timeline, no uint64) string {
	return segment.ID{Timeline: tli, No: no}.Name(testSize)
}

func padded(body []byte, n int) []byte {
	return append(bytes.Clone(body[:n]), make([]byte, int(testSize)-n)...)
}

func TestWalGet(t *testing.T) {
	g := newGetter(t)
	tail := padded(nth(g.wal, 4), 0x50000)
	for file, want := range map[string]struct {
		out  Outcome
		body []byte
	}{
		seg(1, 1):                           {Delivered, nth(g.wal, 0)},
		seg(1, 2):                           {Delivered, nth(g.wal, 1)},
		seg(1, 3):                           {Trouble, nil}, // a hole: there is more behind it
		seg(1, 4):                           {Delivered, nth(g.wal, 3)},
		seg(1, 5):                           {Delivered, tail},
		seg(1, 6):                           {Absent, nil},
		seg(1, 0):                           {Trouble, nil},
		seg(2, 3):                           {Trouble, nil}, // before what there is of the timeline
		seg(2, 4):                           {Delivered, generateWAL(2, 4, 1)},
		seg(2, 5):                           {Absent, nil},
		seg(3, 5):                           {Absent, nil},
		"00000001.history":                  {Absent, nil},
		"00000002.history":                  {Delivered, []byte("1\t0/400000\tno recovery target specified\n")},
		"00000003.history":                  {Absent, nil},
		seg(1, 5) + ".partial":              {Absent, nil},
		seg(1, 2) + ".00000028.backup":      {Absent, nil},
		"":                                  {Trouble, nil},
		"../../etc/passwd":                  {Trouble, nil},
		"RECOVERYXLOG":                      {Trouble, nil},
		"000000010000000000FFFFFF":          {Trouble, nil}, // no name for segments of 1 MiB
		strings.ToLower("0000000A.history"): {Trouble, nil},
		"00000000.history":                  {Trouble, nil},
		"00000001000000000000000g":          {Trouble, nil},
	} {
		g.expect(t, g.store, file, want.out, want.body)
	}
}

// The segment in which a timeline begins is needed, whether there is a plan or
// not: PostgreSQL takes the old timeline's file in its place otherwise.
func TestWalGetForkSegment(t *testing.T) {
	g := newGetter(t)
	fork := "wal/00000002/" + seg(2, 4) + ".zst"
	if err := g.store.Delete(t.Context(), fork); err != nil {
		t.Fatal(err)
	}
	g.expect(t, g.store, seg(2, 4), Trouble, nil)
	g.expect(t, g.store, seg(1, 4), Delivered, nth(g.wal, 3)) // recovery along timeline 1
	g.expect(t, g.store, seg(2, 5), Absent, nil)
	g.expect(t, g.store, seg(3, 4), Absent, nil) // a timeline without history
	unreachable := faulty{Store: g.store, get: func(name string) error {
		if name == "wal/00000003.history" {
			return errors.New("timeout")
		}
		return nil
	}}
	g.expect(t, unreachable, seg(3, 4), Trouble, nil)

	history := map[string][]byte{"00000003.history": []byte("1\t0/654321\treason\n")}
	g.withPlan(t, nil, history) // in a receiver's spool
	g.expect(t, g.store, seg(3, 6), Trouble, nil)
	g.expect(t, g.store, seg(3, 7), Absent, nil)
	begun := generateWAL(3, 6, 1)
	history[seg(3, 6)+".00060000.tail"] = begun[:0x60000]
	g.withPlan(t, nil, history)
	g.expect(t, g.store, seg(3, 6), Delivered, padded(begun, 0x60000))
}

// Whatever goes wrong, the answer is never that there is no such file.
func TestWalGetTrouble(t *testing.T) {
	g := newGetter(t)
	network := errors.New("connection reset")
	objects := map[string]string{
		seg(1, 1): "wal/00000001/" + seg(1, 1) + ".zst", seg(1, 5): "wal/00000001/" + seg(1, 5) + ".tail/", seg(1, 6): "wal/00000001/" + seg(1, 6),
		"00000002.history": "wal/00000002.history", "00000003.history": "wal/00000003.history",
	}
	for file, object := range objects {
		at := func(name string) bool { return strings.HasPrefix(name, object) }
		for what, store := range map[string]faulty{
			"get": {Store: g.store, get: func(name string) error {
				if at(name) {
					return network
				}
				return nil
			}},
			"everything": {Store: g.store, get: func(string) error { return network }, list: func(string) error { return network }},
			"identity": {Store: g.store, get: func(name string) error {
				if name == "walstream.json" {
					return archive.ErrNotExist // not mounted
				}
				return nil
			}},
			"panic": {Store: g.store, get: func(name string) error {
				if at(name) {
					panic("bug")
				}
				return nil
			}},
		} {
			t.Run(what+" "+file, func(t *testing.T) { g.expect(t, store, file, Trouble, nil) })
		}
	}
	t.Run("list", func(t *testing.T) {
		broken := faulty{Store: g.store, list: func(string) error { return network }}
		g.expect(t, broken, seg(1, 6), Trouble, nil)
		g.expect(t, broken, seg(1, 5), Trouble, nil)
		g.expect(t, broken, "00000003.history", Trouble, nil)
		g.expect(t, broken, seg(1, 1), Delivered, nth(g.wal, 0)) // needs no list
	})
}

func TestWalGetDamage(t *testing.T) {
	g := newGetter(t)
	for _, file := range []string{seg(1, 1), seg(1, 5)} {
		at := func(name string) bool { return strings.Contains(name, file) }
		for what, change := range map[string]func([]byte) []byte{
			"flipped":   func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
			"truncated": func(b []byte) []byte { return b[:len(b)-1] },
			"empty":     func([]byte) []byte { return nil },
			"longer":    func(b []byte) []byte { return append(b, 0) },
		} {
			mangled := faulty{Store: g.store, mangle: func(name string, body []byte) []byte {
				if at(name) {
					return change(body)
				}
				return body
			}}
			t.Run(what+" "+file, func(t *testing.T) { g.expect(t, mangled, file, Trouble, nil) })
		}
	}
}

func TestWalGetCannotWrite(t *testing.T) {
	g := newGetter(t)
	g.dir = filepath.Join(g.dir, "gone")
	for _, file := range []string{seg(1, 1), seg(1, 5), "00000002.history"} {
		if out, err := g.ask(g.store, file); out != Trouble || err == nil {
			t.Errorf("%s into a directory that is not there: %d, %v", file, out.ExitCode(), err)
		}
	}
}

// withPlan makes a side directory as a restore leaves it.
func (g *getter) withPlan(t *testing.T, p *Plan, pieces map[string][]byte) {
	t.Helper()
	g.spool = t.TempDir()
	identity, _ := json.Marshal(testCluster)
	files := map[string][]byte{"walstream.json": identity}
	if p != nil {
		p.Identity = testCluster
		files[planFile], _ = json.Marshal(p)
	}
	for name, body := range pieces {
		files[name] = body
	}
	for name, body := range files {
		if err := os.WriteFile(filepath.Join(g.spool, name), body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWalGetWithPlan(t *testing.T) {
	g := newGetter(t)
	upTo := func(first, last uint64, need wal.LSN) *Plan {
		return &Plan{Timeline: 1, Need: need, End: need, WAL: []Range{{Timeline: 1, First: seg(1, first), Last: seg(1, last)}}}
	}
	t.Run("required", func(t *testing.T) {
		g.withPlan(t, upTo(5, 6, 0x610000), nil)
		g.expect(t, g.store, seg(1, 5), Trouble, nil) // whole, and there is but a beginning
		g.expect(t, g.store, seg(1, 6), Trouble, nil)
		g.expect(t, g.store, seg(1, 7), Absent, nil)
	})
	t.Run("beginning", func(t *testing.T) {
		g.withPlan(t, upTo(4, 5, 0x550000), nil)
		g.expect(t, g.store, seg(1, 5), Delivered, padded(nth(g.wal, 4), 0x50000))
		g.withPlan(t, upTo(4, 5, 0x550001), nil)
		g.expect(t, g.store, seg(1, 5), Trouble, nil)
	})
	t.Run("hole behind the target", func(t *testing.T) {
		p := upTo(1, 2, 0x2A0000)
		g.withPlan(t, p, nil)
		g.expect(t, g.store, seg(1, 3), Trouble, nil)
		p.HoleBehind = true
		g.withPlan(t, p, nil)
		g.expect(t, g.store, seg(1, 3), Absent, nil)
		p.WAL[0].Last, p.Need = seg(1, 1), 0x1A0000
		g.withPlan(t, p, nil)
		g.expect(t, g.store, seg(1, 3), Absent, nil)
		unreachable := faulty{Store: g.store, get: func(name string) error {
			if strings.Contains(name, seg(1, 3)) {
				return errors.New("timeout")
			}
			return nil
		}}
		g.expect(t, unreachable, seg(1, 3), Trouble, nil)
	})
	t.Run("history", func(t *testing.T) {
		p := upTo(1, 2, 0x2A0000)
		p.Timeline = 3
		g.withPlan(t, p, nil)
		g.expect(t, g.store, "00000003.history", Trouble, nil)
		g.expect(t, g.store, "00000004.history", Absent, nil)
	})
	t.Run("foreign plan, broken plan, no spool", func(t *testing.T) {
		g.withPlan(t, nil, map[string][]byte{planFile: []byte("{")})
		g.expect(t, g.store, seg(1, 1), Trouble, nil)
		g.withPlan(t, nil, map[string][]byte{planFile: []byte(`{"identity":{"system_identifier":"8","major_version":15,"segment_size":1048576}}`)})
		g.expect(t, g.store, seg(1, 1), Trouble, nil)
		g.withPlan(t, nil, map[string][]byte{"walstream.json": []byte(`{"system_identifier":"8","major_version":15,"segment_size":1048576}`)})
		g.expect(t, g.store, seg(1, 1), Trouble, nil)
		g.withPlan(t, nil, nil) // a spool has none, what a restore left has one
		g.expect(t, g.store, seg(1, 6), Absent, nil)
		side := SideDir(filepath.Join(g.dir, "data"))
		if err := os.Rename(g.spool, side); err != nil {
			t.Fatal(err)
		}
		g.spool = side
		g.expect(t, g.store, seg(1, 6), Trouble, nil)
		g.expect(t, g.store, seg(1, 1), Trouble, nil)
		g.spool = filepath.Join(g.spool, "gone")
		g.expect(t, g.store, seg(1, 6), Trouble, nil)
	})
}

func TestWalGetFromSpool(t *testing.T) {
	g := newGetter(t)
	fifth, sixth := nth(g.wal, 4), nth(g.wal, 5)
	history := []byte("1\t0/600000\treason\n")
	g.withPlan(t, nil, map[string][]byte{
		seg(1, 3): nth(g.wal, 2), seg(1, 5): fifth, seg(1, 6) + ".00030000.tail": sixth[:0x30000], "00000003.history": history,
	})
	g.expect(t, g.store, seg(1, 3), Delivered, nth(g.wal, 2))
	g.expect(t, g.store, seg(1, 5), Delivered, fifth) // whole before the archive's tail
	g.expect(t, g.store, seg(1, 6), Delivered, padded(sixth, 0x30000))
	g.expect(t, g.store, seg(1, 7), Absent, nil)
	g.expect(t, g.store, "00000003.history", Delivered, history)

	// The longer beginning counts; an unfinished file ends with its records.
	g.withPlan(t, nil, map[string][]byte{seg(1, 5) + ".00020000.tail": fifth[:0x20000]})
	g.expect(t, g.store, seg(1, 5), Delivered, padded(fifth, 0x50000))
	g.withPlan(t, nil, map[string][]byte{seg(1, 3): nth(g.wal, 2), seg(1, 4): nth(g.wal, 3), seg(1, 5) + ".partial": padded(fifth, 0x90004)})
	if out, err := g.ask(g.store, seg(1, 5)); out != Delivered {
		t.Fatal(err)
	}
	have, err := os.ReadFile(g.target())
	if err != nil || len(have) != int(testSize) {
		t.Fatalf("%d bytes, %v", len(have), err)
	}
	n := len(bytes.TrimRight(have, "\x00"))
	if n <= 0x50000 || n > 0x90004 || !bytes.Equal(have[:n], fifth[:n]) {
		t.Errorf("%#x bytes of a record chain that ends within %#x", n, 0x90004)
	}

	// The next file, made before the segment is complete, is no later WAL.
	for _, next := range [][]byte{make([]byte, testSize), sixth} {
		g.withPlan(t, nil, map[string][]byte{seg(1, 4): nth(g.wal, 3), seg(1, 5) + ".partial": padded(fifth, 0x90004), seg(1, 6) + ".partial": next})
		if out, err := g.ask(g.store, seg(1, 5)); out != Delivered {
			t.Error(err)
		}
		g.expect(t, g.store, seg(1, 6), Absent, nil)
	}

	// Damage in the spool is trouble, not absence.
	broken := bytes.Clone(fifth)
	broken[100_000] ^= 1
	g.withPlan(t, nil, map[string][]byte{seg(1, 6): broken})
	g.expect(t, g.store, seg(1, 6), Trouble, nil)
}

// A standby that streamed may have more in its pg_wal than the receiver. It
// must not get less than it has replayed.
func TestWalGetAheadOfReceiver(t *testing.T) {
	g := newGetter(t)
	fifth := nth(g.wal, 4) // the archive has 0x50000 bytes of it
	own := filepath.Join(filepath.Dir(g.target()), seg(1, 5))
	for _, spool := range []map[string][]byte{nil, {seg(1, 4): nth(g.wal, 3)}} {
		if spool != nil {
			g.withPlan(t, nil, spool)
		}
		for valid, want := range map[int]Outcome{0x40000: Delivered, 0x90000: Absent, int(testSize): Absent} {
			if err := os.WriteFile(own, padded(fifth, valid), 0o600); err != nil {
				t.Fatal(err)
			}
			g.expect(t, g.store, seg(1, 5), want, padded(fifth, 0x50000))
		}
		broken := bytes.Clone(fifth)
		broken[0x30000] ^= 1
		if err := os.WriteFile(own, broken, 0o600); err != nil {
			t.Fatal(err)
		}
		g.expect(t, g.store, seg(1, 5), Delivered, padded(fifth, 0x50000))
	}
}

// A crash beside is trouble like any other.
func TestBesideCrashes(t *testing.T) {
	if err := beside(func() error { panic("oh") })(); err == nil || !strings.Contains(err.Error(), "crashed: oh") {
		t.Error(err)
	}
}
