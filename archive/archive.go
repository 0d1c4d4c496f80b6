package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"filippo.io/age"

	"github.com/walstream/walstream/internal/crashpoint"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// FormatVersion is the newest version of FORMAT.md that this program reads,
// and the one it writes.
const FormatVersion = 1

// maxSmall bounds what is read of an object that is JSON or text.
const maxSmall = 1 << 20

// ErrNotPinned says that a store holds no archive: nothing there names the
// cluster that it belongs to. A directory whose file system is not mounted
// looks like that, so it is never taken for an empty archive.
var ErrNotPinned = errors.New("no archive there: walstream.json is missing")

// Archive is the archive of one cluster in a store. It keeps no state of the
// store beyond the pinned identity; all methods may be called concurrently.
type Archive struct {
	store    Store
	identity Identity
	keys     Keys
	encoders encoders
	decoders decoders

	mu     sync.Mutex
	secret []age.Identity // nil until one is needed
}

// Open opens an archive for which a cluster was pinned. Where none was it
// fails with [ErrNotPinned]. Of an encrypted one, only what is in clear can be
// read without an identity; recipients for one that is not encrypted are refused
// with an [*EncryptionError].
func (k Keys) Open(ctx context.Context, store Store) (*Archive, error) {
	id, err := readIdentity(ctx, store)
	if errors.Is(err, ErrNotExist) {
		where := "and mounted? " + hint.Mount(store.String())
		if strings.HasPrefix(store.String(), "s3://") {
			where = "bucket and prefix? aws s3 ls " + hint.Quote(store.String()+"/")
		}
		err = hint.With(ErrNotPinned, "is it the right place, %s", where)
	}
	if err != nil {
		return nil, fmt.Errorf("open archive %s: %w", store, err)
	}
	if len(k.Recipients) > 0 && !id.Encrypted {
		return nil, hint.With(&EncryptionError{Archive: store.String()},
			"remove encryption.recipients from the configuration, or begin an encrypted archive: --archive %s", hint.Quote(store.String()+"-encrypted"))
	}
	return &Archive{store: store, identity: id, keys: k}, nil
}

// Pin opens the archive in store for a cluster, and claims it for this
// cluster if it is claimed by none, and the store stands [Probe]; it is encrypted
// then if there are recipients. An archive of another cluster is refused with a
// [*segment.ForeignError].
func (k Keys) Pin(ctx context.Context, store Store, cluster segment.Identity) (*Archive, error) {
	a, err := k.Open(ctx, store)
	if errors.Is(err, ErrNotPinned) {
		_, err = Probe(ctx, store)
		if err == nil {
			err = writeIdentity(ctx, store, Identity{FormatVersion: FormatVersion, Identity: cluster, Encrypted: len(k.Recipients) > 0})
		}
		if err != nil {
			return nil, fmt.Errorf("pin archive %s: %w", store, err)
		}
		crashpoint.Hit(crashpoint.ArchivePinned)
		a, err = k.Open(ctx, store)
	}
	if err != nil {
		return nil, err
	}
	if err := a.identity.Match("archive "+store.String(), cluster); err != nil {
		return nil, hint.With(err, "give each cluster an archive of its own: --archive %s", hint.Quote(fmt.Sprintf("%s-%d", store, cluster.SystemIdentifier)))
	}
	// Another process may have written it and died before it was durable.
	if err := store.Confirm(ctx, identityName); err != nil {
		return nil, fmt.Errorf("pin archive %s: %w", store, err)
	}
	return a, a.Writable()
}

// Open is [Keys.Open] for an archive of which nothing encrypted is read.
func Open(ctx context.Context, store Store) (*Archive, error) { return Keys{}.Open(ctx, store) }

// Again opens the archive anew, over the connections that it has.
func (a *Archive) Again(ctx context.Context) (*Archive, error) { return a.keys.Open(ctx, a.store) }

// Pin is [Keys.Pin] for an archive that is not encrypted.
func Pin(ctx context.Context, store Store, cluster segment.Identity) (*Archive, error) {
	return Keys{}.Pin(ctx, store, cluster)
}

