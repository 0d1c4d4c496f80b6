package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/rs/zerolog"

	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// Describe reads a piece of WAL, verifies that it is an unbroken chain of
// records of the archive's cluster, and returns the header for it. Offsets in
// data are those in the segment. before is the header of the segment before on
// the way to this one (see [Archive.Before]), nil when it is not known; then
// the running maximum starts anew and a record that began before the piece is
// not checked. WAL that is broken is a [*BrokenError].
func (a *Archive) Describe(p Piece, data io.ReaderAt, before *Header) (*Header, error) {
	return a.startReading(p.ID, before).describe(p, data)
}

// reading is a segment that is read from its start on, in portions.
type reading struct {
	a      *Archive
	before *Header
	scan   *wal.Summarizer
	start  wal.LSN
	at     int64 // up to where it was read
}

func (a *Archive) startReading(id segment.ID, before *Header) *reading {
	cfg := a.scanBehind(id, before)
	return &reading{a: a, before: before, scan: wal.NewSummarizer(cfg), start: cfg.Start}
}

// scanBehind is what to scan a segment with that follows the one with the header
// before, nil if that is not known.
func (a *Archive) scanBehind(id segment.ID, before *Header) wal.ScanConfig {
	cfg := a.identity.ScanConfig(id)
	if before != nil {
		cfg.Carry, cfg.Prev = before.Carry, before.LastRecord
	}
	return cfg
}

// describe reads on to the end of p, which must not lie before that of the
// last call. Its header tells of all that was read, but its digest is of p.
// After an error the reading cannot go on.
func (r *reading) describe(p Piece, data io.ReaderAt) (*Header, error) {
	name, sum, crc := r.a.name(p), sha256.New(), crc32.New(castagnoli())
	from := min(r.at, p.From)
	n, err := io.Copy(io.MultiWriter(
		&skipWriter{w: r.scan, skip: r.at - from}, &skipWriter{w: io.MultiWriter(sum, crc), skip: p.From - from},
	), io.NewSectionReader(data, from, p.To-from))
	summary, carry, serr := r.scan.Finish()
	if b := r.before; serr == nil && summary.UnknownCarry && b != nil && b.Carry == nil && b.Records > 0 {
		serr = &wal.EndError{LSN: r.start, Reason: "the segment continues a record, but the one before ends between two"}
	}
	var end *wal.EndError
	switch {
	case errors.As(serr, &end):
		return nil, &BrokenError{Object: name, LSN: end.LSN, Err: serr}
	case err == nil && n != p.To-from:
		err = fmt.Errorf("%d bytes instead of %d: %w", n, p.To-from, io.ErrUnexpectedEOF)
	case err == nil:
		err = serr
	}
	if err != nil {
		return nil, fmt.Errorf("describe %s: %w", name, err)
	}
	r.at = p.To
	h := &Header{
		Identity: r.a.identity.Identity, Timeline: p.ID.Timeline, StartLSN: r.start,
		From: p.From, To: p.To, SHA256: hex.EncodeToString(sum.Sum(nil)), CRC32C: new(crc.Sum32()), Summary: summary,
	}
	if p.To == int64(r.a.identity.SegmentSize) {
		h.Carry = carry
	}
	h.follow(r.before)
	return h, nil
}

// maxChanges bounds what a header tells of each kind of change before it.
const maxChanges = 64

// follow sets what a header tells of the way before it.
func (h *Header) follow(before *Header) {
	h.RunningMax, h.RunningMaxSince = h.MaxTime, h.StartLSN
	if before == nil {
		return
	}
	h.RunningMaxSince = before.RunningMaxSince
	h.Earlier = before.Earlier.Newest(before.Changes, maxChanges)
	if before.RunningMax.After(h.RunningMax) {
		h.RunningMax = before.RunningMax
	}
}

// Before reads the header of the segment that precedes id on the way to its
// timeline; nil when the archive does not hold it. The history of id's
// timeline must be in the archive.
func (a *Archive) Before(ctx context.Context, id segment.ID) (*Header, error) {
	if id.No == 0 {
		return nil, nil
	}
	history, _, err := a.History(ctx, id.Timeline)
	if err != nil {
		return nil, err
	}
	size := a.identity.SegmentSize
	h, err := a.Header(ctx, Piece{ID: history.SegmentAt(id.Start(size)-1, size), To: int64(size)})
	if errors.Is(err, ErrNotExist) {
		return nil, nil
	}
	return h, err
}

