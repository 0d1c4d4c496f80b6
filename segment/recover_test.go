package segment_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/testkit/memfs"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// put makes a file in the spool's directory, durably.
func put(t *testing.T, disk *memfs.FS, name string, body []byte) {
	t.Helper()
	if err := fsx.WriteFile(disk, spoolDir+"/"+name, body, 0o600); err != nil {
		t.Fatal(err)
	}
}

// prepared is a disk with an identity and nothing else.
func prepared(t *testing.T) *bench {
	b := newBench(t)
	b.ok(b.Close())
	b.Spool = nil
	return b
}

func padded(b []byte) []byte { return append(b[:len(b):len(b)], make([]byte, int(testSize)-len(b))...) }

const firstPartial = "000000010000000000000007.partial"

func TestRecoveryFindsTheEndOfValidRecords(t *testing.T) {
	g := newWorld().streams[1]
	good := lastEnd(g, worldBase+200_000)
	for _, c := range []struct {
		name string
		file func() []byte
		want wal.LSN
	}{
		{"all zeros", func() []byte { return make([]byte, testSize) }, worldBase},
		{"empty", func() []byte { return nil }, worldBase},
		{"whole records", func() []byte { return padded(g.At(worldBase, good)) }, good},
		{"short file", func() []byte { return g.At(worldBase, good) }, good},
		{"half a record", func() []byte { return padded(g.At(worldBase, good+100)) }, good},
		{"a torn page", func() []byte {
			b := padded(g.At(worldBase, good+100_000))
			clear(b[(good-worldBase)-600 : good-worldBase-88])
			return b
		}, lastEnd(g, good-600)},
		{"another cluster's", func() []byte {
			b := padded(g.At(worldBase, good))
			b[24] ^= 1
			return b
		}, worldBase},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := prepared(t)
			put(t, b.disk, firstPartial, c.file())
			b.crash()
			b.wantResume(1, c.want)
			b.wantFiles(firstPartial)
			b.send(1, worldBase, worldBase+mb+10) // and it goes on
			b.ok(b.w.checkHeld(b.disk, 1, worldBase+mb+10))
		})
	}
}

// TestRecoveryDistrustsARecordWithoutItsBeginning: the segment before was
// never here, so the first bytes cannot be checked. The server sends them
// again, but for a restore the records behind them are good.
func TestRecoveryDistrustsARecordWithoutItsBeginning(t *testing.T) {
	b := prepared(t)
	start, end := worldBase+2*mb, lastEnd(b.w.streams[1], worldBase+3*mb-5000)
	put(t, b.disk, "000000010000000000000009.partial", padded(b.w.streams[1].At(start, end)))
	b.crash()
	b.wantResume(1, start)
	v, err := segment.ReadSpool(b.disk, spoolDir)
	b.ok(err)
	p, err := v.Valid(v.Partials[0])
	b.ok(err)
	if got := start + wal.LSN(p.To); got != end {
		t.Errorf("a restore can use it up to %s, want %s", got, end)
	}
	// So it is for the archive, when the receiver stops before it came again.
	for _, again := range []wal.LSN{start, start + 5000} {
		if again > start {
			b.send(1, start, again)
		}
		open, ok := b.OpenSegment()
		if !ok || open.To != p.To {
			t.Fatalf("%d bytes to be archived, want %d", open.To, p.To)
		}
		if body, err := read(open); err != nil || differ(body, b.w.streams[1].At(start, end)) != len(body) {
			t.Errorf("other bytes than were received: %v", err)
		}
	}
	b.send(1, start+5000, end+50)
	if open, _ := b.OpenSegment(); open.To != p.To+50 {
		t.Errorf("%d bytes to be archived, but %d came", open.To, p.To+50)
	}
}

