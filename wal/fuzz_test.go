package wal_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/walstream/walstream/internal/testkit/walgen"
	"github.com/walstream/walstream/wal"
)

// FuzzScanner feeds any bytes, with any carry: nothing may panic, and the
// outcome may not depend on how the bytes are cut.
func FuzzScanner(f *testing.F) {
	b := build(15)
	b.Commit(at(7))
	b.Noise(3)
	f.Add(b.Bytes, uint16(100), uint32(0), []byte(nil), []byte(nil))
	f.Add(append(b.Bytes, make([]byte, 40)...), uint16(1), uint32(0), []byte(nil), []byte(nil))
	b = build(18)
	b.Noise(8192 - 64 - 40)
	b.Add(walgen.RmgrXact, 0xB0, 700, walgen.MainData(xactBody{xinfo: 0x13F, subxacts: 6, stats: 2, twophase: 9}.bytes(18)))
	carry := mustCarry(f, b.Config, b.Bytes[:8192])
	f.Add(b.Bytes[8192:], uint16(9), carry.Have, carry.Head, carry.Body)
	b = build(16)
	b.Switch()
	f.Add(b.Bytes[:100], uint16(64), uint32(0), []byte(nil), []byte(nil))

	f.Fuzz(func(t *testing.T, p []byte, portion uint16, have uint32, head, body []byte) {
		cfg := wal.ScanConfig{Start: testStart, Timeline: 1, SystemIdentifier: testSystem, SegmentSize: testSegment}
		if len(head) >= 4 {
			cfg.Start += 8192
			cfg.Carry = &wal.Carry{Start: cfg.Start - 64, Total: le.Uint32(head), Have: have, Head: head, Body: body}
		}
		whole, err := scan(cfg, p)
		if whole.End < cfg.Start || whole.End > cfg.Start+wal.LSN(len(p)) {
			t.Errorf("end %s of %d bytes from %s", whole.End, len(p), cfg.Start)
		}
		cut := wal.NewScanner(cfg)
		cutErr := cut.Feed(nil)
		for rest := p; len(rest) > 0; {
			n := min(len(rest), int(portion)+1)
			cutErr = cut.Feed(rest[:n])
			rest = rest[n:]
		}
		if cut.End() != whole.End || text(cutErr) != text(err) || cut.UnknownCarry() != whole.Unknown {
			t.Errorf("in portions: end %s, error %v; in one: end %s, error %v", cut.End(), cutErr, whole.End, err)
		}
		if diff := cmp.Diff(whole.Carry, cut.Carry()); diff != "" {
			t.Errorf("carries (-whole +portions):\n%s", diff)
		}
		var end *wal.EndError
		if errors.As(err, &end) && end.LSN < whole.End && end.LSN >= cfg.Start {
			t.Errorf("doubt at %s, but valid to %s", end.LSN, whole.End)
		}
	})
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func mustCarry(f *testing.F, cfg wal.ScanConfig, p []byte) *wal.Carry {
	got, err := scan(cfg, p)
	if err != nil || got.Carry == nil {
		f.Fatalf("seed: carry %v, error %v", got.Carry, err)
	}
	return got.Carry
}
