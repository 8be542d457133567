package docker

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker/cli/cli/config"
	tlsfiles "github.com/docker/cli/cli/context"
	endpoints "github.com/docker/cli/cli/context/docker"
	contexts "github.com/docker/cli/cli/context/store"
	"github.com/moby/moby/client"

	"github.com/covehq/cove"
)

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// newAuthority makes one that nobody else knows.
func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{certificate, key}
}

// issue writes ca.pem, cert.pem and key.pem to a directory, for a server or client on
// 127.0.0.1.
func (a *authority) issue(t *testing.T) (dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "127.0.0.1"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	for name, block := range map[string]*pem.Block{
		"ca.pem": {Type: "CERTIFICATE", Bytes: a.certificate.Raw}, "cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "EC PRIVATE KEY", Bytes: secret},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// freePort returns a port on which nobody listens.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// useConfig makes a directory that of Docker's configuration.
func useConfig(t *testing.T, dir string) {
	t.Helper()
	before := config.Dir()
	config.SetDir(dir)
	t.Cleanup(func() { config.SetDir(before) })
}

// newContext makes a Docker context, as docker context create does.
func newContext(t *testing.T, name, host, certificates string) {
	t.Helper()
	store := contexts.New(config.ContextStoreDir(), contexts.NewConfig(
		func() any { return &struct{}{} },
		contexts.EndpointTypeGetter(endpoints.DockerEndpoint, func() any { return &endpoints.EndpointMeta{} }),
	))
	err := store.CreateOrUpdate(contexts.Metadata{Name: name, Endpoints: map[string]any{endpoints.DockerEndpoint: endpoints.EndpointMeta{Host: host}}})
	if err != nil || certificates == "" {
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	files, err := tlsfiles.TLSDataFromFiles(filepath.Join(certificates, "ca.pem"), filepath.Join(certificates, "cert.pem"), filepath.Join(certificates, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := store.ResetEndpointTLSMaterial(name, endpoints.DockerEndpoint, files.ToStoreTLSData()); err != nil {
		t.Fatal(err)
	}
}

func TestAnEngineByTLS(t *testing.T) {
	ours := newAuthority(t)
	server, port := ours.issue(t), freePort(t)
	e := newDaemon(t, "--host", "tcp://127.0.0.1:"+port, "--tlsverify",
		"--tlscacert", server+"/ca.pem", "--tlscert", server+"/cert.pem", "--tlskey", server+"/key.pem")
	image := bareImage(t, open(t, e.host()))
	address, certificates, bin := "tcp://127.0.0.1:"+port, ours.issue(t), binaries(t)
	// The engine is what the environment says.
	use := func(t *testing.T, variables map[string]string) rig {
		t.Helper()
		for _, name := range []string{client.EnvOverrideHost, client.EnvTLSVerify, client.EnvOverrideCertPath, "DOCKER_CONTEXT"} {
			t.Setenv(name, variables[name])
		}
		return rig{t.TempDir(), bin, "", "docker"}
	}
	t.Run("with the certificates of DOCKER_CERT_PATH", func(t *testing.T) {
		live(t, use(t, map[string]string{client.EnvOverrideHost: address, client.EnvTLSVerify: "1", client.EnvOverrideCertPath: certificates}), image)
	})
	t.Run("with the certificates beside Docker's configuration", func(t *testing.T) {
		useConfig(t, certificates)
		live(t, use(t, map[string]string{client.EnvOverrideHost: address, client.EnvTLSVerify: "1"}), image)
	})
	t.Run("of a Docker context", func(t *testing.T) {
		useConfig(t, t.TempDir())
		newContext(t, "far", address, certificates)
		live(t, use(t, map[string]string{"DOCKER_CONTEXT": "far"}), image)
	})
	for name, variables := range map[string]map[string]string{
		"without a certificate":             {client.EnvOverrideHost: address},
		"with those of somebody else":       {client.EnvOverrideHost: address, client.EnvTLSVerify: "1", client.EnvOverrideCertPath: newAuthority(t).issue(t)},
		"with a directory that has not any": {client.EnvOverrideHost: address, client.EnvTLSVerify: "1", client.EnvOverrideCertPath: t.TempDir()},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := use(t, variables).open()
			if err != nil {
				t.Fatal(err)
			}
			_, err = d.Probe(t.Context())
			if hint := cove.HintOf(err); !errors.Is(err, cove.Unavailable) || !strings.Contains(hint, "DOCKER_") {
				t.Errorf("got %v (%s), want unavailable, and which certificates it needs", err, hint)
			}
		})
	}
}
