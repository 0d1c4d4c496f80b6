package backup

import (
	"bytes"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/testkit/memstore"
)

func newParts(t testing.TB, store archive.Store) *partWriter {
	t.Helper()
	a, err := archive.Pin(t.Context(), store, testIdentity)
	if err != nil {
		t.Fatal(err)
	}
	w, err := newPartWriter(t.Context(), a, "20261122T010003Z", zstd.SpeedFastest)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestPartsAreIndependent(t *testing.T) {
	store := memstore.New()
	w := newParts(t, store)
	bodies := [][]byte{bytes.Repeat([]byte("base"), 100000), {}, make([]byte, 3<<20)}
	_, _ = rand.Read(bodies[2]) // cannot be compressed
	for i, body := range bodies {
		w.begin(uint32(i), i == 2)
		for chunk := range slices.Chunk(body, 32<<10) {
			if _, err := w.Write(chunk); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.end(); err != nil {
			t.Fatal(err)
		}
	}
	parts, err := w.finish(nil)
	if err != nil || len(parts) != len(bodies) {
		t.Fatalf("%d parts, %v", len(parts), err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderMaxWindow(window))
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	for i, p := range parts {
		stored, err := archive.ReadAll(t.Context(), store, PartName("20261122T010003Z", i+1), -1)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := dec.DecodeAll(stored, nil)
		if want := append(bodies[i], make([]byte, 1024)...); err != nil || !bytes.Equal(plain, want) {
			t.Errorf("part %d: %d bytes, want %d; %v", i+1, len(plain), len(want), err)
		}
		if p.SHA256 != sha256Hex(stored) || p.StoredSize != int64(len(stored)) || p.PlainBytes != int64(len(plain)) {
			t.Errorf("part %d is %+v, %d bytes stored", i+1, p, len(stored))
		}
		if p.Tablespace != uint32(i) || p.Control != (i == 2) {
			t.Errorf("part %d is %+v", i+1, p)
		}
	}
}

// A part that is given up is not stored, not even its beginning.
func TestPartsAbort(t *testing.T) {
	store := memstore.New()
	w := newParts(t, store)
	w.begin(0, false)
	if _, err := w.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := w.abort(); err != nil {
		t.Errorf("abort: %v", err)
	}
	if names := objects(t, store, archive.BackupPrefix); len(names) > 0 {
		t.Errorf("stored %s", names)
	}
}

// The store's error stops the writer, whatever the writer does.
func TestPartsStoreFails(t *testing.T) {
	mem := memstore.New()
	if _, err := archive.Pin(t.Context(), mem, testIdentity); err != nil {
		t.Fatal(err)
	}
	w := newParts(t, &brokenStore{Store: mem})
	w.begin(0, false)
	noise := make([]byte, 1<<20)
	_, _ = rand.Read(noise)
	var err error
	for i := 0; i < 100 && err == nil; i++ {
		_, err = w.Write(noise)
	}
	if !errors.Is(err, errStore) {
		t.Errorf("write: %v", err)
	}
	if err := w.abort(); !errors.Is(err, errStore) {
		t.Errorf("abort: %v", err)
	}
}

func TestParseChunk(t *testing.T) {
	s := &stream{tablespaces: []Tablespace{{OID: 16385}}}
	for in, want := range map[string]chunk{
		"nbase.tar\x00\x00":                 {kind: chunkArchive},
		"n16385.tar\x00/space\x00":          {kind: chunkArchive, tablespace: 16385},
		"dabc":                              {kind: chunkData},
		"m":                                 {kind: chunkManifest},
		"p\x00\x00\x00\x00\x00\x00\x00\x01": {kind: chunkProgress},
	} {
		got, err := s.parseChunk([]byte(in))
		if err != nil || got.kind != want.kind || got.tablespace != want.tablespace || string(got.data) != in[1:] {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
	for in, want := range map[string]string{
		"": "empty", "x": "unknown message type", "nbase.tar": "without an end",
		"n16386.tar\x00": "no tablespace", "n016385.tar\x00": "no tablespace",
	} {
		if _, err := s.parseChunk([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", in, err, want)
		}
	}
}
