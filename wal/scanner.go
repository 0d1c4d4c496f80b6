package wal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// ScanConfig says where a scan begins and what the WAL must agree with.
type ScanConfig struct {
	// Start is where the first byte fed belongs: the start of a segment or of
	// any other page.
	Start LSN
	// Timeline is the one in the file's name. Pages may be of an ancestor, at
	// the beginning of a timeline's first segment.
	Timeline         Timeline
	SystemIdentifier uint64
	// SegmentSize is wal_segment_size in bytes.
	SegmentSize uint32
	// Major is PostgreSQL's major version; zero takes that of the first page.
	Major int
	// Carry is what [Scanner.Carry] gave at Start, if it is known. Without it
	// a record that continues from before Start is skipped unchecked.
	Carry *Carry
	// Prev is the start of the last record before Start, if that ended there
	// and is known ([Summary.LastRecord] of the stretch before): the first
	// record must follow it. Zero trusts the first record.
	Prev LSN
	// OnRecord is called for each record as soon as its last byte was fed. An
	// error ends the scan. It may be nil.
	OnRecord func(*Record) error
}

// Scanner reads contiguous WAL that is fed to it in portions of any size. It
// allocates nothing per record and is not for concurrent use.
type Scanner struct {
	cfg ScanConfig
	err error // why the scan ended; stays

	pos  LSN // of the next byte to be fed
	end  LSN // see End
	left int // bytes up to the end of this page; zero when a header is next
	tli  Timeline

	page    [longHeader]byte // header being read
	pageHas int

	rec  Record // the one being read
	head [recordHeader]byte
	have uint32 // bytes of rec read so far; zero between records
	crc  uint32 // of those behind the header
	pad  int    // bytes up to the next multiple of 8, behind rec or skip
	prev LSN    // start of the last complete record, zero when unknown

	overwrites bool // the next record has to say that it stands for a torn one,
	dropped    LSN  // which began here, if that is known

	skip         uint32 // bytes left of a record whose beginning is unknown
	unknownCarry bool
	switchEnd    LSN // zeros are due up to here, behind an XLOG_SWITCH
}

// castagnoli is PostgreSQL's CRC-32C (port/pg_crc32c.h).
var castagnoli = crc32.MakeTable(crc32.Castagnoli) //nolint:gochecknoglobals // a table that never changes

// NewScanner makes a scanner. A configuration that makes no sense, or a carry
// that does not fit to it, is reported by the first Feed.
func NewScanner(cfg ScanConfig) *Scanner {
	s := &Scanner{cfg: cfg, pos: cfg.Start, end: cfg.Start}
	s.err = s.resume()
	return s
}

// Feed takes the next bytes; the scanner keeps no reference to them. It
// returns an [*EndError] where they are no valid WAL any more, or the error of
// OnRecord; both stay: every later call returns the same.
func (s *Scanner) Feed(p []byte) error {
	for len(p) > 0 && s.err == nil {
		var n int
		switch {
		case s.pos < s.switchEnd:
			n = s.feedSwitchTail(p)
		case s.left == 0:
			n = s.feedPage(p)
		case s.pad > 0:
			n = s.feedPad(p)
		case s.skip > 0:
			n = s.feedSkip(p)
		case s.have < recordHeader:
			n = s.feedHeader(p)
		default:
			n = s.feedBody(p)
		}
		p = p[n:]
	}
	return s.err
}