// TestUnsureWALBehindAForkIsKept: the server that would send it again is lost,
// and the one that took over never had it, neither the segment at all nor all
// of it. Acknowledged commits may be in it.
func TestUnsureWALBehindAForkIsKept(t *testing.T) {
	one := newWorld().streams[1]
	start, end := worldBase+2*mb, lastEnd(one, worldBase+3*mb-5000)
	within := lastEnd(one, worldBase+3*mb-mb/4)
	for name, fork := range map[string]wal.LSN{"before": start - 5000, "at its start": start, "within": within} {
		t.Run(name, func(t *testing.T) {
			b := prepared(t)
			b.w.fork = fork
			put(t, b.disk, "000000010000000000000009.partial", padded(one.At(start, end)))
			b.crash()
			b.wantResume(1, start)
			if fork > start {
				b.send(1, start, fork) // from the new server
			}
			if held := b.end(1, fork); held != end {
				t.Errorf("held up to %s, want %s", held, end)
			}
			b.wantResume(1, end)
			pieces := b.next()
			if len(pieces) != 1 || pieces[0].To != testSize.Offset(end) || pieces[0].Ahead != fork {
				t.Fatalf("to be archived: %+v", pieces)
			}
			if body, err := read(pieces[0]); err != nil || differ(body, one.At(start, end)) != len(body) {
				t.Errorf("other bytes than were received: %v", err)
			}
			b.crash()
			b.wantResume(1, end)
		})
	}
}

func TestRecoveryAcrossAFork(t *testing.T) {
	b := newBench(t)
	b.send(1, worldBase, b.w.fork)
	b.end(1, b.w.fork)
	b.saveHistory()
	end := lastEnd(b.w.streams[2], b.w.fork+100_000)
	b.send(2, b.w.fork, end)
	b.crash()
	b.wantResume(2, end)
}

func TestRecoveryOfSeveralOpenSegments(t *testing.T) {
	b := prepared(t)
	one, two := b.w.streams[1], b.w.streams[2]
	put(t, b.disk, "00000002.history", fmt.Appendf(nil, history2, b.w.fork))
	for no := range uint64(3) {
		id := segment.ID{Timeline: 1, No: 7 + no}
		put(t, b.disk, id.Name(testSize), one.At(id.Start(testSize), id.End(testSize)))
	}
	put(t, b.disk, "00000001000000000000000A.partial", padded(one.At(worldBase+3*mb, b.w.last[1])))
	put(t, b.disk, "00000002000000000000000A.partial", two.At(worldBase+3*mb, worldBase+4*mb))
	put(t, b.disk, "00000002000000000000000B.partial", padded(two.At(worldBase+4*mb, worldBase+5*mb-8)))
	b.crash()
	tail := fmt.Sprintf("00000001000000000000000A.%08X.tail", testSize.Offset(b.w.last[1]))
	b.ok(b.w.checkHeld(b.disk, 1, b.w.last[1]))
	b.ok(b.w.checkHeld(b.disk, 2, worldBase+5*mb))
	// The first of timeline 2 ends within a record, which is whole together
	// with the second: so that one is complete, and the other one checked.
	b.wantFiles("000000010000000000000007", "000000010000000000000008", "000000010000000000000009", tail,
		"00000002.history", "00000002000000000000000A", "00000002000000000000000B")
}

func TestRecoveryOfAnOpenSegmentThatIsNotTheNewest(t *testing.T) {
	b := prepared(t)
	one, two := b.w.streams[1], b.w.streams[2]
	put(t, b.disk, "00000002.history", fmt.Appendf(nil, history2, b.w.fork))
	put(t, b.disk, "000000010000000000000009", one.At(worldBase+2*mb, worldBase+3*mb))
	put(t, b.disk, "00000001000000000000000A.partial", padded(one.At(worldBase+3*mb, b.w.last[1])))
	put(t, b.disk, "00000002000000000000000A", two.At(worldBase+3*mb, worldBase+4*mb))
	b.crash()
	tail := fmt.Sprintf("00000001000000000000000A.%08X.tail", testSize.Offset(b.w.last[1]))
	b.wantFiles("000000010000000000000009", tail, "00000002.history", "00000002000000000000000A")
	b.wantResume(2, worldBase+4*mb)
	b.send(2, worldBase+4*mb, b.w.last[2])
}

func TestRecoverySealsASegmentThatEndsInASwitch(t *testing.T) {
	b := newBench(t)
	b.send(1, worldBase, b.w.fork)
	b.end(1, b.w.fork)
	b.saveHistory()
	b.send(2, b.w.fork, worldBase+5*mb-8)
	b.crash()
	b.wantResume(2, worldBase+5*mb)
	if _, ok := b.OpenSegment(); ok {
		t.Error("the segment was not sealed")
	}
}

