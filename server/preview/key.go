package preview

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/covehq/cove"
)

// keySize is that of a key, in bytes: as long as what SHA-256 makes of it.
const keySize = 32

// Use is what a token is for. One for a link is not one for a cookie: what a browser keeps
// can't be made a link of.
type Use string

// The uses.
const (
	ForLink   Use = "link"
	ForCookie Use = "cookie"
)

// Key signs tokens. It is the secret of one daemon.
type Key struct{ secret [keySize]byte }

// Grant is what a token lets its holder see.
type Grant struct {
	Use     Use
	Name    Name
	Epoch   uint64    // how often the previews of the port were revoked before
	Expires time.Time // in whole seconds
}

// NewKey returns a key that nobody has.
func NewKey() *Key {
	k := &Key{}
	_, _ = rand.Read(k.secret[:]) // never fails: see crypto/rand
	return k
}

// Sign returns the token of a grant: 256 bits that only the key's holder can make, and
// when they expire.
func (k *Key) Sign(g Grant) string {
	token := binary.BigEndian.AppendUint64(nil, uint64(g.Expires.Unix()))
	return base64.RawURLEncoding.EncodeToString(append(token, k.sum(g)...))
}

// Check reports whether the token is one of the use, name and epoch that g says, at this
// time, and until when it will be.
func (k *Key) Check(g Grant, token string, now time.Time) (expires time.Time, ok bool) {
	var raw [8 + sha256.Size]byte
	if base64.RawURLEncoding.DecodedLen(len(token)) != len(raw) {
		return time.Time{}, false
	}
	if n, err := base64.RawURLEncoding.Strict().Decode(raw[:], []byte(token)); err != nil || n != len(raw) {
		return time.Time{}, false
	}
	g.Expires = time.Unix(int64(binary.BigEndian.Uint64(raw[:])), 0)
	if !hmac.Equal(raw[8:], k.sum(g)) {
		return time.Time{}, false
	}
	return g.Expires, now.Before(g.Expires)
}

func (k *Key) sum(g Grant) []byte {
	mac := hmac.New(sha256.New, k.secret[:])
	fmt.Fprintf(mac, "cove preview\n%s\n%s\n%d\n%d\n%d\n", g.Use, g.Name.ID, g.Name.Port, g.Epoch, g.Expires.Unix())
	return mac.Sum(nil)
}

// OpenKey reads the key in a file, which nobody but its owner may read, and makes it where
// there is none. Of several that make it at once, all get the same.
func OpenKey(path string) (*Key, error) {
	k, err := readKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, cove.Wrap(err, "read key", path)
	}
	if err := writeKey(path, NewKey()); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, cove.Wrap(err, "make key", path)
	}
	k, err = readKey(path)
	return k, cove.Wrap(err, "read key", path)
}

func readKey(path string) (*Key, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 || info.Size() != keySize {
		return nil, cove.Errorf(cove.Forbidden, "", "", "it is not a key that its owner alone can read",
			"remove it, and a new one is made; the previews that there are end by that")
	}
	k := &Key{}
	_, err = io.ReadFull(file, k.secret[:])
	return k, err
}

// writeKey makes the file whole or not at all, and never replaces one.
func writeKey(path string, k *Key) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), ".key-") // mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(file.Name())) }()
	_, err = file.Write(k.secret[:])
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Link(file.Name(), path)
}
