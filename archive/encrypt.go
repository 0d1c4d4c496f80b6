package archive

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"filippo.io/age"
	"filippo.io/age/agessh"

	"github.com/walstream/walstream/internal/hint"
)

// Keys are what an encrypted archive is written and read with. One that is not
// encrypted needs none.
type Keys struct {
	// Recipients are who can read what is stored. They may be others than
	// before: what is stored already stays as it is.
	Recipients []age.Recipient
	// IdentityFile is the path of the secret keys, as age-keygen writes them,
	// or of an SSH key. It is opened when the first object is decrypted;
	// storing, listing and planning by headers go without.
	IdentityFile string
}

// Writable fails with an [*EncryptionError] when there are no recipients to
// encrypt for.
func (a *Archive) Writable() error {
	if a.identity.Encrypted && len(a.keys.Recipients) == 0 {
		return hint.With(&EncryptionError{Archive: a.store.String(), Encrypted: true},
			"set encryption.recipients to the public keys (age1...) of those who may read it; of an identity file it is: age-keygen -y FILE")
	}
	return nil
}

// Readable fails when the archive is encrypted and there is no identity to read
// it with. Whether that is the right one only reading tells.
func (a *Archive) Readable() error {
	if !a.identity.Encrypted {
		return nil
	}
	_, err := a.identities()
	return err
}

// EncryptionError says that an archive is encrypted and recipients are missing,
// or the other way round. What an archive is was decided at first use.
type EncryptionError struct {
	Archive   string
	Encrypted bool // the archive
}

func (e *EncryptionError) Error() string {
	if e.Encrypted {
		return fmt.Sprintf("archive %s is encrypted, but there are no encryption.recipients", e.Archive)
	}
	return fmt.Sprintf("archive %s is not encrypted, but there are encryption.recipients", e.Archive)
}

// SealedName is the name that an object with user data has in this archive.
func (a *Archive) SealedName(name string) string {
	if a.identity.Encrypted {
		return name + ageSuffix
	}
	return name
}

// Seal encrypts body for the recipients, if the archive is encrypted.
func (a *Archive) Seal(body io.Reader) (io.Reader, error) {
	if err := a.Writable(); err != nil || !a.identity.Encrypted {
		return body, err
	}
	return age.EncryptReader(body, a.keys.Recipients...)
}

// Unseal reverses [Archive.Seal] for the object name. Where it fails for the
// object's sake that is a [*CorruptError].
func (a *Archive) Unseal(name string, body io.Reader) (io.Reader, error) {
	if !a.identity.Encrypted {
		return body, nil
	}
	identities, err := a.identities()
	if err != nil {
		return nil, fmt.Errorf("decrypt %s: %w", name, err)
	}
	u := &unsealer{name: name, file: a.keys.IdentityFile}
	u.plain, err = age.Decrypt(&readError{r: body, err: &u.unknown}, identities...)
	return u, u.cause(err)
}

// unsealer gives the plain bytes, and tells damage from other failures.
type unsealer struct {
	name    string
	file    string // with the identities
	plain   io.Reader
	unknown error // why the encrypted bytes could not be read
}

func (u *unsealer) Read(p []byte) (int, error) {
	n, err := u.plain.Read(p)
	return n, u.cause(err)
}

func (u *unsealer) cause(err error) error {
	switch {
	case !broken(err):
		return err
	case u.unknown != nil:
		return u.unknown
	case errors.As(err, new(*age.NoIdentityMatchError)):
		return hint.Errorf("give the file with the identity of that time, or add it to this one, a line each: --identity FILE",
			"decrypt %s: it was encrypted for others than the identities in %s, or its beginning is damaged", u.name, u.file)
	}
	return &CorruptError{Object: u.name, What: "age stream", Have: err.Error(), Want: "what was stored"}
}

// readError keeps the error that ends r, unless it is the end of r.
type readError struct {
	r   io.Reader
	err *error
}

func (r *readError) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if broken(err) {
		*r.err = err
	}
	return n, err
}

// identities reads the identity file, once.
func (a *Archive) identities() ([]age.Identity, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.secret != nil {
		return a.secret, nil
	}
	file := a.keys.IdentityFile
	if file == "" {
		return nil, hint.Errorf("give the secret key to a recipient: --identity FILE", "the archive is encrypted, and there is no identity to read it with")
	}
	body, err := os.ReadFile(file)
	switch {
	case err != nil:
	case bytes.HasPrefix(body, []byte("-----BEGIN")):
		var id age.Identity
		id, err = agessh.ParseIdentity(body)
		a.secret = []age.Identity{id}
	default:
		a.secret, err = age.ParseIdentities(bytes.NewReader(body))
	}
	if err != nil {
		a.secret = nil
		return nil, hint.With(fmt.Errorf("identity file %s: %w", file, err), "it holds lines AGE-SECRET-KEY-1..., as of age-keygen, or an SSH key without passphrase: --identity FILE")
	}
	return a.secret, nil
}

// sealSegment is the object of a segment: in an encrypted archive its header in
// clear, and then all of it, header included, encrypted.
func (a *Archive) sealSegment(object *encoder) (io.Reader, error) {
	header := bytes.NewReader(bytes.Clone(object.out.Bytes())) // all there is yet
	sealed, err := a.Seal(object)
	if err != nil || !a.identity.Encrypted {
		return sealed, err
	}
	return io.MultiReader(header, sealed), nil
}

// unsealSegment gives the object inside an encrypted one, of which the header
// was read. The two headers have to be the same: only that inside is
// authenticated.
func (a *Archive) unsealSegment(o *object) (*object, error) {
	if !a.identity.Encrypted {
		return o, nil
	}
	r, err := a.Unseal(o.name, o.r)
	if err != nil {
		return nil, err
	}
	inside := &object{name: o.name, r: bufio.NewReaderSize(r, chunk)}
	if _, err := inside.header(); err != nil {
		return nil, err
	}
	if !bytes.Equal(inside.frame, o.frame) {
		return nil, o.corrupt("header", "another one", "the one that is encrypted with the WAL")
	}
	return inside, nil
}
