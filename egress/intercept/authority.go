package intercept

import (
	"container/list"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 24 * time.Hour
	// leafRenewal is how long before its end a leaf is made anew: a connection's handshake
	// is over long before.
	leafRenewal = 6 * time.Hour
	// clockSlack lets guests whose clock is a little behind, as after a restore, accept
	// what was made just now.
	clockSlack = time.Hour
	maxLeaves  = 1024
)

// Authority signs a certificate for every name that is opened. Sandboxes trust it, and
// nothing else does. Its methods may be called concurrently.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
	leaf *ecdsa.PrivateKey // of all leaves of this process; never written down

	mu     sync.Mutex
	leaves map[string]*list.Element // of leaf
	used   *list.List               // latest first
}

type leaf struct {
	name string
	cert *tls.Certificate
}

// PEM returns the certificate that guests have to trust.
func (a *Authority) PEM() []byte { return slices.Clone(a.pem) }

// newAuthority returns the authority of a pair that belongs together.
func newAuthority(cert *x509.Certificate, key *ecdsa.PrivateKey) (*Authority, error) {
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return &Authority{
		cert: cert, key: key, leaf: own,
		pem:    pem.EncodeToMemory(&pem.Block{Type: certType, Bytes: cert.Raw}),
		leaves: map[string]*list.Element{}, used: list.New(),
	}, nil
}

// certificate returns one for a name, from the cache where it has one that is fresh.
func (a *Authority) certificate(name string) (*tls.Certificate, error) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if found, ok := a.leaves[name]; ok {
		if cert := found.Value.(*leaf).cert; now.Add(leafRenewal).Before(cert.Leaf.NotAfter) {
			a.used.MoveToFront(found)
			return cert, nil
		}
		a.drop(found)
	}
	cert, err := a.sign(name, now)
	if err != nil {
		return nil, err
	}
	a.leaves[name] = a.used.PushFront(&leaf{name, cert})
	if a.used.Len() > maxLeaves {
		a.drop(a.used.Back())
	}
	return cert, nil
}

// drop forgets a leaf; a.mu is held.
func (a *Authority) drop(e *list.Element) {
	delete(a.leaves, e.Value.(*leaf).name)
	a.used.Remove(e)
}

func (a *Authority) sign(name string, now time.Time) (*tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: serial(),
		NotBefore:    now.Add(-clockSlack),
		NotAfter:     now.Add(leafLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if len(name) <= 64 { // more a common name can't have (RFC 5280, appendix A); clients look at the other
		template.Subject.CommonName = name
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, a.leaf.Public(), a.key)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: a.leaf, Leaf: parsed}, nil
}

// selfSign makes the authority's own certificate.
func selfSign(key *ecdsa.PrivateKey, now time.Time) (*x509.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "Cove sandbox authority", Organization: []string{"Cove"}},
		NotBefore:             now.Add(-clockSlack),
		NotAfter:              now.Add(authorityLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// serial returns a random number of 127 bits, so that two authorities, or two lives of
// one, never give the same out twice.
func serial() *big.Int {
	bytes := make([]byte, 16)
	rand.Read(bytes) // never fails
	bytes[0] = bytes[0]&0x7f | 0x40
	return new(big.Int).SetBytes(bytes)
}
