package wal

import "encoding/binary"

// Of a record's body the scanner keeps only what it will decode, so that a
// carry stays small however long the record is: of the interesting XLOG
// records the first bytes, of commits and aborts everything but the items of
// their lists (subtransactions, dropped relations, dropped statistics, cache
// invalidations), which may go into megabytes and lie before what is needed.

// keptXLOG covers the longest interesting XLOG record with what may stand
// before its main data: a CheckPoint of 88 bytes or a restore point of 72.
const keptXLOG = 128

// keptTablespace covers a CREATE TABLESPACE: its path has up to MAXPGPATH
// (1024) bytes.
const keptTablespace = 1024 + 64

// minFinish is the shortest body of a commit or abort: the head of the main
// data and the time.
const minFinish = 2 + 8

// Operations of rmgrXact (access/xact.h): info bits 0x70.
const (
	opCommit         = 0x00
	opAbort          = 0x20
	opCommitPrepared = 0x30
	opAbortPrepared  = 0x40

	xactHasInfo = 0x80 // XLOG_XACT_HAS_INFO: an xinfo word follows the time
)

// Bits of xinfo (access/xact.h), in the order in which their parts follow.
const (
	xinfoDatabase  = 1 << 0
	xinfoSubxacts  = 1 << 1
	xinfoRelations = 1 << 2
	xinfoStats     = 1 << 8 // 15 and later
	xinfoInvals    = 1 << 3
	xinfoTwoPhase  = 1 << 4
)

// Ids of the fragments that may stand before the main data of a record
// without block references (access/xlogrecord.h).
const (
	fragmentDataShort   = 255
	fragmentDataLong    = 254
	fragmentOrigin      = 253
	fragmentToplevelXID = 252
)

func (r *Record) isFinish() bool {
	if r.RmgrID != rmgrXact {
		return false
	}
	switch r.Info & 0x70 {
	case opCommit, opAbort, opCommitPrepared, opAbortPrepared:
		return true
	}
	return false
}

// mainLen is how much main data the methods of other records decode at least, zero
// for records that none of them does.
func (r *Record) mainLen() int {
	if r.isCreateTablespace() {
		return 4 + 1
	}
	if r.RmgrID != rmgrXLOG {
		return 0
	}
	switch r.Info & 0xF0 {
	case opCheckpointShutdown, opCheckpointOnline, opEndOfRecovery:
		return 16
	case opBackupEnd, opOverwriteContrecord:
		return 8
	case opParameterChange:
		return 24
	case opRestorePoint:
		return 72
	}
	return 0
}

// keeps says whether anything of the body is kept.
func (r *Record) keeps() bool { return r.isFinish() || r.mainLen() > 0 }

// wants is the stretch of the body to be kept next; n is zero when nothing
// more is.
func (r *Record) wants() (offset int64, n int) {
	if r.isFinish() {
		l := parseXact(r).layout
		return l.elided + int64(len(r.kept)), l.short
	}
	most := keptXLOG
	if r.isCreateTablespace() {
		most = keptTablespace
	}
	return int64(len(r.kept)), max(0, most-len(r.kept))
}

// keep takes the piece p of the body, which lies at the given offset in it.
func (r *Record) keep(offset int64, p []byte) {
	for {
		next, n := r.wants()
		if n == 0 || next >= offset+int64(len(p)) {
			return
		}
		piece := p[next-offset:]
		r.kept = append(r.kept, piece[:min(n, len(piece))]...)
	}
}

// complete says whether all that the methods decode was in the body. A record
// with a right CRC that is not complete is of a format unknown here.
func (r *Record) complete() bool {
	if r.isFinish() {
		r.xact = parseXact(r)
		return r.xact.short == 0 && !r.xact.unknown
	}
	return len(r.main()) >= r.mainLen()
}

// main is the main data, as far as kept.
func (r *Record) main() []byte {
	c := cursor{rest: r.kept}
	c.skipFragments()
	return c.rest
}

// xact is what is read of a commit or abort.
type xact struct {
	micros []byte // xact_time
	xid    uint32 // of the prepared transaction
	layout
}

// parseXact follows ParseCommitRecord and ParseAbortRecord (xactdesc.c) over
// the kept part of a body.
func parseXact(r *Record) (x xact) {
	if len(r.kept) < minFinish {
		x.short = minFinish - len(r.kept)
		return x
	}
	c := cursor{rest: r.kept}
	c.skipFragments()
	var xinfo uint32
	if r.Info&xactHasInfo != 0 {
		head := c.take(8 + 4)
		if head != nil {
			x.micros, xinfo = head[:8], binary.LittleEndian.Uint32(head[8:])
		}
	} else {
		x.micros = c.take(8)
	}
	if xinfo&xinfoDatabase != 0 {
		c.take(8)
	}
	if xinfo&xinfoSubxacts != 0 {
		c.list(4)
	}
	if xinfo&xinfoRelations != 0 {
		c.list(12)
	}
	if xinfo&xinfoStats != 0 {
		if r.Major >= 18 {
			c.list(16)
		} else {
			c.list(12)
		}
	}
	if xinfo&xinfoInvals != 0 {
		c.list(16)
	}
	if xinfo&xinfoTwoPhase != 0 {
		x.xid = c.uint32()
	}
	x.layout = c.layout
	return x
}

// Finish decodes a commit or abort, of a prepared transaction too; ok is
// false for any other record.
func (r *Record) Finish() (f Finish, ok bool) {
	if !r.isFinish() {
		return Finish{}, false
	}
	f = Finish{LSN: r.LSN, End: r.End, Time: timestamp(r.xact.micros), XID: r.XID}
	switch r.Info & 0x70 {
	case opAbort:
		f.Abort = true
	case opAbortPrepared:
		f.Abort, f.XID = true, r.xact.xid
	case opCommitPrepared:
		f.XID = r.xact.xid
	}
	return f, true
}

// layout is how a kept body relates to the whole one.
type layout struct {
	elided  int64 // bytes of list items left out so far
	short   int   // bytes that are wanted next; zero when there are none
	unknown bool  // the body does not begin as one without block references
}

// cursor reads a kept body. Where bytes are missing it says how many and reads
// nothing more.
type cursor struct {
	rest []byte
	layout
}

func (c *cursor) take(n int) []byte {
	if c.short > 0 || c.unknown {
		return nil
	}
	if len(c.rest) < n {
		c.short = n - len(c.rest)
		c.rest = nil
		return nil
	}
	b := c.rest[:n]
	c.rest = c.rest[n:]
	return b
}

func (c *cursor) uint32() uint32 {
	if b := c.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// list reads the count of a list whose items were not kept.
func (c *cursor) list(itemSize int64) { c.elided += int64(c.uint32()) * itemSize }

// skipFragments goes to the main data. No record of interest has block
// references.
func (c *cursor) skipFragments() {
	for range 3 { // at most an origin, a top-level xid, then the main data
		id := c.take(2)
		if id == nil {
			return
		}
		switch id[0] {
		case fragmentDataShort:
			return
		case fragmentDataLong:
			c.take(3)
			return
		case fragmentOrigin:
			c.take(1)
		case fragmentToplevelXID:
			c.take(3)
		default:
			c.unknown, c.rest = true, nil
			return
		}
	}
	c.unknown, c.rest = true, nil
}