func readIdentity(ctx context.Context, store Store) (Identity, error) {
	body, err := readSmall(ctx, store, identityName)
	if err != nil {
		return Identity{}, err
	}
	var id Identity
	if err := json.Unmarshal(body, &id); err != nil {
		return Identity{}, &CorruptError{Object: identityName, What: "JSON", Have: err.Error(), Want: "an identity"}
	}
	if id.FormatVersion > FormatVersion {
		return Identity{}, hint.Errorf("use the walstream release that wrote this archive, or a newer one",
			"its format version is %d, this program knows versions up to %d", id.FormatVersion, FormatVersion)
	}
	if id.FormatVersion < 1 || !id.SegmentSize.Valid() {
		return Identity{}, &CorruptError{Object: identityName, What: "contents", Have: string(bytes.TrimSpace(body)), Want: "an identity"}
	}
	return id, nil
}

func writeIdentity(ctx context.Context, store Store, id Identity) error {
	body, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	err = store.Put(ctx, identityName, bytes.NewReader(append(body, '\n')))
	if errors.Is(err, ErrExists) {
		return nil // pinned by somebody else this moment; the caller compares
	}
	return err
}

// Identity is what the archive is pinned to.
func (a *Archive) Identity() Identity { return a.identity }

// Store is where the archive lies.
func (a *Archive) Store() Store { return a.store }

// PutHistory stores the history file of a timeline, byte for byte. One that
// says the same may be stored already; another is a [*ConflictError].
func (a *Archive) PutHistory(ctx context.Context, tli wal.Timeline, body []byte) error {
	name := HistoryName(tli)
	h, err := segment.ParseHistory(tli, body)
	if err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	err = a.store.Put(ctx, name, bytes.NewReader(body))
	if !errors.Is(err, ErrExists) {
		return err
	}
	stored, have, err := a.History(ctx, tli)
	if err != nil {
		return err
	}
	if !stored.Equal(h) {
		return &ConflictError{Object: name, Have: fmt.Sprintf("%x", sha256.Sum256(have)), Want: fmt.Sprintf("%x", sha256.Sum256(body))}
	}
	return a.store.Confirm(ctx, name)
}

// History reads and checks the history file of a timeline; body is the file
// as PostgreSQL wrote it. Timeline 1 has none: its history is empty without
// asking the store. [ErrNotExist] is a definite answer.
func (a *Archive) History(ctx context.Context, tli wal.Timeline) (h segment.History, body []byte, err error) {
	if tli == 1 {
		return segment.History{Timeline: 1}, nil, nil
	}
	body, err = readSmall(ctx, a.store, HistoryName(tli))
	if err != nil {
		return segment.History{}, nil, err
	}
	h, err = segment.ParseHistory(tli, body)
	if err != nil {
		return segment.History{}, nil, &CorruptError{Object: HistoryName(tli), What: err.Error()}
	}
	return h, body, nil
}

// readSmall reads an object that is at most maxSmall long.
func readSmall(ctx context.Context, store Store, name string) ([]byte, error) {
	body, err := ReadAll(ctx, store, name, maxSmall+1)
	if len(body) > maxSmall {
		return nil, &CorruptError{Object: name, What: "size", Have: fmt.Sprintf("more than %d bytes", maxSmall), Want: "less"}
	}
	return body, err
}

// ReadAll reads the first n bytes of an object into memory, all of them when n is
// negative.
func ReadAll(ctx context.Context, store Store, name string, n int64) ([]byte, error) {
	r, err := store.Get(ctx, name, 0, n)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	body, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", name, err)
	}
	return body, nil
}

// putJSON stores v under a name that tells what it is: if that is taken, it is
// by the same.
func (a *Archive) putJSON(ctx context.Context, name string, v any) error {
	body, err := EncodeJSON(v)
	if err != nil {
		return err
	}
	err = a.store.Put(ctx, name, bytes.NewReader(body))
	if errors.Is(err, ErrExists) {
		return a.store.Confirm(ctx, name)
	}
	return err
}
