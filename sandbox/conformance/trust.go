package conformance

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/wire"
)

// networkTrust brings a certificate as a daemon brings its own.
func networkTrust(ctx context.Context, b *bench) error {
	certificate, err := newCertificate()
	if err != nil {
		return err
	}
	for _, readOnly := range []bool{false, true} {
		x, err := b.create(ctx, func(s *cove.Spec) { s.ReadOnly = readOnly && b.info.Controls[cove.ControlReadOnly] == cove.Enforced })
		if err != nil {
			return err
		}
		for range 2 { // it is there once however often it is brought
			if err := x.guest.SetNetwork(ctx, wire.NetworkSetup{Enabled: true, CA: certificate}); err != nil {
				return fmt.Errorf("bring a certificate, with a read-only root %v: %w", readOnly, err)
			}
		}
		if err := x.prints(ctx, "the certificate alone", "cat "+wire.TrustCA, strings.TrimSpace(certificate)); err != nil {
			return err
		}
		line := strings.Split(certificate, "\n")[1]
		if err := x.prints(ctx, "the certificate among others", fmt.Sprintf("grep -cxF '%s' %s", line, wire.TrustBundle), "1"); err != nil {
			return err
		}
		script := "for f in " + wire.TrustCA + " " + wire.TrustBundle + "; do (: >> $f) 2>/dev/null && echo $f; done; true"
		if err := x.prints(ctx, "what the user can write to", script, ""); err != nil {
			return err
		}
		if err := isCode("bring what is no certificate", x.guest.SetNetwork(ctx, wire.NetworkSetup{CA: "hello"}), cove.Invalid); err != nil {
			return err
		}
	}
	return nil
}

// newCertificate returns a certificate in PEM.
func newCertificate() (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "conformance"},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), nil
}
