package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// world is a registry in memory, and what a test makes of its images.
type world struct {
	t      *testing.T
	server *httptest.Server
	host   string

	mu    sync.Mutex
	seen  []string // requests for blobs and manifests
	front func(w http.ResponseWriter, r *http.Request) (done bool)
}

// newWorld starts a registry. front may be nil; it gets each request first.
func newWorld(t *testing.T, front func(w http.ResponseWriter, r *http.Request) bool) *world {
	t.Helper()
	w := &world{t: t, front: front}
	w.server = httptest.NewServer(w.handler())
	t.Cleanup(w.server.Close)
	w.host = strings.TrimPrefix(w.server.URL, "http://")
	return w
}

func (w *world) handler() http.Handler {
	inner := registry.New(registry.Logger(log.New(testLog{w.t}, "", 0)))
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && r.URL.Path != "/v2/" {
			w.mu.Lock()
			w.seen = append(w.seen, r.URL.Path+r.Header.Get("Range"))
			w.mu.Unlock()
		}
		if w.front != nil && (r.Method == http.MethodGet || r.Method == http.MethodHead) && w.front(rw, r) {
			return
		}
		inner.ServeHTTP(rw, r)
	})
}

// testLog drops what the registry logs.
type testLog struct{ t *testing.T }

func (testLog) Write(p []byte) (int, error) { return len(p), nil }

// requests returns how many requests had this in their path or range.
func (w *world) requests(part string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, path := range w.seen {
		if strings.Contains(path, part) {
			n++
		}
	}
	return n
}

// built is an image as a registry has it.
type built struct {
	manifest []byte
	blobs    map[string][]byte // by digest
	layers   []string          // digests, the lowest first
}

// compressions of a layer.
func gzipped(data []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(data)
	_ = w.Close()
	return b.Bytes()
}

func zstandard(data []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	defer w.Close()
	return w.EncodeAll(data, nil)
}

func plain(data []byte) []byte { return data }

// assembled makes an image of layers; edit changes its configuration.
func assembled(pack func([]byte) []byte, edit func(*configFile), layers ...[]byte) *built {
	b := &built{blobs: map[string][]byte{}}
	var config configFile
	config.OS, config.Architecture = "linux", runtime.GOARCH
	list := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Layers: []v1.Descriptor{}}
	add := func(kind types.MediaType, data []byte) v1.Descriptor {
		digest := digestOf(data)
		b.blobs[digest] = data
		hash, err := v1.NewHash(digest)
		if err != nil {
			panic(err)
		}
		return v1.Descriptor{MediaType: kind, Size: int64(len(data)), Digest: hash}
	}
	for _, layer := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digestOf(layer))
		d := add(types.OCILayer, pack(layer))
		list.Layers = append(list.Layers, d)
		b.layers = append(b.layers, d.Digest.String())
	}
	if edit != nil {
		edit(&config)
	}
	list.Config = add(types.OCIConfigJSON, must(json.Marshal(config)))
	b.manifest = must(json.Marshal(list))
	return b
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// push puts an image into the registry and returns its reference.
func (w *world) push(name string, b *built) string {
	w.t.Helper()
	for digest, data := range b.blobs {
		w.send(http.MethodPost, "/v2/"+name+"/blobs/uploads/?digest="+digest, "application/octet-stream", data)
	}
	w.putManifest(name, "latest", string(types.OCIManifestSchema1), b.manifest)
	return w.host + "/" + name
}

func (w *world) putManifest(name, tag, kind string, data []byte) {
	w.t.Helper()
	w.send(http.MethodPut, "/v2/"+name+"/manifests/"+tag, kind, data)
}

func (w *world) send(method, path, kind string, data []byte) {
	w.t.Helper()
	request, err := http.NewRequest(method, w.server.URL+path, bytes.NewReader(data))
	if err != nil {
		w.t.Fatal(err)
	}
	request.Header.Set("Content-Type", kind)
	response, err := w.server.Client().Do(request)
	if err != nil {
		w.t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode/100 != 2 {
		w.t.Fatalf("%s %s: %s", method, path, response.Status)
	}
}

// entry is one of a layer: a file with content, unless the type says otherwise.
type entry struct {
	name string
	kind byte
	to   string
	mode int64
	text string
}

func file(name, text string) entry {
	return entry{name: name, kind: tar.TypeReg, mode: 0o644, text: text}
}
func folder(name string) entry { return entry{name: name, kind: tar.TypeDir, mode: 0o755} }
func link(name, to string) entry {
	return entry{name: name, kind: tar.TypeSymlink, to: to, mode: 0o777}
}
func hardlink(name, to string) entry {
	return entry{name: name, kind: tar.TypeLink, to: to, mode: 0o644}
}

// layerOf makes the tar of a layer.
func layerOf(entries ...entry) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		header := &tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.to, Mode: e.mode, Size: int64(len(e.text)), Uid: os.Geteuid(), Gid: os.Getegid()}
		if err := w.WriteHeader(header); err != nil {
			panic(fmt.Errorf("%s: %w", e.name, err))
		}
		if _, err := w.Write([]byte(e.text)); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// newStore opens a store of the test's own, without logins.
func newStore(t *testing.T, o Options) *Store {
	t.Helper()
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	t.Setenv("XDG_RUNTIME_DIR", "")
	t.Setenv("REGISTRY_AUTH_FILE", "")
	store, err := OpenWith(filepath.Join(t.TempDir(), "images"), o)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// pulled pulls an image and returns its root.
func pulled(t *testing.T, store *Store, ref string) *Root {
	t.Helper()
	if _, err := store.Pull(context.Background(), PullRequest{Reference: ref}, nil); err != nil {
		t.Fatal(err)
	}
	root, err := store.Resolve(context.Background(), ref)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func read(t *testing.T, root *Root, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root.Dir, name))
	if err != nil {
		t.Error(err)
	}
	return string(data)
}

// xattrs returns the names of a file's extended attributes.
func xattrs(t *testing.T, path string) string {
	t.Helper()
	names := make([]byte, 1024)
	n, err := unix.Llistxattr(path, names)
	if err != nil {
		t.Fatal(err)
	}
	return string(names[:n])
}
