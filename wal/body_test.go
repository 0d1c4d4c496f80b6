package wal_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/walstream/walstream/internal/testkit/walgen"
	"github.com/walstream/walstream/wal"
)

// xactBody makes the main data of a commit or abort with the given parts.
type xactBody struct {
	xinfo                           uint32
	subxacts, rels, stats, messages int
	twophase                        uint32
}

func (x xactBody) bytes(major int) []byte {
	b := le.AppendUint64(nil, 1_000_000) // one second after PostgreSQL's epoch
	b = le.AppendUint32(b, x.xinfo)
	list := func(bit uint32, n, size int) {
		if x.xinfo&bit != 0 {
			b = le.AppendUint32(b, uint32(n))
			for i := range n * size {
				b = append(b, byte(i%251))
			}
		}
	}
	if x.xinfo&1 != 0 {
		b = append(b, 1, 2, 3, 4, 5, 6, 7, 8)
	}
	list(1<<1, x.subxacts, 4)
	list(1<<2, x.rels, 12)
	if major >= 18 {
		list(1<<8, x.stats, 16)
	} else {
		list(1<<8, x.stats, 12)
	}
	list(1<<3, x.messages, 16)
	if x.xinfo&(1<<4) != 0 {
		b = le.AppendUint32(b, x.twophase)
		b = append(b, "a global identifier\x00"...)
	}
	if x.xinfo&(1<<5) != 0 {
		b = append(b, make([]byte, 16)...)
	}
	return b
}

// TestFinishForms decodes commits and aborts with all parts that may stand
// before the xid of a prepared transaction, in records of any length.
func TestFinishForms(t *testing.T) {
	for _, major := range majors {
		all := uint32(0x3F) // all parts but dropped statistics
		if major >= 15 {
			all |= 1 << 8
		}
		for _, x := range []xactBody{
			{},
			{xinfo: 1 << 4, twophase: 4242},
			{xinfo: all, subxacts: 3, rels: 2, stats: 5, messages: 1, twophase: 4242},
			{xinfo: all, subxacts: 70_000, rels: 9_000, stats: 3_000, messages: 20_000, twophase: 4242},
		} {
			for info, want := range map[uint8]wal.Finish{
				0x00: {XID: 700}, 0x20: {XID: 700, Abort: true},
				0x30: {XID: x.twophase}, 0x40: {XID: x.twophase, Abort: true},
			} {
				t.Run(fmt.Sprintf("%d/%02X/%d subxacts/%X", major, info, x.subxacts, x.xinfo), func(t *testing.T) {
					finishForm(t, major, info, x, want)
				})
			}
		}
	}
}

