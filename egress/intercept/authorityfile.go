package intercept

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/covehq/cove"
)

const (
	certName = "ca.pem"
	keyName  = "ca.key"
	lockName = "lock"

	certType = "CERTIFICATE"
	keyType  = "PRIVATE KEY"

	// authorityRenewal is how long before its end an authority is replaced at the next
	// start: sandboxes of longer lives than that are started anew in between.
	authorityRenewal = 30 * 24 * time.Hour
	// maxPEM bounds what is read of a file.
	maxPEM = 64 << 10
)

// OpenAuthority returns the authority in dir, which only this user can read. On first use,
// and again when its end is near, it makes one: ca.pem and ca.key. Two processes at once
// get the same. It never replaces files that it does not understand.
func OpenAuthority(dir string) (*Authority, error) {
	a, err := openAuthority(dir)
	if err == nil || cove.HintOf(err) != "" {
		return a, cove.Wrap(err, "open authority", dir)
	}
	return nil, &cove.Error{
		Code: cove.CodeOf(err), Op: "open authority", ID: dir, Err: err,
		Hint: "mend it, or remove " + dir + " for a new authority; sandboxes that run trust the old one alone",
	}
}

func openAuthority(dir string) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o700); err != nil { // it was there, and open to others
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer lock.Close() // and with it goes the lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return nil, os.NewSyscallError("flock", err)
	}
	key, err := loadKey(filepath.Join(dir, keyName))
	if errors.Is(err, fs.ErrNotExist) {
		return create(dir)
	} else if err != nil {
		return nil, err
	}
	cert, err := loadCert(filepath.Join(dir, certName))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return certify(dir, key) // a process died between the two files
	case err != nil:
		return nil, err
	case !key.PublicKey.Equal(cert.PublicKey):
		return nil, fmt.Errorf("%s and %s do not belong together", certName, keyName)
	case time.Now().Add(authorityRenewal).After(cert.NotAfter):
		return create(dir)
	}
	return newAuthority(cert, key)
}

// create makes a new pair in place of what is there.
func create(dir string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	// Without a certificate a key gets one, but not the other way around: so the old
	// certificate goes first, and the new one comes last.
	if err := os.Remove(filepath.Join(dir, certName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := replace(filepath.Join(dir, keyName), keyType, der); err != nil {
		return nil, err
	}
	return certify(dir, key)
}

func certify(dir string, key *ecdsa.PrivateKey) (*Authority, error) {
	cert, err := selfSign(key, time.Now())
	if err != nil {
		return nil, err
	}
	if err := replace(filepath.Join(dir, certName), certType, cert.Raw); err != nil {
		return nil, err
	}
	return newAuthority(cert, key)
}

// replace writes a file of mode 0600 so that it is there whole or not at all.
func replace(path, kind string, der []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name()) // fails once it has been renamed
	_, err = file.Write(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}

func loadKey(path string) (*ecdsa.PrivateKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, &cove.Error{
			Code: cove.Forbidden, Err: fmt.Errorf("%s can be read by others (mode %04o)", path, info.Mode().Perm()),
			Hint: "if nobody has read it: chmod 600 " + path + "; else remove it for a new authority",
		}
	}
	der, err := load(path, keyType)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("%s has no key that can be read", path) // and the error may have some of it
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s has a key of another kind than ECDSA", path)
	}
	return key, nil
}

func loadCert(path string) (*x509.Certificate, error) {
	der, err := load(path, certType)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if !cert.IsCA {
		return nil, fmt.Errorf("%s has a certificate that may not sign others", path)
	}
	return cert, nil
}

func load(path, kind string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxPEM {
		return nil, fmt.Errorf("%s is no file of at most %d bytes", path, maxPEM)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(content)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("%s has no %s", path, kind)
	}
	return block.Bytes, nil
}
