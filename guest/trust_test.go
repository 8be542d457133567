package guest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/covehq/cove"
)

// newCertificate returns a certificate in PEM.
func newCertificate(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestCertificatesAreAddedToThoseOfTheDistribution(t *testing.T) {
	dir := t.TempDir()
	store, link, other := filepath.Join(dir, "store.pem"), filepath.Join(dir, "link.pem"), filepath.Join(dir, "other.pem")
	their, ours, later := newCertificate(t), newCertificate(t), newCertificate(t)
	for path, text := range map[string]string{store: strings.TrimSpace(their), other: their} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(store, link); err != nil {
		t.Fatal(err)
	}
	trust := &trust{bundle: filepath.Join(dir, "cove/bundle.pem"), alone: filepath.Join(dir, "cove/ca.pem"),
		stores: []string{filepath.Join(dir, "missing"), dir, store, link, other}}
	for _, certificate := range []string{ours, ours, later} {
		if err := trust.add(certificate); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string][3]int{store: {1, 1, 1}, other: {1, 1, 1}, trust.bundle: {1, 1, 1}, trust.alone: {0, 0, 1}} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i, certificate := range []string{their, ours, later} {
			if got := strings.Count(string(text), strings.TrimSpace(certificate)); got != want[i] {
				t.Errorf("%s: got certificate %d %d times, want %d", filepath.Base(path), i, got, want[i])
			}
		}
		if err := checkCertificates(text); err != nil {
			t.Errorf("%s: %v", filepath.Base(path), err)
		}
	}
	for _, path := range []string{trust.bundle, trust.alone} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o644 {
			t.Errorf("%s: got %v, %v, want that all may read it", path, info, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "cove/.new-*")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

func TestWhatIsNoCertificateIsNotTrusted(t *testing.T) {
	good := newCertificate(t)
	for name, text := range map[string]string{
		"nothing": "", "words": "hello", "a certificate and words": good + "hello",
		"a key":            strings.ReplaceAll(good, "CERTIFICATE", "PRIVATE KEY"),
		"a broken one":     strings.Replace(good, "MI", "AA", 1),
		"a good and a bad": good + strings.Replace(good, "MI", "AA", 1),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			trust := &trust{bundle: filepath.Join(dir, "bundle.pem"), alone: filepath.Join(dir, "ca.pem")}
			if err := trust.add(text); cove.CodeOf(err) != cove.Invalid {
				t.Errorf("got %v, want that it is invalid", err)
			}
			if files, _ := os.ReadDir(dir); len(files) > 0 {
				t.Errorf("left: %v", files)
			}
		})
	}
}

func TestSocketsThatListenAreReadFromTheKernelsTables(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 111 1 0000000000000000 100 0 0 10 0
   1: 00000000:01BB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 222 1 0000000000000000 100 0 0 10 0
   2: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  1000        0 333 1 0000000000000000 20 4 30 10 -1
   3: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 444 1 0000000000000000 100 0 0 10 0
   4: 0000000000000000FFFF00000100007F:0051 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 555 1 0000000000000000 100 0 0 10 0
   5: broken:0050 0 0A 0 0 0 0 0 666
   6: 0100:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 777 1
`
	var got []string
	for _, socket := range parseListening(strings.NewReader(table)) {
		got = append(got, socket.at.Addr().Unmap().String()+" "+socket.inode)
	}
	want := "127.0.0.1 111, 0.0.0.0 222, ::1 444, 127.0.0.1 555"
	if joined := strings.Join(got, ", "); joined != want {
		t.Errorf("got %s, want %s", joined, want)
	}
}
