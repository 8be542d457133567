package intercept

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/covehq/cove"
)

func TestAuthorityIsMadeOnceAndIsPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "ca")
	first, err := OpenAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenAuthority(dir)
	if err != nil || !bytes.Equal(first.PEM(), again.PEM()) {
		t.Errorf("opened again: %v, and another one: %v", err, !bytes.Equal(first.PEM(), again.PEM()))
	}
	for name, want := range map[string]os.FileMode{"": 0o700, keyName: 0o600, certName: 0o600} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%q has %v (%v), want %v", name, info.Mode().Perm(), err, want)
		}
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 3 {
		t.Errorf("the directory has %v", entries)
	}
	if cert := first.cert; !cert.IsCA || time.Until(cert.NotAfter) < 9*365*24*time.Hour || cert.PublicKeyAlgorithm != x509.ECDSA {
		t.Errorf("certificate = %+v", cert)
	}
}

func TestAuthorityIsTheSameForAllThatStartAtOnce(t *testing.T) {
	dir := t.TempDir()
	var group sync.WaitGroup
	made := make([][]byte, 8)
	for i := range made {
		group.Go(func() {
			a, err := OpenAuthority(dir) // its lock is of a file description, so it works within a process as well
			if err != nil {
				t.Error(err)
				return
			}
			made[i] = a.PEM()
		})
	}
	group.Wait()
	for _, pem := range made {
		if !bytes.Equal(pem, made[0]) {
			t.Fatal("there are two authorities")
		}
	}
}

func TestAuthorityOutlivesADeathBetweenItsFiles(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenAuthority(dir); err != nil {
		t.Fatal(err)
	}
	key, _ := os.ReadFile(filepath.Join(dir, keyName))
	os.Remove(filepath.Join(dir, certName))
	a, err := OpenAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	if after, _ := os.ReadFile(filepath.Join(dir, keyName)); !bytes.Equal(key, after) {
		t.Error("the key was replaced")
	}
	if _, err := a.certificate("example.org"); err != nil {
		t.Error(err)
	}
}

func TestAuthorityThatCanNotBeReadIsNotReplaced(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, dir string){
		"a key that is none":         func(t *testing.T, dir string) { write(t, filepath.Join(dir, keyName), "key", 0o600) },
		"a certificate that is none": func(t *testing.T, dir string) { write(t, filepath.Join(dir, certName), "cert", 0o600) },
		"a key for others to read":   func(t *testing.T, dir string) { os.Chmod(filepath.Join(dir, keyName), 0o644) },
		"a pair that is none": func(t *testing.T, dir string) {
			other := t.TempDir()
			OpenAuthority(other)
			content, _ := os.ReadFile(filepath.Join(other, certName))
			write(t, filepath.Join(dir, certName), string(content), 0o600)
		},
		"a huge file": func(t *testing.T, dir string) { os.Truncate(filepath.Join(dir, keyName), 1<<30) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := OpenAuthority(dir); err != nil {
				t.Fatal(err)
			}
			spoil(t, dir)
			if _, err := OpenAuthority(dir); err == nil || cove.HintOf(err) == "" || !strings.Contains(err.Error(), "open authority") {
				t.Errorf("OpenAuthority = %v (hint %q), want an error with a hint", err, cove.HintOf(err))
			}
		})
	}
}

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

func TestLeavesAreOfTheirNameShortLivedAndBounded(t *testing.T) {
	a, err := OpenAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.PEM())
	long := strings.Repeat("a.", 100) + "example.org"
	for _, name := range []string{"example.org", long, "203.0.113.7"} {
		cert, err := a.certificate(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cert.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots}); err != nil {
			t.Errorf("%.20s: %v", name, err)
		}
		if _, err := cert.Leaf.Verify(x509.VerifyOptions{DNSName: "other.example.org", Roots: roots}); err == nil {
			t.Errorf("%.20s is good for other names", name)
		}
		if life := time.Until(cert.Leaf.NotAfter); life > leafLife || cert.Leaf.IsCA {
			t.Errorf("%.20s lives for %v, CA %v", name, life, cert.Leaf.IsCA)
		}
		if again, _ := a.certificate(name); again != cert {
			t.Errorf("%.20s was signed twice", name)
		}
	}
	for i := range maxLeaves + 10 {
		if _, err := a.certificate(fmt.Sprintf("n%d.example.org", i)); err != nil {
			t.Fatal(err)
		}
	}
	if len(a.leaves) != maxLeaves || a.used.Len() != maxLeaves {
		t.Errorf("kept %d leaves, want %d", len(a.leaves), maxLeaves)
	}
}

func TestOpenerNeedsAnAuthority(t *testing.T) {
	if _, err := New(Options{}); !errors.Is(err, cove.Invalid) {
		t.Errorf("New = %v, want invalid", err)
	}
}