// soundBefore is [Archive.Before] for who is to store id. What is damaged there is
// no reason not to store what is whole here.
func (a *Archive) soundBefore(ctx context.Context, id segment.ID, log zerolog.Logger) (*Header, error) {
	h, err := a.Before(ctx, id)
	if errors.As(err, new(*CorruptError)) {
		log.Error().Err(err).Msg("the segment before is damaged in the archive; its successor is stored without a carry")
		return nil, nil
	}
	return h, err
}

// PutSegment stores a piece of WAL under its header, which [Archive.Describe]
// made of the same data. It returns nil once the object is durable, also when
// it was there already with the same plain bytes. Other bytes under this name
// are a [*ConflictError] and stay untouched. Level zero is the fastest.
func (a *Archive) PutSegment(ctx context.Context, p Piece, h *Header, data io.ReaderAt, level zstd.EncoderLevel) error {
	name := a.name(p)
	if err := a.check(p, h); err != nil {
		return err
	}
	object, err := a.encoders.newEncoder(level, h, io.NewSectionReader(data, p.From, p.To-p.From))
	if err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	defer a.encoders.put(level, object.enc)
	body, err := a.sealSegment(object)
	if err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	err = a.store.Put(ctx, name, body)
	if !errors.Is(err, ErrExists) {
		return err
	}
	have, err := a.Header(ctx, p)
	if err != nil {
		return err
	}
	if have.SHA256 != h.SHA256 {
		return &ConflictError{Object: name, Have: have.SHA256, Want: h.SHA256}
	}
	return a.store.Confirm(ctx, name)
}

// dropTails removes the tail objects of p's segment that p makes needless:
// those with no byte that p has not, except p itself. One whose bytes are not
// those of data is kept and reported as a [*ConflictError]. What could not be
// removed only takes room.
func (a *Archive) dropTails(ctx context.Context, p Piece, data io.ReaderAt) error {
	tails, err := a.Tails(ctx, p.ID)
	for _, t := range tails {
		if t.From < p.From || t.To > p.To || p.Tail && t.From == p.From && t.To == p.To {
			continue
		}
		sum := sha256.New()
		_, rerr := io.Copy(sum, io.NewSectionReader(data, t.From, t.To-t.From))
		if rerr == nil {
			rerr = a.dropTail(ctx, t, sum)
		}
		err = errors.Join(err, rerr)
	}
	return err
}

// dropOrphans removes the tail objects of a segment that is stored whole. Those
// with other bytes are kept and reported as [*ConflictError].
func (a *Archive) dropOrphans(ctx context.Context, id segment.ID) error {
	tails, err := a.Tails(ctx, id)
	if err != nil {
		return err
	}
	sums, all := make([]*spanSum, len(tails)), make([]io.Writer, len(tails))
	for i, t := range tails {
		sums[i] = &spanSum{from: t.From, to: t.To, sum: sha256.New()}
		all[i] = sums[i]
	}
	if _, err := a.Fetch(ctx, id, io.MultiWriter(all...)); err != nil {
		return err
	}
	for i, t := range tails {
		err = errors.Join(err, a.dropTail(ctx, t, sums[i].sum))
	}
	return err
}

// spanSum is the digest of the bytes [from, to) of what is written to it.
type spanSum struct {
	from, to, at int64
	sum          hash.Hash
}

func (s *spanSum) Write(p []byte) (int, error) {
	n := int64(len(p))
	if from, to := max(s.from-s.at, 0), min(s.to-s.at, n); from < to {
		s.sum.Write(p[from:to])
	}
	s.at += n
	return int(n), nil
}

// dropTail removes a tail object if its bytes have that digest.
func (a *Archive) dropTail(ctx context.Context, p Piece, sum hash.Hash) error {
	h, err := a.Header(ctx, p)
	if err != nil {
		return err
	}
	if have := hex.EncodeToString(sum.Sum(nil)); have != h.SHA256 {
		return &ConflictError{Object: a.name(p), Have: h.SHA256, Want: have}
	}
	return a.store.Delete(ctx, a.name(p))
}
