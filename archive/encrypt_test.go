package archive_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"golang.org/x/crypto/ssh"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/testkit/memstore"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// newKeys makes the keys of one recipient.
func newKeys(t testing.TB) archive.Keys {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return archive.Keys{Recipients: []age.Recipient{id.Recipient()}, IdentityFile: keyFile(t, id.String())}
}

func keyFile(t testing.TB, lines ...string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "identity")
	if err := os.WriteFile(name, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func inClearAndSealed(t *testing.T, test func(*testing.T, archive.Keys)) {
	t.Run("clear", func(t *testing.T) { test(t, archive.Keys{}) })
	t.Run("sealed", func(t *testing.T) { test(t, newKeys(t)) })
}

// wantRefused fails unless what is read is refused, and not as absent.
func wantRefused(t *testing.T, a *archive.Archive, id segment.ID, what string) {
	t.Helper()
	if _, err := a.Fetch(t.Context(), id, io.Discard); err == nil || errors.Is(err, archive.ErrNotExist) {
		t.Errorf("%s: %v", what, err)
	}
}

// Every bit of an encrypted object is covered: by the CRC of the clear header,
// by age, or by the comparison of the two.
func TestFlippedBitsSealed(t *testing.T) {
	a, f, id := storedWith(t, newKeys(t), small(), 0)
	good := f.body
	keysAt := bytes.Index(good, []byte("\n-> X25519 "))
	keysEnd := keysAt + bytes.Index(good[keysAt:], []byte("\n--- "))
	for at := range good {
		f.body = bytes.Clone(good)
		f.body[at] ^= 1 << (at % 8)
		what := fmt.Sprintf("bit %d of byte %d of %d flipped", at%8, at, len(good))
		if keysAt <= at && at < keysEnd || at == 15 { // looks like one for other keys, or of a newer version
			wantRefused(t, a, id, what)
		} else {
			wantCorrupt(t, a, id, what)
		}
	}
	g := newWAL(1, 1, 2)
	g.FillSegments(1)
	a, f, id = storedWith(t, newKeys(t), g, 1)
	good = f.body
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 60 {
		f.body = bytes.Clone(good)
		f.body[rnd.IntN(len(good))] ^= 1 << rnd.IntN(8)
		wantRefused(t, a, id, "a flipped bit")
	}
	// The stream consists of chunks of 64 KiB, each with 16 bytes that prove it.
	const chunk = 64<<10 + 16
	for n := len(good); n > 0; n -= chunk {
		for _, n := range []int{n - 1, n - chunk - 1, n - chunk, n - chunk + 1} {
			f.body = good[:max(0, n)]
			wantCorrupt(t, a, id, fmt.Sprintf("truncation to %d bytes", n))
		}
	}
	start := bytes.Index(good, []byte("\n--- ")) + len("\n--- ") + 43 + 1 + 16 // the MAC in base64, a line break, a nonce
	for at := start; at+2*chunk <= len(good); at += chunk {
		f.body = bytes.Clone(good)
		copy(f.body[at:], good[at+chunk:at+2*chunk])
		copy(f.body[at+chunk:], good[at:at+chunk])
		wantCorrupt(t, a, id, fmt.Sprintf("the chunks at %d and %d swapped", at, at+chunk))
	}
}

// An object is neither that of another name, nor one with the header of another.
func TestSwappedSealed(t *testing.T) {
	keys := newKeys(t)
	g := newWAL(1, 1, 3)
	g.FillSegments(2)
	a, f, first := storedWith(t, keys, g, 0)
	one := f.body
	two := func() []byte {
		next := *g
		next.Config.Start, next.Bytes = g.Config.Start+wal.LSN(testSize), g.Bytes[testSize:]
		_, f, _ := storedWith(t, keys, &next, 0)
		return f.body
	}()
	f.body = two
	wantCorrupt(t, a, first, "the object of the next segment")
	head := func(b []byte) int { return bytes.Index(b, []byte("age-encryption.org/v1\n")) }
	f.body = append(bytes.Clone(one[:head(one)]), two[head(two):]...)
	wantCorrupt(t, a, first, "the next segment behind this one's header")
	f.body = append(bytes.Clone(two[:head(two)]), one[head(one):]...)
	wantCorrupt(t, a, first, "this segment behind the next one's header")
	_, f2, _ := stored(t, g, 0)
	f.body = f2.body
	wantCorrupt(t, a, first, "an object that is not encrypted")
}

// What an archive is was decided at first use.
func TestEncryptionIsPinned(t *testing.T) {
	ctx, keys := t.Context(), newKeys(t)
	plain, sealed := memstore.New(), memstore.New()
	for _, err := range []error{
		pin(ctx, archive.Keys{}, plain), pin(ctx, keys, sealed), pin(ctx, keys, sealed), pin(ctx, newKeys(t), sealed),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	for what, err := range map[string]error{
		"recipients for an archive in clear":       pin(ctx, keys, plain),
		"no recipients for an encrypted archive":   pin(ctx, archive.Keys{}, sealed),
		"only an identity to pin an encrypted one": pin(ctx, archive.Keys{IdentityFile: keys.IdentityFile}, sealed),
	} {
		var wrong *archive.EncryptionError
		if !errors.As(err, &wrong) || len(hint.Of(err)) == 0 {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := keys.Open(ctx, plain); err == nil {
		t.Error("an archive in clear is opened with recipients")
	}
	body := get(t, sealed, "walstream.json")
	var id archive.Identity
	if err := json.Unmarshal(body, &id); err != nil || !id.Encrypted {
		t.Errorf("%s, %v", body, err)
	}
}

func pin(ctx context.Context, keys archive.Keys, store archive.Store) error {
	_, err := keys.Pin(ctx, store, testCluster)
	return err
}

func get(t *testing.T, store archive.Store, name string) []byte {
	t.Helper()
	r, err := store.Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// Whoever stores needs no identity: not to continue, and not to find that the
// same bytes, or others, are there already.
func TestStoreWithoutIdentity(t *testing.T) {
	keys := newKeys(t)
	keys.IdentityFile = ""
	store := memstore.New()
	a, err := keys.Pin(t.Context(), store, testCluster)
	if err != nil {
		t.Fatal(err)
	}
	g, other := newWAL(1, 1, 1), newWAL(1, 1, 2)
	g.FillSegments(2)
	other.FillSegments(1)
	p, data := segmentOf(g, 0)
	putPiece(t, a, p, data, nil)
	h := putPiece(t, a, p, data, nil) // encrypted anew, other bytes
	before, err := a.Before(t.Context(), p.ID.Next())
	if err != nil || before.SHA256 != h.SHA256 {
		t.Fatalf("%+v, %v", before, err)
	}
	p2, data2 := segmentOf(g, 1)
	putPiece(t, a, p2, data2, before)
	_, data = segmentOf(other, 0)
	if h, err = a.Describe(p, bytes.NewReader(data), nil); err != nil {
		t.Fatal(err)
	}
	var conflict *archive.ConflictError
	if err := a.PutSegment(t.Context(), p, h, bytes.NewReader(data), 0); !errors.As(err, &conflict) {
		t.Errorf("other WAL: %v", err)
	}
	if holes, err := a.Missing(t.Context(), 1, 1, 2); err != nil || len(holes) > 0 {
		t.Errorf("missing %v, %v", holes, err)
	}
	for info, err := range store.List(t.Context(), "wal/", "") {
		if err != nil || !strings.HasSuffix(info.Name, ".zst.age") {
			t.Errorf("object %s, %v", info.Name, err)
		}
	}
	if _, err := a.Fetch(t.Context(), p.ID, io.Discard); err == nil || !strings.Contains(strings.Join(hint.Of(err), ""), "--identity FILE") {
		t.Errorf("fetch without an identity: %v, %q", err, hint.Of(err))
	}
}

// The tail of an open segment is sealed as a segment is.
func TestTailSealed(t *testing.T) {
	keys := newKeys(t)
	a, err := keys.Pin(t.Context(), memstore.New(), testCluster)
	if err != nil {
		t.Fatal(err)
	}
	g := newWAL(1, 1, 1)
	g.FillSegments(1)
	for _, to := range []int64{8192, 123_456} {
		p, data := tailOf(g, 0, to)
		putPiece(t, a, p, data, nil)
	}
	p, want := tailOf(g, 0, 123_456)
	f, err := os.Create(filepath.Join(t.TempDir(), "segment"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n, err := a.FetchTail(t.Context(), p.ID, f)
	got := make([]byte, n)
	if _, rerr := f.ReadAt(got, 0); err != nil || rerr != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v, %v", n, err, rerr)
	}
	blind, err := archive.Keys{IdentityFile: newKeys(t).IdentityFile}.Open(t.Context(), a.Store())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := blind.FetchTail(t.Context(), p.ID, f); n != 0 || err == nil || errors.Is(err, archive.ErrNotExist) {
		t.Errorf("with another key: %d bytes, %v", n, err)
	}
}

// New recipients are for new objects; old ones are read with the old identity,
// which may stand in the same file. SSH keys will do.
func TestRotateKeys(t *testing.T) {
	store := memstore.New()
	old, sshKeys := newKeys(t), newSSHKeys(t)
	young := newKeys(t)
	young.Recipients = append(young.Recipients, sshKeys.Recipients...)
	g := newWAL(1, 1, 1)
	g.FillSegments(2)
	var want [2][]byte
	for i, keys := range []archive.Keys{old, young} {
		a, err := keys.Pin(t.Context(), store, testCluster)
		if err != nil {
			t.Fatal(err)
		}
		var p archive.Piece
		p, want[i] = segmentOf(g, i)
		putPiece(t, a, p, want[i], nil)
	}
	line := func(k archive.Keys) string {
		b, err := os.ReadFile(k.IdentityFile)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	for _, tc := range []struct {
		name  string
		file  string
		reads [2]bool
	}{
		{"old", old.IdentityFile, [2]bool{true, false}},
		{"new", young.IdentityFile, [2]bool{false, true}},
		{"both", keyFile(t, "# rotated", line(young), line(old)), [2]bool{true, true}},
		{"ssh", sshKeys.IdentityFile, [2]bool{false, true}},
		{"neither", newKeys(t).IdentityFile, [2]bool{}},
		{"public", keyFile(t, "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"), [2]bool{}},
		{"empty", keyFile(t), [2]bool{}},
		{"missing", filepath.Join(t.TempDir(), "none"), [2]bool{}},
	} {
		a, err := archive.Keys{IdentityFile: tc.file}.Open(t.Context(), store)
		if err != nil {
			t.Fatal(err)
		}
		for i, reads := range tc.reads {
			p, _ := segmentOf(g, i)
			var got bytes.Buffer
			_, err := a.Fetch(t.Context(), p.ID, &got)
			var corrupt *archive.CorruptError
			switch {
			case reads && (err != nil || !bytes.Equal(got.Bytes(), want[i])):
				t.Errorf("%s, segment %d: %v", tc.name, i, err)
			case !reads && (err == nil || got.Len() > 0 || errors.As(err, &corrupt) || len(hint.Of(err)) == 0 || !strings.Contains(err.Error(), tc.file)):
				t.Errorf("%s, segment %d: %v, %q", tc.name, i, err, hint.Of(err))
			}
		}
	}
}

func newSSHKeys(t *testing.T) archive.Keys {
	t.Helper()
	public, secret, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(secret, "")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	r, err := agessh.ParseRecipient(string(ssh.MarshalAuthorizedKey(key)))
	if err != nil {
		t.Fatal(err)
	}
	return archive.Keys{Recipients: []age.Recipient{r}, IdentityFile: keyFile(t, string(pem.EncodeToMemory(block)))}
}

// One request for the first 4 KiB tells the header, encrypted or not.
func TestHeaderIsOneRequest(t *testing.T) { inClearAndSealed(t, testHeaderIsOneRequest) }

func testHeaderIsOneRequest(t *testing.T, keys archive.Keys) {
	g := newWAL(1, 1, 1)
	g.FillSegments(1)
	_, f, id := storedWith(t, keys, g, 0)
	counted := &countGets{Store: f}
	a, err := archive.Keys{}.Open(t.Context(), counted)
	if err != nil {
		t.Fatal(err)
	}
	counted.ranges = nil
	h, err := a.Header(t.Context(), archive.Piece{ID: id, To: int64(testSize)})
	if err != nil || h.Commits == 0 {
		t.Fatalf("%+v, %v", h, err)
	}
	if len(counted.ranges) != 1 || counted.ranges[0] != [2]int64{0, 4096} {
		t.Errorf("ranges %v", counted.ranges)
	}
}

type countGets struct {
	archive.Store
	ranges [][2]int64
}

func (c *countGets) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	c.ranges = append(c.ranges, [2]int64{off, n})
	return c.Store.Get(ctx, name, off, n)
}
