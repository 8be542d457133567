package e2e

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/covehq/cove/internal/outer"
)

// internet is what a world has to offer: a name server, and behind every name a server of
// HTTP and HTTPS that is another one for each.
type internet struct {
	*outer.World
	authority *authority
	sites     map[string]http.Handler // by name
	addresses map[string]netip.Addr

	mu    sync.Mutex
	asked []string // names, in the order of the queries
	told  []string // "host: Authorization" of each request to the sites of serveAPI
}

// resolver is the address of the world's name server.
const resolver = outer.Address + ":53"

// newInternet starts one. Names of sites end in .outer.test.
func newInternet(t *testing.T) *internet {
	t.Helper()
	i := &internet{
		World: outer.New(t, required("outer")), authority: newAuthority(t),
		addresses: map[string]netip.Addr{"rebound.outer.test": netip.MustParseAddr("169.254.169.254"), "home.outer.test": netip.MustParseAddr("10.1.2.3")},
	}
	i.sites = map[string]http.Handler{
		"api.outer.test":  http.HandlerFunc(i.serveAPI),
		"pypi.outer.test": serveWheel(t),
		"npm.outer.test":  servePackage(t),
		"git.outer.test":  serveRepository(t),
		"db.outer.test":   http.NotFoundHandler(),
		"evil.outer.test": http.HandlerFunc(i.serveAPI),
		"moved.outer.test": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // or else HTTP/2 resets the stream, which curl may take for a failure
			w.Header().Set("Location", r.URL.Query().Get("to"))
			w.WriteHeader(http.StatusTemporaryRedirect)
		}),
	}
	next := netip.MustParseAddr("93.184.215.10")
	for name := range maps.Keys(i.sites) {
		i.addresses[name] = next
		next = next.Next()
	}
	i.serveNames(t)
	i.serveSites(t)
	return i
}

// serveNames answers queries for the A records of the addresses.
func (i *internet) serveNames(t *testing.T) {
	conn := i.ListenPacket(t, ":53")
	var serving sync.WaitGroup
	t.Cleanup(func() { _ = conn.Close(); serving.Wait() })
	serving.Go(func() {
		buffer := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			if reply := i.resolve(buffer[:n]); reply != nil {
				_, _ = conn.WriteTo(reply, from)
			}
		}
	})
}

func (i *internet) resolve(query []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	question := m.Questions[0]
	name := strings.ToLower(strings.TrimSuffix(question.Name.String(), "."))
	i.mu.Lock()
	i.asked = append(i.asked, name)
	i.mu.Unlock()
	reply := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true},
		Questions: m.Questions,
	}
	address, known := i.addresses[name]
	if !known {
		reply.RCode = dnsmessage.RCodeNameError
	} else if question.Type == dnsmessage.TypeA {
		reply.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: question.Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET, TTL: 1},
			Body:   &dnsmessage.AResource{A: address.As4()},
		}}
	}
	packed, err := reply.Pack()
	if err != nil {
		return nil
	}
	return packed
}

// heard returns what the sites of serveAPI were told.
func (i *internet) heard() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]string(nil), i.told...)
}

// queries returns the names that were asked for.
func (i *internet) queries() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]string(nil), i.asked...)
}

// serveSites serves every name, by the name that the client says.
func (i *internet) serveSites(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if site, ok := i.sites[host]; ok {
			site.ServeHTTP(w, r)
			return
		}
		http.Error(w, "a site that nobody was to reach", http.StatusMisdirectedRequest)
	})
	server := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute}
	server.TLSConfig = &tls.Config{GetCertificate: i.authority.certificate, NextProtos: []string{"h2", "http/1.1"}}
	var serving sync.WaitGroup
	t.Cleanup(func() { _ = server.Close(); serving.Wait() })
	plain, secure := i.Listen(t, ":80"), i.Listen(t, ":443")
	serving.Go(func() { _ = server.Serve(plain) })
	serving.Go(func() { _ = server.ServeTLS(secure, "", "") })
}