func finishForm(t *testing.T, major int, info uint8, x xactBody, want wal.Finish) {
	body := walgen.MainData(x.bytes(major))
	// A logical decoding origin and a top-level xid may stand before.
	body = append([]byte{253, 1, 0, 252, 9, 9, 9, 9}, body...)
	b := build(major)
	b.FillPage(32) // the record crosses its first page border in the first fields
	w := b.Add(1, info|0x80, 700, body)
	want.LSN, want.End, want.Time = w.LSN, w.End, time.Date(2000, 1, 1, 0, 0, 1, 0, time.UTC)

	// Each page by a scanner of its own, through stored carries.
	var got []wal.Finish
	var carry *wal.Carry
	for at := 0; at < len(b.Bytes); at += 8192 {
		cfg := b.Config
		cfg.Start += wal.LSN(at)
		cfg.Carry = carry
		cfg.OnRecord = func(r *wal.Record) error {
			if f, ok := r.Finish(); ok {
				got = append(got, f)
			}
			return nil
		}
		s := wal.NewScanner(cfg)
		if err := s.Feed(b.Bytes[at:min(len(b.Bytes), at+8192)]); err != nil {
			t.Fatal(err)
		}
		carry = stored(t, s.Carry())
	}
	if diff := cmp.Diff([]wal.Finish{want}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNoFinish(t *testing.T) {
	b := build(15)
	b.Add(walgen.RmgrXact, 0x10, 700, walgen.MainData(make([]byte, 60))) // PREPARE
	b.Add(walgen.RmgrXact, 0x60, 700, walgen.MainData(make([]byte, 60))) // INVALIDATIONS
	b.Noise(100)
	b.Config.OnRecord = func(r *wal.Record) error {
		if f, ok := r.Finish(); ok {
			t.Errorf("%+v of a record with info %02X", f, r.Info)
		}
		return nil
	}
	if err := wal.NewScanner(b.Config).Feed(b.Bytes); err != nil {
		t.Fatal(err)
	}
}

// TestUnknownForms has records with a right CRC whose bodies are not what is
// known of their kind.
func TestUnknownForms(t *testing.T) {
	short := walgen.MainData(make([]byte, 4))
	for name, rec := range map[string]struct {
		rmgr, info uint8
		body       []byte
	}{
		"commit without a time":          {walgen.RmgrXact, 0x00, short},
		"commit that ends in its lists":  {walgen.RmgrXact, 0x80, walgen.MainData(xactBody{xinfo: 1 << 4}.bytes(15)[:14])},
		"commit with a block reference":  {walgen.RmgrXact, 0x00, append([]byte{0, 0, 0, 0}, make([]byte, 200)...)},
		"commit without main data":       {walgen.RmgrXact, 0x00, []byte{253, 0, 0, 253, 0, 0, 253, 0, 0, 253, 0, 0}},
		"empty commit":                   {walgen.RmgrXact, 0x00, nil},
		"restore point without a name":   {walgen.RmgrXLOG, 0x70, walgen.MainData(make([]byte, 8))},
		"checkpoint without a timeline":  {walgen.RmgrXLOG, 0x10, short},
		"end of recovery of a few bytes": {walgen.RmgrXLOG, 0x90, short},
		"empty backup end":               {walgen.RmgrXLOG, 0x50, nil},
	} {
		b := build(15)
		b.Noise(100)
		w := b.Add(rec.rmgr, rec.info, 1, rec.body)
		t.Run(name, func(t *testing.T) {
			wantEnd(t, b.Config, b.Bytes, w.LSN, false, "record of resource manager")
		})
	}
}

// TestCarryStaysSmall carries a record of interest that is far longer than what
// is decoded of it.
func TestCarryStaysSmall(t *testing.T) {
	b := build(15)
	b.Add(walgen.RmgrXLOG, 0x70, 0, walgen.MainData(make([]byte, 20_000)))
	for _, cut := range []int{8192, 16384} {
		stored(t, mustScan(t, b.Config, b.Bytes[:cut]).Carry)
	}
}

// TestCarryOfHalfHeader carries a record of whose header a part is known,
// directly behind one of which the body was kept.
func TestCarryOfHalfHeader(t *testing.T) {
	b := build(15)
	b.FillPage(16 + 24 + 16) // a commit takes 40 bytes
	b.Commit(at(1))
	b.Commit(at(2))
	cfg := b.Config
	cfg.Start += 8192
	cfg.Carry = stored(t, mustScan(t, b.Config, b.Bytes[:8192]).Carry)
	if len(cfg.Carry.Head) != 16 || len(cfg.Carry.Body) != 0 {
		t.Errorf("carry %+v", cfg.Carry)
	}
	if got := mustScan(t, cfg, b.Bytes[8192:]); len(got.Records) != 1 {
		t.Errorf("%+v", got)
	}
}

// TestCarryWithoutBody has carries of a commit from which what was read of the
// body is missing.
func TestCarryWithoutBody(t *testing.T) {
	b := build(15)
	b.FillPage(48) // of which 24 are the header
	b.Add(walgen.RmgrXact, 0x80, 700, walgen.MainData(xactBody{xinfo: 1<<1 | 1<<4, subxacts: 500}.bytes(15)))
	carry := mustScan(t, b.Config, b.Bytes[:8192]).Carry
	if len(carry.Body) != 21 { // without what was read of the first list
		t.Fatalf("the carry has %d bytes of the body", len(carry.Body))
	}
	cfg := b.Config
	cfg.Start += 8192
	for _, n := range []int{0, 5, 20, 200} {
		bad := *carry
		bad.Body = append(carry.Body[:len(carry.Body):len(carry.Body)], make([]byte, 200)...)[:n]
		cfg.Carry = &bad
		wantEnd(t, cfg, b.Bytes[8192:], cfg.Start, false, "the carry of the record at 0/5001FD0 lacks what was read of it")
	}
}
