package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// hub is a registry over TLS that wants a login for what is below private/, hangs up in
// the middle of a layer of cut/, and lies about those of wrong/.
type hub struct {
	server *httptest.Server
	inner  http.Handler
	host   string
	dir    string // with the certificate and Docker's configuration with a login

	mu   sync.Mutex
	cuts int
}

// newHub starts a registry with the images of this file.
func newHub(t *testing.T) *hub {
	t.Helper()
	h := &hub{inner: registry.New(registry.Logger(log.New(io.Discard, "", 0))), dir: t.TempDir()}
	h.server = httptest.NewTLSServer(http.HandlerFunc(h.serve))
	h.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(h.server.Close)
	h.host = strings.TrimPrefix(h.server.URL, "https://")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.server.Certificate().Raw})
	login := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, h.host, base64.StdEncoding.EncodeToString([]byte("ada:l0velace")))
	for name, data := range map[string][]byte{"ca.pem": certificate, "config.json": []byte(login)} {
		if err := os.WriteFile(filepath.Join(h.dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	program := probe(t, h.dir)
	for _, repository := range []string{"bare", "private/bare", "cut/bare", "wrong/bare"} {
		h.push(t, repository, bareImage(t, program, repository))
	}
	h.push(t, "accounts", configured(t, bareImage(t, program, "bare"), v1.Config{
		User: "app", WorkingDir: "/srv/app", Env: []string{"PATH=/opt", "GREETING=from the image"}, Cmd: []string{"probe", "from", "cmd"},
		Volumes: map[string]struct{}{"/data": {}}, Labels: map[string]string{"dev.gvisor.flag.network": "host"},
	}))
	return h
}

func (h *hub) serve(w http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		switch {
		case strings.HasPrefix(r.URL.Path, "/v2/private/") && (user != "ada" || password != "l0velace"):
			w.Header().Set("WWW-Authenticate", `Basic realm="hub"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		case strings.HasPrefix(r.URL.Path, "/v2/cut/bare/blobs/") && h.cut():
			w = &cutting{ResponseWriter: w, left: 1000}
		case strings.HasPrefix(r.URL.Path, "/v2/wrong/bare/blobs/"):
			w = &lying{ResponseWriter: w}
		}
	}
	if r.URL.Path == "/v2/" && user == "" {
		w.Header().Set("WWW-Authenticate", `Basic realm="hub"`) // so that those who have a login use it
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	h.inner.ServeHTTP(w, r)
}

// cut reports whether a reply is to be cut: the first three are.
func (h *hub) cut() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cuts++
	return h.cuts <= 3
}

// cutting hangs up after some bytes.
type cutting struct {
	http.ResponseWriter
	left int
}

func (c *cutting) Write(p []byte) (int, error) {
	if len(p) <= c.left {
		c.left -= len(p)
		return c.ResponseWriter.Write(p)
	}
	_, _ = c.ResponseWriter.Write(p[:c.left])
	_ = http.NewResponseController(c.ResponseWriter).Flush()
	panic(http.ErrAbortHandler)
}

// lying changes a bit of everything.
type lying struct{ http.ResponseWriter }

func (l *lying) Write(p []byte) (int, error) {
	p = bytes.Clone(p)
	p[len(p)/2] ^= 1
	return l.ResponseWriter.Write(p)
}

func (h *hub) push(t *testing.T, repository string, image v1.Image) {
	t.Helper()
	plain := httptest.NewServer(h.inner) // past all that the hub does to others
	defer plain.Close()
	reference, err := name.ParseReference(strings.TrimPrefix(plain.URL, "http://") + "/" + repository)
	if err == nil {
		err = remote.Write(reference, image)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// probeSource is the only program of an image: it has no libc, no shell and no files.
const probeSource = `package main

import (
	"fmt"
	"os"
	"os/user"
	"strings"
)

func main() {
	dir, _ := os.Getwd()
	me, err := user.Current()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("arguments:", strings.Join(os.Args[1:], " "))
	fmt.Println("user:", me.Uid, me.Gid, "directory:", dir, "greeting:", os.Getenv("GREETING"))
	for _, place := range []string{"/data", "/tmp", "/workspace", "/etc", "/.cove"} {
		fmt.Println(place, "writable:", os.WriteFile(place+"/probe", nil, 0o600) == nil)
	}
}
`

// probe returns the program's code.
func probe(t *testing.T, dir string) []byte {
	t.Helper()
	source, program := filepath.Join(dir, "probe.go"), filepath.Join(dir, "probe")
	if err := os.WriteFile(source, []byte(probeSource), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-ldflags=-s -w", "-o", program, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, output)
	}
	code, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// bareImage is an image of one static program, and of what tries to lead elsewhere. Its
// layer is no other's with another mark.
func bareImage(t *testing.T, program []byte, mark string) v1.Image {
	t.Helper()
	return imageOf(t, pack(t, []entry{
		{tar.Header{Name: "dev", Typeflag: tar.TypeSymlink, Linkname: os.TempDir()}, nil},
		{tar.Header{Name: "mark", Mode: 0o644}, []byte(mark)},
		{tar.Header{Name: "etc/passwd", Mode: 0o644}, []byte("app:x:1234:1234::/srv:/bin/false\n")},
		{tar.Header{Name: "opt/probe", Mode: 0o4755}, program},
	}), v1.Config{Entrypoint: []string{"/opt/probe"}})
}

// An entry is one of an archive; its size is the content's.
type entry struct {
	header  tar.Header
	content []byte
}

// pack is an archive of these entries.
func pack(t *testing.T, entries []entry) []byte {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, e := range entries {
		e.header.Size = int64(len(e.content))
		if err := w.WriteHeader(&e.header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}

// imageOf is an image of this system with one layer.
func imageOf(t *testing.T, archive []byte, config v1.Config) v1.Image {
	t.Helper()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil })
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	return configured(t, image, config)
}

func configured(t *testing.T, image v1.Image, config v1.Config) v1.Image {
	t.Helper()
	file, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", runtime.GOARCH, config
	if image, err = mutate.ConfigFile(image, file); err != nil {
		t.Fatal(err)
	}
	return image
}

func TestImages(t *testing.T) {
	eachRuntime(t, func(t *testing.T, runtime string) {
		h := newHub(t)
		sessions(t, "testdata/image", runtime, "REGISTRY="+h.host, "SSL_CERT_FILE="+filepath.Join(h.dir, "ca.pem"),
			"NO_LOGIN="+t.TempDir(), "LOGIN="+h.dir)
	})
}