// serveAPI tells the client what it asked for.
func (i *internet) serveAPI(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	i.told = append(i.told, r.Host+": "+r.Header.Get("Authorization"))
	i.mu.Unlock()
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	_ = json.NewEncoder(w).Encode(map[string]any{
		"host": r.Host, "method": r.Method, "path": r.URL.Path, "query": r.URL.RawQuery,
		"authorization": r.Header.Get("Authorization"), "body": string(body), "greeting": "hello from outside",
	})
}

// authority signs the certificates of the world's sites.
type authority struct {
	pem  []byte
	cert *x509.Certificate
	key  *ecdsa.PrivateKey

	mu     sync.Mutex
	leaves map[string]*tls.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "The outer world"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{
		pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), cert: cert, key: key, leaves: map[string]*tls.Certificate{},
	}
}

// certificate makes one for the name that a client says.
func (a *authority) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if leaf := a.leaves[hello.ServerName]; leaf != nil {
		return leaf, nil
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(int64(len(a.leaves)) + 2), Subject: pkix.Name{CommonName: hello.ServerName}, DNSNames: []string{hello.ServerName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &a.key.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	a.leaves[hello.ServerName] = &tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: a.key}
	return a.leaves[hello.ServerName], nil
}

// serveWheel is an index of Python packages with one in it.
func serveWheel(t *testing.T) http.Handler {
	const file = "outer_hello-1.0-py3-none-any.whl"
	var wheel bytes.Buffer
	archive := zip.NewWriter(&wheel)
	for _, part := range [][2]string{
		{"outer_hello.py", "print('hello from outside')\n"},
		{"outer_hello-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: outer-hello\nVersion: 1.0\n"},
		{"outer_hello-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
		{"outer_hello-1.0.dist-info/RECORD", "outer_hello.py,,\nouter_hello-1.0.dist-info/METADATA,,\nouter_hello-1.0.dist-info/WHEEL,,\nouter_hello-1.0.dist-info/RECORD,,\n"},
	} {
		w, err := archive.Create(part[0])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, part[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /simple/outer-hello/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<!DOCTYPE html><a href="/files/%s#sha256=%x">%s</a>`, file, sha256.Sum256(wheel.Bytes()), file)
	})
	mux.HandleFunc("GET /files/"+file, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(wheel.Bytes()) })
	return mux
}

// servePackage is a registry of npm with one package in it.
func servePackage(t *testing.T) http.Handler {
	tarball := tarOf(t, map[string]string{
		"package/package.json": `{"name":"outer-hello","version":"1.0.0","main":"index.js"}`,
		"package/index.js":     "console.log('hello from outside')\n",
	})
	sum := sha512.Sum512(tarball)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /outer-hello", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"name": "outer-hello", "dist-tags": map[string]string{"latest": "1.0.0"},
			"versions": map[string]any{"1.0.0": map[string]any{
				"name": "outer-hello", "version": "1.0.0", "main": "index.js",
				"dist": map[string]string{
					"tarball": "https://" + r.Host + "/outer-hello.tgz", "integrity": "sha512-" + base64.StdEncoding.EncodeToString(sum[:]),
				},
			}},
		})
	})
	mux.HandleFunc("GET /outer-hello.tgz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(tarball) })
	return mux
}

// serveRepository serves a repository of git, as files.
func serveRepository(t *testing.T) http.Handler {
	t.Helper()
	dir := t.TempDir()
	git := func(args ...string) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, "git", args...)
		cmd.Dir, cmd.WaitDelay = dir, time.Second
		cmd.Env = append(os.Environ(), "HOME="+dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@outer.test", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@outer.test")
		if output, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %s: %v: %s", strings.Join(args, " "), err, output)
		}
	}
	git("init", "-q", "-b", "main", "work")
	if err := os.WriteFile(filepath.Join(dir, "work", "hello.txt"), []byte("hello from outside\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	git("-C", "work", "add", "hello.txt")
	git("-C", "work", "commit", "-q", "-m", "hello")
	git("clone", "-q", "--bare", "work", "hello.git")
	git("-C", "hello.git", "update-server-info")
	return http.FileServer(http.Dir(dir))
}
