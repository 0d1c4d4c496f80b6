package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgproto3"
)

// chunkKind says what a [chunk] is; the values are those of the protocol.
type chunkKind byte

const (
	chunkEnd      chunkKind = 0
	chunkArchive  chunkKind = 'n' // a tar stream begins
	chunkData     chunkKind = 'd' // of the tar stream or the manifest
	chunkManifest chunkKind = 'm' // the manifest begins
	chunkProgress chunkKind = 'p'
)

type chunk struct {
	kind       chunkKind
	tablespace uint32 // of the tar stream that begins, 0 is the data directory
	data       []byte // valid until the next call
}

// singleStream says whether a server of that major version can send all tar
// streams and the manifest as one copy, cut into typed pieces. Before
// PostgreSQL 15 each is a copy of its own, without a type or name.
func singleStream(major int) bool { return major >= 15 }

// next returns the next piece of the stream, chunkEnd behind the last.
func (s *stream) next(ctx context.Context) (chunk, error) {
	if !singleStream(s.major) {
		return s.nextCopy(ctx)
	}
	for {
		msg, err := s.receive(ctx)
		if err != nil {
			return chunk{}, err
		}
		switch msg := msg.(type) {
		case *pgproto3.CopyDone:
			return chunk{kind: chunkEnd}, nil
		case *pgproto3.CopyData:
			c, err := s.parseChunk(msg.Data)
			if err != nil || c.kind != chunkProgress { // our own count is finer
				return c, err
			}
		default:
			return chunk{}, unexpected(msg)
		}
	}
}

// nextCopy reads the format before PostgreSQL 15: a copy for each tar stream,
// in the order in which the tablespaces were announced, and one for the
// manifest.
func (s *stream) nextCopy(ctx context.Context) (chunk, error) {
	if !s.copying {
		if err := s.beginCopy(ctx); err != nil {
			return chunk{}, err
		}
		s.copies, s.copying = s.copies+1, true
		if s.copies > len(s.archives) {
			return chunk{kind: chunkManifest}, nil
		}
		return chunk{kind: chunkArchive, tablespace: s.archives[s.copies-1]}, nil
	}
	msg, err := s.receive(ctx)
	if err != nil {
		return chunk{}, err
	}
	switch msg := msg.(type) {
	case *pgproto3.CopyData:
		return chunk{kind: chunkData, data: msg.Data}, nil
	case *pgproto3.CopyDone:
		s.copying = false
		if s.copies > len(s.archives) {
			return chunk{kind: chunkEnd}, nil
		}
		return s.nextCopy(ctx)
	}
	return chunk{}, unexpected(msg)
}

func (s *stream) parseChunk(data []byte) (chunk, error) {
	if len(data) == 0 {
		return chunk{}, errors.New("an empty message in the stream")
	}
	c := chunk{kind: chunkKind(data[0]), data: data[1:]}
	switch c.kind {
	case chunkArchive:
		name, _, ok := bytes.Cut(c.data, []byte{0})
		if !ok {
			return chunk{}, fmt.Errorf("archive name %q without an end", c.data)
		}
		var err error
		c.tablespace, err = s.archiveTablespace(string(name))
		return c, err
	case chunkData, chunkManifest, chunkProgress:
		return c, nil
	}
	return chunk{}, fmt.Errorf("unknown message type %q in the stream", data[0])
}

func (s *stream) archiveTablespace(name string) (uint32, error) {
	if name == "base.tar" {
		return 0, nil
	}
	for _, ts := range s.tablespaces {
		if name == strconv.FormatUint(uint64(ts.OID), 10)+".tar" {
			return ts.OID, nil
		}
	}
	return 0, fmt.Errorf("archive %q belongs to no tablespace that was announced", name)
}
