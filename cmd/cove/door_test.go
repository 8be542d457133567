package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/cli"
	"github.com/covehq/cove/key"
	"github.com/covehq/cove/store/sqlite"
)

// writeCertificate writes a certificate for a name and its key, as somebody who renews it.
func writeCertificate(t *testing.T, cert, key, name string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
	public, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: public}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheDoorIsNotOpenedToEverybodyT74(t *testing.T) {
	dir := t.TempDir()
	cert, secret := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writeCertificate(t, cert, secret, "cove.example.org")
	records, err := sqlite.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { records.Close() })
	keys, err := key.Open(t.Context(), records)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keys.Close)
	brief, err := keys.Create(t.Context(), cove.KeyInput{Name: "brief", Expires: cove.Duration(time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	grant, err := keys.Check(brief.Secret)
	if err != nil {
		t.Fatal(err)
	}
	<-grant.Life().Done()
	type row struct {
		asked cli.DoorOptions
		want  cove.Code
	}
	try := func(name string, test row) {
		t.Helper()
		opened, err := openDoor(t.Context(), cli.ServeOptions{Door: test.asked, Logger: slog.New(slog.DiscardHandler)}, keys)
		if test.want == "" && err != nil || test.want != "" && (!errors.Is(err, test.want) || cove.HintOf(err) == "") {
			t.Errorf("%s: %v, hint %q; want %s", name, err, cove.HintOf(err), test.want)
		}
		if (opened.listener != nil) != (test.want == "" && test.asked.Listen != "") {
			t.Errorf("%s: the listener is %v", name, opened.listener)
		}
		if err := opened.close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, test := range map[string]row{
		"none":                                {cli.DoorOptions{}, ""},
		"loopback without a key":              {cli.DoorOptions{Listen: "127.0.0.1:0"}, ""},
		"loopback by name":                    {cli.DoorOptions{Listen: "localhost:0"}, ""},
		"every address, without anything":     {cli.DoorOptions{Listen: ":0"}, cove.Forbidden},
		"every address, with an expired key":  {cli.DoorOptions{Listen: "0.0.0.0:0", TLSCert: cert, TLSKey: secret}, cove.Forbidden},
		"behind a proxy, with an expired key": {cli.DoorOptions{Listen: "0.0.0.0:0", BehindProxy: true}, cove.Forbidden},
		"no port":                             {cli.DoorOptions{Listen: "127.0.0.1"}, cove.Invalid},
		"a certificate that is not there":     {cli.DoorOptions{Listen: "127.0.0.1:0", TLSCert: "/none", TLSKey: "/none"}, cove.Invalid},
		"a key that is not the certificate's": {cli.DoorOptions{Listen: "127.0.0.1:0", TLSCert: cert, TLSKey: cert}, cove.Invalid},
		"a port that is none":                 {cli.DoorOptions{Listen: "127.0.0.1:99999"}, cove.Conflict},
	} {
		try(name, test)
	}
	if _, err := keys.Create(t.Context(), cove.KeyInput{Name: "ci"}); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]row{
		"every address, with a key alone":          {cli.DoorOptions{Listen: ":0"}, cove.Forbidden},
		"every address of IPv4, with a key alone":  {cli.DoorOptions{Listen: "0.0.0.0:0"}, cove.Forbidden},
		"every address of IPv6, with a key alone":  {cli.DoorOptions{Listen: "[::]:0"}, cove.Forbidden},
		"a name that may be anything":              {cli.DoorOptions{Listen: "localhost.example.org:0"}, cove.Forbidden},
		"loopback in another spelling":             {cli.DoorOptions{Listen: "127.1:0"}, cove.Forbidden},
		"every address, with a key and TLS":        {cli.DoorOptions{Listen: "0.0.0.0:0", TLSCert: cert, TLSKey: secret}, ""},
		"every address, with a key behind a proxy": {cli.DoorOptions{Listen: "0.0.0.0:0", BehindProxy: true}, ""},
	} {
		try(name, test)
	}
}

func TestACertificateIsReadAgainWhenItChanges(t *testing.T) {
	dir := t.TempDir()
	cert, secret := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writeCertificate(t, cert, secret, "first")
	config, err := openCertificate(cert, secret, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	names := func() string {
		t.Helper()
		shown, err := config.GetCertificate(&tls.ClientHelloInfo{})
		if err != nil {
			t.Fatal(err)
		}
		return shown.Leaf.DNSNames[0]
	}
	if got := names(); got != "first" {
		t.Fatalf("the certificate is for %s", got)
	}
	if err := os.WriteFile(cert, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := names(); got != "first" {
		t.Errorf("while it is written, the certificate is for %s", got)
	}
	writeCertificate(t, cert, secret, "second-one")
	if got := names(); got != "second-one" {
		t.Errorf("after it was renewed, the certificate is for %s", got)
	}
}