func TestRecoveryPutsAsideWhatItCannotUse(t *testing.T) {
	b := prepared(t)
	whole := b.w.streams[1].At(worldBase, worldBase+mb)
	put(t, b.disk, "000000010000000000000006", []byte("too short"))
	put(t, b.disk, "000000010000000000000007", whole)
	put(t, b.disk, "000000010000000000000007.partial", padded(whole[:70_000]))
	put(t, b.disk, "000000010000000000000008", b.w.streams[1].At(worldBase+mb, worldBase+2*mb))
	put(t, b.disk, "000000010000000000000008.partial", b.w.streams[1].At(worldBase+mb, worldBase+2*mb))
	put(t, b.disk, "000000010000000000000009.00001000.tail", make([]byte, 4095))
	put(t, b.disk, "00000002.history", []byte("1 nonsense"))
	put(t, b.disk, "00000002.history.bad-1", []byte("an earlier one"))
	put(t, b.disk, "000000010000000000000009.partial.tmp", []byte("half a copy"))
	put(t, b.disk, "000000010000000000000009.0000100.tail", []byte("not ours"))
	put(t, b.disk, "00000001000000000000F009", []byte("not of this segment size"))
	put(t, b.disk, "notes.txt", []byte("not ours"))
	b.crash()
	b.wantFiles(
		"000000010000000000000006.bad-1",
		"000000010000000000000007",
		"000000010000000000000007.partial.bad-1",
		"000000010000000000000008",
		"000000010000000000000009.0000100.tail",
		"000000010000000000000009.00001000.tail.bad-1",
		"00000001000000000000F009",
		"00000002.history.bad-1",
		"00000002.history.bad-2",
		"notes.txt")
	b.wantResume(1, worldBase+2*mb)
}

// badSector fails reads of one file behind an offset.
type badSector struct {
	fsx.FS
	path string
	off  int64
}

type badFile struct {
	fsx.File
	off int64
}

var errSector = errors.New("input/output error")

func (b badSector) Open(name string) (fsx.File, error) {
	f, err := b.FS.Open(name)
	if err == nil && name == b.path {
		return badFile{f, b.off}, nil
	}
	return f, err
}

func (f badFile) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.off {
		return 0, errSector
	}
	return f.File.ReadAt(p, off)
}

func TestRecoveryFromABadSector(t *testing.T) {
	b := newBench(t)
	b.send(1, worldBase, worldBase+900_000)
	b.ok(b.Close())
	s, err := open(badSector{b.disk, spoolDir + "/" + firstPartial, 600_000})
	b.ok(err)
	b.Spool = s
	end := lastEnd(b.w.streams[1], worldBase+512<<10)
	b.wantResume(1, end)
	b.wantFiles(firstPartial, firstPartial+".bad-1")
	b.send(1, worldBase, worldBase+mb)
}

func TestIdentityIsPinned(t *testing.T) {
	b := newBench(t)
	b.ok(b.Close())
	for _, change := range []func(*segment.Identity){
		func(i *segment.Identity) { i.SystemIdentifier++ },
		func(i *segment.Identity) { i.MajorVersion++ },
		func(i *segment.Identity) { i.SegmentSize *= 2 },
	} {
		other := identity
		change(&other)
		_, err := segment.OpenSpool(segment.SpoolConfig{Dir: spoolDir, FS: b.disk, Identity: other})
		foreign := want[*segment.ForeignError](t, err)
		if foreign.Have != identity || foreign.Want != other || len(hint.Of(err)) == 0 {
			t.Errorf("%v, hints %q", err, hint.Of(err))
		}
	}
	if _, err := segment.OpenSpool(segment.SpoolConfig{Dir: "/new", FS: b.disk}); err == nil {
		t.Error("a spool without identity was opened")
	}
}

func TestWALWithoutIdentityIsRefused(t *testing.T) {
	b := newBench(t)
	b.send(1, worldBase, worldBase+100)
	b.ok(b.Close())
	b.ok(b.disk.Remove(spoolDir + "/walstream.json"))
	if _, err := open(b.disk); err == nil || len(hint.Of(err)) == 0 {
		t.Errorf("open = %v", err)
	}
	put(t, b.disk, "walstream.json", []byte("{"))
	var syntax *json.SyntaxError
	if _, err := open(b.disk); !errors.As(err, &syntax) && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("open = %v", err)
	}
	put(t, b.disk, "walstream.json", []byte(`{"segment_size":5}`))
	if _, err := open(b.disk); err == nil {
		t.Error("an impossible identity was accepted")
	}
}
