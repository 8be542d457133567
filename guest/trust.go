package guest

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/wire"
)

// stores are the files in which distributions keep the certificates that programs trust:
// those of Debian and Alpine, Fedora and its kin, SUSE, and what OpenSSL and BSDs use.
var stores = []string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/pki/tls/certs/ca-bundle.crt",
	"/var/lib/ca-certificates/ca-bundle.pem", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem", "/etc/pki/tls/cert.pem", "/usr/lib/ssl/cert.pem",
}

// maxStore bounds what is read of a store; they have a few hundred KiB.
const maxStore = 8 << 20

// trust makes programs inside trust certificates beside their own.
type trust struct {
	bundle, alone string   // the files of ours
	stores        []string // the distribution's

	mu sync.Mutex
}

func newTrust() *trust {
	return &trust{bundle: wire.TrustBundle, alone: wire.TrustCA, stores: stores}
}

// add writes the files of ours, and adds the certificates to the distribution's where it can.
// Those that were added before stay.
func (t *trust) add(certificates string) error {
	if err := checkCertificates([]byte(certificates)); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := os.MkdirAll(filepath.Dir(t.bundle), 0o755); err != nil {
		return err
	}
	own := []byte{}
	seen := map[string]bool{}
	for _, store := range t.stores {
		path, err := filepath.EvalSymlinks(store)
		if err != nil || seen[path] {
			continue
		}
		seen[path] = true
		content, err := readStore(path)
		if err != nil {
			continue
		}
		if len(own) == 0 {
			own = content
		}
		if !bytes.Contains(content, []byte(certificates)) {
			_ = appendStore(path, certificates) // a read-only one is as it is: there are the variables
		}
	}
	if !bytes.Contains(own, []byte(certificates)) {
		own = append(newLine(own), certificates...)
	}
	return errors.Join(replaceFile(t.bundle, own), replaceFile(t.alone, []byte(certificates)))
}

// checkCertificates makes sure that a text is nothing but certificates.
func checkCertificates(text []byte) error {
	count := 0
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil || block.Type != "CERTIFICATE" {
			return cove.Errorf(cove.Invalid, "network", "", "ca is no certificate", "send certificates in PEM")
		}
		count++
	}
	if count == 0 || len(bytes.TrimSpace(text)) > 0 {
		return cove.Errorf(cove.Invalid, "network", "", "ca has something beside certificates", "send certificates in PEM")
	}
	return nil
}

// readStore reads a regular file that is not too large.
func readStore(path string) ([]byte, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxStore {
		return nil, errors.New("not a store of certificates")
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxStore))
}

func appendStore(path, certificates string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString("\n" + certificates)
	return errors.Join(err, file.Close())
}

// newLine ends a text that does not end in one.
func newLine(text []byte) []byte {
	if len(text) > 0 && text[len(text)-1] != '\n' {
		return append(text, '\n')
	}
	return text
}

// replaceFile writes a file that all may read, so that nobody sees half of it.
func replaceFile(path string, content []byte) error {
	fresh, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = fresh.Write(content)
	err = errors.Join(err, fresh.Chmod(0o644), fresh.Close())
	if err == nil {
		err = os.Rename(fresh.Name(), path)
	}
	if err != nil {
		_ = os.Remove(fresh.Name())
	}
	return err
}