// Write implements [io.Writer] by [Scanner.Feed].
func (s *Scanner) Write(p []byte) (int, error) {
	if err := s.Feed(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// End is the end of the last complete, valid record: the place where the next
// one starts, or the page header before it. Zeros behind an XLOG_SWITCH count
// as part of it, as in PostgreSQL, as far as they were fed. Before the first
// record it is the start of the scan.
func (s *Scanner) End() LSN { return s.end }

// UnknownCarry says whether the scan began inside a record that no carry was
// given for, so that this one was skipped.
func (s *Scanner) UnknownCarry() bool { return s.unknownCarry }

// Carry is the state with which another scanner can go on where the bytes fed
// so far end, if that is the end of a page. It is nil when that is between two
// records, and when it is inside a record whose beginning is unknown.
func (s *Scanner) Carry() *Carry {
	if s.err != nil || s.have == 0 {
		return nil
	}
	return &Carry{
		Start: s.rec.LSN,
		Prev:  s.prev,
		Total: binary.LittleEndian.Uint32(s.head[:]),
		Have:  s.have,
		CRC:   s.crc,
		Head:  bytes.Clone(s.head[:min(s.have, recordHeader)]),
		Body:  bytes.Clone(s.rec.kept),
	}
}

func (s *Scanner) advance(n int) {
	s.pos += LSN(n)
	s.left -= n
}

func (s *Scanner) invalid(at LSN, format string, args ...any) {
	s.err = &EndError{LSN: at, Reason: fmt.Sprintf(format, args...)}
}

func (s *Scanner) zeros(at LSN) {
	s.err = &EndError{LSN: at, Zeros: true, Reason: "zeros"}
}

// feedPage collects a page header and, when it is whole, enters the page.
func (s *Scanner) feedPage(p []byte) int {
	want := shortHeader
	addr := s.pos - LSN(s.pageHas)
	if addr%LSN(s.cfg.SegmentSize) == 0 {
		want = longHeader
	}
	n := copy(s.page[s.pageHas:want], p)
	s.pageHas += n
	s.pos += LSN(n)
	if s.pageHas < want {
		return n
	}
	s.pageHas = 0
	s.left = pageSize - want
	s.enterPage(addr, s.page[:want])
	return n
}

func (s *Scanner) enterPage(addr LSN, header []byte) {
	if allZero(header) {
		s.zeros(addr)
		return
	}
	h := parsePage(header)
	if why := h.refuse(&s.cfg, s.rec.Major, addr, s.tli); why != "" {
		s.invalid(addr, "%s", why)
		return
	}
	s.tli = h.tli
	s.rec.Major = majorOf(h.magic)

	missing := s.skip
	if s.have > 0 {
		missing = s.rec.TotalLen - s.have
	}
	continues := h.has(pageContinues)
	switch {
	case h.has(pageOverwrites):
		if continues {
			s.invalid(addr, "page both continues and overwrites a record")
			return
		}
		s.drop()
	case missing > 0 && !continues:
		s.invalid(addr, "page does not continue the record before it")
	case missing > 0 && h.rem != missing:
		s.invalid(addr, "page continues a record by %d bytes, not by the %d that are missing", h.rem, missing)
	case s.have > 0 && addr == s.cfg.Start && !s.keptFits():
		s.invalid(addr, "the carry of the record at %s lacks what was read of it", s.rec.LSN)
	case missing == 0 && continues && addr != s.cfg.Start:
		s.invalid(addr, "page continues a record that is complete")
	case missing == 0 && continues && (h.rem == 0 || h.rem > maxRecord):
		s.invalid(addr, "page continues a record by %d bytes", h.rem)
	case missing == 0 && continues:
		s.skip, s.prev = h.rem, 0
		s.unknownCarry = true
	}
}

// drop forgets the unfinished record: a crash tore it, and what follows was
// written in its place.
func (s *Scanner) drop() {
	s.overwrites, s.dropped = true, 0
	if s.have > 0 {
		s.dropped = s.rec.LSN
	}
	s.have, s.skip = 0, 0
}

func (s *Scanner) feedPad(p []byte) int {
	n := min(s.pad, len(p))
	s.advance(n)
	s.pad -= n
	if s.pad == 0 && s.have > 0 {
		s.finish()
	}
	return n
}

func (s *Scanner) feedSkip(p []byte) int {
	n := min(s.left, len(p), int(s.skip))
	s.advance(n)
	s.skip -= uint32(n)
	if s.skip == 0 {
		s.pad = int(-s.pos & 7)
	}
	return n
}

// feedHeader collects a record header, which may lie across a page border.
func (s *Scanner) feedHeader(p []byte) int {
	if s.have == 0 {
		s.rec.LSN = s.pos
		s.rec.kept = s.rec.kept[:0]
		s.crc = 0
	}
	n := copy(s.head[s.have:], p[:min(s.left, len(p))])
	s.advance(n)
	s.have += uint32(n)
	if s.have < recordHeader && s.left > 0 {
		return n
	}
	if allZero(s.head[:s.have]) {
		s.zeros(s.rec.LSN)
		return n
	}
	s.rec.parseHeader(s.head[:])
	if why := s.refuse(); why != "" {
		s.invalid(s.rec.LSN, "%s", why)
		return n
	}
	if s.have < recordHeader {
		return n
	}
	if s.rec.TotalLen == recordHeader {
		s.complete()
	}
	return n
}

// refuse says why the header read so far cannot be one, or "". Only the
// length is sure to stand before a page border.
func (s *Scanner) refuse() string {
	r := &s.rec
	if r.TotalLen < recordHeader || r.TotalLen > maxRecord {
		return fmt.Sprintf("record has a length of %d bytes", r.TotalLen)
	}
	if s.have < recordHeader {
		return ""
	}
	if r.RmgrID > rmgrLastKnown && (r.RmgrID < rmgrFirstOwned || r.Major == 13 || r.Major == 14) {
		return fmt.Sprintf("record has the resource manager %d", r.RmgrID)
	}
	if r.Prev == 0 && r.LSN%LSN(s.cfg.SegmentSize) == longHeader {
		return "" // pg_resetwal begins a new chain
	}
	if r.Prev >= r.LSN || s.prev != 0 && r.Prev != s.prev {
		return fmt.Sprintf("record follows one at %s, but the one before it is at %s", r.Prev, s.prev)
	}
	return ""
}

func (s *Scanner) feedBody(p []byte) int {
	n := min(s.left, len(p), int(s.rec.TotalLen-s.have))
	s.crc = crc32.Update(s.crc, castagnoli, p[:n])
	if s.rec.keeps() {
		s.rec.keep(int64(s.have-recordHeader), p[:n])
	}
	s.advance(n)
	s.have += uint32(n)
	if s.have == s.rec.TotalLen {
		s.complete()
	}
	return n
}

// complete is called behind the last byte of a record, which still has to be
// padded to a multiple of 8.
func (s *Scanner) complete() {
	s.pad = int(-s.pos & 7)
	if s.pad == 0 {
		s.finish()
	}
}

// finish checks the record as a whole and reports it.
func (s *Scanner) finish() {
	r := &s.rec
	crc := crc32.Update(s.crc, castagnoli, s.head[:20])
	if crc != binary.LittleEndian.Uint32(s.head[20:]) {
		s.invalid(r.LSN, "record has a wrong CRC")
		return
	}
	if r.keeps() && !r.complete() {
		s.invalid(r.LSN, "record of resource manager %d, info %02X, has an unknown form", r.RmgrID, r.Info)
		return
	}
	if s.overwrites {
		if start, ok := r.overwritten(); !ok || s.dropped != 0 && start != s.dropped {
			s.invalid(r.LSN, "record does not declare void the torn one that its page overwrites")
			return
		}
		s.overwrites = false
	}
	r.End = s.pos
	s.prev, s.end, s.have = r.LSN, r.End, 0
	if r.Switch() {
		size := LSN(s.cfg.SegmentSize)
		s.switchEnd = (s.pos + size - 1) &^ (size - 1)
	}
	if s.cfg.OnRecord != nil {
		s.err = s.cfg.OnRecord(r)
	}
}

// feedSwitchTail takes the rest of a segment behind an XLOG_SWITCH, which has
// no page headers.
func (s *Scanner) feedSwitchTail(p []byte) int {
	n := int(min(LSN(len(p)), s.switchEnd-s.pos))
	zeros := n - len(bytes.TrimLeft(p[:n], "\x00"))
	s.pos += LSN(zeros)
	s.end = s.pos
	s.left = 0
	if zeros < n {
		s.invalid(s.pos, "there is something behind an XLOG_SWITCH")
	}
	return zeros
}

func allZero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }
