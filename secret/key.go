package secret

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/covehq/cove"
	"github.com/covehq/cove/store"
)

// keySize is that of AES-256.
const keySize = 32

// errNoKey says that there is no key file.
var errNoKey = errors.New("there is no key file")

// keyFile is the file that has the key, raw. It is read each time that it is needed, so
// that one that was put back counts at once.
type keyFile struct{ path string }

func newKeyFile(path string) *keyFile { return &keyFile{path} }

// read returns the key; the error is errNoKey where there is no file.
func (k *keyFile) read() ([]byte, error) {
	info, err := os.Lstat(k.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errNoKey
	case err != nil:
		return nil, k.refused(err)
	case !info.Mode().IsRegular() || info.Size() != keySize:
		return nil, k.refused(fmt.Errorf("it is no file of %d bytes", keySize))
	case info.Mode().Perm()&0o077 != 0:
		return nil, &cove.Error{
			Code: cove.Unavailable, Err: fmt.Errorf("the key file %s can be read by others (mode %04o)", k.path, info.Mode().Perm()),
			Hint: "if nobody has read it: chmod 600 " + k.path,
		}
	}
	key, err := os.ReadFile(k.path)
	if err != nil {
		return nil, k.refused(err)
	}
	if len(key) != keySize {
		return nil, k.refused(fmt.Errorf("it has %d bytes", len(key)))
	}
	return key, nil
}

// forWriting returns the key with which a secret may be sealed beside others, of which other
// returns one; its error is cove.NotFound where there is none. It makes the key where there
// is none and nothing that needs it; it does not begin a second key beside secrets that only
// the first can open.
func (k *keyFile) forWriting(other func() (store.SealedSecret, error)) ([]byte, error) {
	key, err := k.read()
	if err != nil && !errors.Is(err, errNoKey) {
		return nil, err
	}
	sealed, missing := other()
	switch alone := errors.Is(missing, cove.NotFound); {
	case missing != nil && !alone:
		return nil, missing
	case err == nil && alone:
		return key, nil
	case alone:
		return k.make()
	case err != nil:
		return nil, k.lost()
	}
	if _, err := open(key, sealed); err != nil {
		return nil, k.wrong(sealed.Name)
	}
	return key, nil
}

// make writes a new key, and returns the one that is there afterwards: of two processes
// that make one, both get the same.
func (k *keyFile) make() ([]byte, error) {
	file, err := os.CreateTemp(filepath.Dir(k.path), ".key-*") // with mode 0600
	if err != nil {
		return nil, k.refused(err)
	}
	defer os.Remove(file.Name())
	key := make([]byte, keySize)
	rand.Read(key) // never fails
	_, err = file.Write(key)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return nil, k.refused(err)
	}
	// A link, unlike a rename, fails where the name is taken.
	if err := os.Link(file.Name(), k.path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, k.refused(err)
	}
	if err := syncDir(filepath.Dir(k.path)); err != nil {
		return nil, k.refused(err)
	}
	return k.read()
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (k *keyFile) refused(err error) error {
	return &cove.Error{
		Code: cove.Unavailable, Err: fmt.Errorf("the key file %s can't be used: %w", k.path, err),
		Hint: "put the right one back; nothing is lost as long as a copy of it exists",
	}
}

func (k *keyFile) lost() error {
	return &cove.Error{
		Code: cove.Unavailable, Err: fmt.Errorf("the key file %s is missing, without which the secrets can't be read", k.path),
		Hint: "put it back from a backup, or remove all secrets (cove secret rm) and set them again",
	}
}

func (k *keyFile) wrong(name string) error {
	return &cove.Error{
		Code: cove.Unavailable, Err: fmt.Errorf("the key in %s is not the one that %s was sealed with, or its record was changed", k.path, name),
		Hint: "put the right key file back, or remove the secrets that it does not open (cove secret rm) and set them again",
	}
}

// sealed values begin with the number of their form: 1 is AES-256-GCM with a random nonce
// before the ciphertext. One key seals far fewer than the 2^32 values at which such nonces
// become a risk (NIST SP 800-38D, section 8.3).
const sealedForm = 1

// seal encrypts a value. What it is bound to, and whose it is, is bound to the ciphertext as
// well, so that who can write to the database can't send a secret elsewhere.
func seal(key []byte, s cove.Secret, value string) ([]byte, error) {
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	bound, err := binding(s)
	if err != nil {
		return nil, err
	}
	return aead.Seal([]byte{sealedForm}, nil, []byte(value), bound), nil
}

func open(key []byte, s store.SealedSecret) (string, error) {
	if len(s.Sealed) == 0 || s.Sealed[0] != sealedForm {
		return "", errors.New("sealed in an unknown form")
	}
	aead, err := newAEAD(key)
	if err != nil {
		return "", err
	}
	bound, err := binding(s.Secret)
	if err != nil {
		return "", err
	}
	value, err := aead.Open(nil, nil, s.Sealed[1:], bound)
	return string(value), err
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// binding has the owner where there is one: what is everybody's was sealed without before
// there were any.
func binding(s cove.Secret) ([]byte, error) {
	parts := []any{s.Name, s.Hosts, s.In}
	if s.Owner != "" {
		parts = append(parts, s.Owner)
	}
	return json.Marshal(parts)
}
