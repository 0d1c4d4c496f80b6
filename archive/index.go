package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// IndexSpan is how many segments an index object covers: a block begins at a
// number that it divides.
const IndexSpan = 1000

const noIndex = "cannot index the archive; plans read the headers themselves"

// indexName is the object that covers the block of id.
func indexName(id segment.ID, size segment.Size) string {
	first, last := block(id)
	return fmt.Sprintf("%s%s/%s-%s%s", indexPrefix, id.Timeline.Hex(), first.Name(size), last.Name(size), zstSuffix)
}

// block is the first and the last segment of those that are indexed with id.
func block(id segment.ID) (first, last segment.ID) {
	no := id.No - id.No%IndexSpan
	return segment.ID{Timeline: id.Timeline, No: no}, segment.ID{Timeline: id.Timeline, No: no + IndexSpan - 1}
}

// Indexed lists the blocks for which there is an index, by their first segment.
func (a *Archive) Indexed(ctx context.Context) (map[segment.ID]bool, error) {
	found := map[segment.ID]bool{}
	for info, err := range a.store.List(ctx, indexPrefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list indexes: %w", err)
		}
		_, name, _ := strings.Cut(strings.TrimPrefix(info.Name, indexPrefix), "/")
		name, _, _ = strings.Cut(name, "-")
		if id, err := segment.ParseName(name, a.identity.SegmentSize); err == nil && indexName(id, a.identity.SegmentSize) == info.Name {
			found[id] = true
		}
	}
	return found, nil
}

// IndexHeader reads what an index says of all segments in the block of id taken
// together. An error says nothing about the segments.
func (a *Archive) IndexHeader(ctx context.Context, id segment.ID) (*Header, error) {
	name := indexName(id, a.identity.SegmentSize)
	h, err := a.header(ctx, name)
	if err != nil {
		return nil, err
	}
	first, _ := block(id)
	if h.StartLSN != first.Start(a.identity.SegmentSize) || h.Timeline != first.Timeline {
		return nil, &CorruptError{Object: name, What: "header", Have: fmt.Sprintf("of %s on timeline %s", h.StartLSN, h.Timeline), Want: "of this name"}
	}
	return h, h.Match(name, a.identity.Identity)
}

// Index reads the headers of all segments in the block of id, in order, with
// one request. They are what [Archive.Header] would give if the segments are
// there, which only a listing tells. An error says nothing about the segments.
func (a *Archive) Index(ctx context.Context, id segment.ID) ([]*Header, error) {
	name := indexName(id, a.identity.SegmentSize)
	r, err := a.store.Get(ctx, name, 0, -1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	o := newObject(name, r)
	sum, err := o.header()
	if err != nil {
		return nil, err
	}
	var lines bytes.Buffer
	if err := a.decoders.decode(o, sum, &lines); err != nil {
		return nil, err
	}
	headers := make([]*Header, IndexSpan)
	dec := json.NewDecoder(&lines)
	next, _ := block(id)
	for i := range headers {
		if err := dec.Decode(&headers[i]); err != nil {
			return nil, o.corrupt("contents", err.Error(), "a header")
		}
		if err := a.check(Piece{ID: next, To: int64(a.identity.SegmentSize)}, headers[i]); err != nil {
			return nil, err
		}
		next = next.Next()
	}
	return headers, nil
}

// PutIndex rolls up the headers of a block, in order. There may be an index
// already.
func (a *Archive) PutIndex(ctx context.Context, headers []*Header) error {
	last := headers[len(headers)-1]
	sum := &Header{Identity: a.identity.Identity, Timeline: last.Timeline, StartLSN: headers[0].StartLSN, RunningMax: last.RunningMax, RunningMaxSince: last.RunningMaxSince}
	var lines bytes.Buffer
	enc := json.NewEncoder(&lines)
	for _, h := range headers {
		sum.Add(&h.Summary)
		if err := enc.Encode(h); err != nil {
			return err
		}
	}
	sum.To, sum.SHA256 = int64(lines.Len()), fmt.Sprintf("%x", sha256.Sum256(lines.Bytes()))
	name := indexName(segment.At(last.Timeline, last.StartLSN, a.identity.SegmentSize), a.identity.SegmentSize)
	body, err := a.encoders.newEncoder(0, sum, &lines)
	if err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	defer a.encoders.put(0, body.enc)
	if err := a.store.Put(ctx, name, body); !errors.Is(err, ErrExists) {
		return err
	}
	return nil
}

// roller gathers headers as their segments are stored, by timeline.
type roller map[wal.Timeline]roll

// roll is a block to be rolled up, and what is known of it.
type roll struct {
	first segment.ID
	known []*Header
}

// add takes the next header. When that begins another block it returns the
// block before, of which a process that was killed may have stored a part.
func (r roller) add(id segment.ID, h *Header) (done roll, ok bool) {
	first, _ := block(id)
	now := r[id.Timeline]
	if now.first != first {
		done, ok = roll{first: segment.ID{Timeline: id.Timeline, No: first.No - IndexSpan}}, first.No > 0
		if now.first == done.first {
			done = now
		}
		now = roll{first: first}
	}
	now.known = append(now.known, h)
	r[id.Timeline] = now
	return done, ok
}

// rollUp indexes a block if that is not done yet. It reads the headers that are
// not known. Where a segment is missing there will be no index.
func (a *Archive) rollUp(ctx context.Context, r roll) error {
	size := a.identity.SegmentSize
	_, err := a.store.Stat(ctx, indexName(r.first, size))
	if !errors.Is(err, ErrNotExist) {
		return err
	}
	headers := make([]*Header, IndexSpan)
	for _, h := range r.known {
		headers[segment.At(h.Timeline, h.StartLSN, size).No-r.first.No] = h
	}
	for i, next := 0, r.first; i < IndexSpan; i, next = i+1, next.Next() {
		if headers[i] != nil {
			continue
		}
		headers[i], err = a.Header(ctx, Piece{ID: next, To: int64(size)})
		if errors.Is(err, ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return a.PutIndex(ctx, headers)
}
