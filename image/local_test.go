package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/covehq/cove"
)

// savedTar is what docker save writes of images of one layer each, by their names.
func savedTar(images map[string]string) []byte {
	var entries []entry
	var list []savedImage
	for name, content := range images {
		b := assembled(plain, nil, layerOf(file("f", content)))
		var m v1.Manifest
		if err := json.Unmarshal(b.manifest, &m); err != nil {
			panic(err)
		}
		config, layer := m.Config.Digest.Hex+".json", m.Layers[0].Digest.Hex+"/layer.tar"
		entries = append(entries, file(config, string(b.blobs[m.Config.Digest.String()])), file(layer, string(b.blobs[m.Layers[0].Digest.String()])))
		link := m.Layers[0].Digest.Hex + "/link.tar"
		entries = append(entries, entry{name: link, kind: tar.TypeSymlink, to: "../" + layer})
		list = append(list, savedImage{Config: config, RepoTags: []string{name}, Layers: []string{link}})
	}
	return layerOf(append(entries, file("manifest.json", string(must(json.Marshal(list)))))...)
}

// layoutFiles are those of an OCI layout with images by name.
func layoutFiles(images map[string]*built) []entry {
	entries := []entry{file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`)}
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	for name, b := range images {
		for digest, data := range b.blobs {
			entries = append(entries, file("blobs/sha256/"+strings.TrimPrefix(digest, "sha256:"), string(data)))
		}
		entries = append(entries, file("blobs/sha256/"+strings.TrimPrefix(digestOf(b.manifest), "sha256:"), string(b.manifest)))
		platform := must(parsePlatform(""))
		index.Manifests = append(index.Manifests, v1.Descriptor{
			MediaType: types.OCIManifestSchema1, Size: int64(len(b.manifest)), Digest: must(v1.NewHash(digestOf(b.manifest))),
			Annotations: map[string]string{nameAnnotations[0]: name}, Platform: &platform,
		})
	}
	return append(entries, file("index.json", string(must(json.Marshal(index)))))
}

func write(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestArchivesAndLayoutsAreImages(t *testing.T) {
	two := map[string]*built{
		"one": assembled(gzipped, nil, layerOf(file("f", "one"))),
		"two": assembled(zstandard, nil, layerOf(file("f", "two"))),
	}
	layoutDir := t.TempDir()
	if err := Unpack(bytes.NewReader(layerOf(layoutFiles(two)...)), layoutDir, UnpackLimits{}); err != nil {
		t.Fatal(err)
	}
	single := write(t, "saved.tar", savedTar(map[string]string{"app:1": "one"}))
	several := write(t, "several.tar.gz", gzipped(savedTar(map[string]string{"app:1": "one", "app:2": "two"})))
	oci := write(t, "oci.tar", layerOf(layoutFiles(two)...))
	for ref, want := range map[string]string{
		"docker-archive:" + single:             "one",
		"docker-archive:" + single + ":app:1":  "one",
		"docker-archive:" + several + ":app:2": "two",
		"oci-archive:" + oci + ":one":          "one",
		"oci:" + layoutDir + ":two":            "two",
		"docker-archive:" + several:            "invalid",
		"docker-archive:" + single + ":app:3":  "not found",
		"oci:" + layoutDir + ":three":          "not found",
		"oci:" + layoutDir + "/missing":        "not found",
		"docker-archive:" + oci:                "invalid",
		"oci-archive:" + single:                "invalid",
		"docker-archive:/dev/null":             "invalid",
		"oci-archive:" + layoutDir:             "invalid",
	} {
		t.Run(strings.NewReplacer(layoutDir, "DIR", filepath.Dir(single), "", filepath.Dir(several), "", filepath.Dir(oci), "").Replace(ref), func(t *testing.T) {
			store := newStore(t, Options{})
			_, err := store.Pull(context.Background(), PullRequest{Reference: ref}, nil)
			if err != nil {
				if string(cove.CodeOf(err).Error()) != want {
					t.Errorf("got %v, want %s", err, want)
				}
				return
			}
			if got := read(t, pulled(t, store, ref), "f"); got != want {
				t.Errorf("got %q, want %s", got, want)
			}
		})
	}
}

func TestArchiveThatHasChangedIsReadAgain(t *testing.T) {
	path := write(t, "saved.tar", savedTar(map[string]string{"app:1": "one"}))
	store := newStore(t, Options{})
	ref := "docker-archive:" + path
	if got := read(t, pulled(t, store, ref), "f"); got != "one" {
		t.Errorf("got %q", got)
	}
	if err := os.WriteFile(path, savedTar(map[string]string{"app:1": "other"}), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := read(t, pulled(t, store, ref), "f"); got != "other" {
		t.Errorf("got %q, want what it has now", got)
	}
}

func TestLayoutReachesNothingOutsideItself(t *testing.T) {
	outside := write(t, "secret", []byte(`{"schemaVersion":2,"config":{},"layers":[]}`))
	b := assembled(plain, nil, layerOf(file("f", "x")))
	dir := t.TempDir()
	if err := Unpack(bytes.NewReader(layerOf(layoutFiles(map[string]*built{"a": b})...)), dir, UnpackLimits{}); err != nil {
		t.Fatal(err)
	}
	layer := filepath.Join(dir, "blobs/sha256", strings.TrimPrefix(b.layers[0], "sha256:"))
	if err := errors.Join(os.Remove(layer), os.Symlink(outside, layer)); err != nil {
		t.Fatal(err)
	}
	_, err := newStore(t, Options{}).Pull(context.Background(), PullRequest{Reference: "oci:" + dir}, nil)
	if err == nil || strings.Contains(err.Error(), "digest") {
		t.Errorf("got %v, want that it is not opened", err)
	}
}

func TestImportRecognisesWhatItGets(t *testing.T) {
	b := assembled(gzipped, nil, layerOf(file("f", "oci")))
	for name, test := range map[string]struct {
		data []byte
		want string
	}{
		"what docker save wrote":               {savedTar(map[string]string{"app:1": "saved"}), "saved"},
		"an OCI layout":                        {layerOf(layoutFiles(map[string]*built{"x": b})...), "oci"},
		"a root filesystem":                    {layerOf(file("f", "tree")), "tree"},
		"a root filesystem, gzip":              {gzipped(layerOf(file("f", "tree"))), "tree"},
		"a root filesystem, zstd":              {zstandard(layerOf(file("f", "tree"))), "tree"},
		"a root filesystem with manifest.json": {layerOf(file("f", "x"), file("manifest.json", "{}")), "invalid"},
		"noise":                                {bytes.Repeat([]byte("noise"), 1000), "invalid"},
		"nothing":                              {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			store := newStore(t, Options{})
			image, err := store.Import(context.Background(), "team/base:1", bytes.NewReader(test.data), nil)
			if err != nil {
				if cove.CodeOf(err).Error() != test.want {
					t.Errorf("got %v, want %s", err, test.want)
				}
				return
			}
			if image.Reference != "team/base:1" || image.Digest == "" {
				t.Errorf("got %+v", image)
			}
			root := must(store.Resolve(context.Background(), "docker.io/team/base:1"))
			if test.want != "" && read(t, root, "f") != test.want {
				t.Errorf("got another tree than %s", test.want)
			}
		})
	}
	for _, name := range []string{"host", "docker-archive:/x", "a@" + digestOf(nil), "UPPER:x", ""} {
		if _, err := newStore(t, Options{}).Import(context.Background(), name, bytes.NewReader(layerOf()), nil); !errors.Is(err, cove.Invalid) {
			t.Errorf("the name %q: got %v, want invalid", name, err)
		}
	}
}

func TestEngineGivesItsImages(t *testing.T) {
	id := "sha256:" + strings.Repeat("1", 64)
	saves := 0
	engine := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/_ping"):
			rw.Header().Set("Api-Version", "1.44")
		case strings.HasSuffix(r.URL.Path, "/images/app:dev/json"):
			_, _ = io.WriteString(rw, `{"Id":"`+id+`"}`)
		case strings.HasSuffix(r.URL.Path, "/images/get"):
			saves++
			_, _ = rw.Write(savedTar(map[string]string{"app:dev": "from the engine " + id[7:8]}))
		default:
			rw.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(rw, `{"message":"no such image"}`)
		}
	}))
	defer engine.Close()
	store := newStore(t, Options{})
	t.Setenv("DOCKER_HOST", "tcp://"+strings.TrimPrefix(engine.URL, "http://"))
	t.Setenv("DOCKER_TLS_VERIFY", "")
	for range 2 {
		if got := read(t, pulled(t, store, "docker-daemon:app:dev"), "f"); got != "from the engine 1" {
			t.Errorf("got %q", got)
		}
	}
	if saves != 1 {
		t.Errorf("it was saved %d times, want once for one id", saves)
	}
	id = "sha256:" + strings.Repeat("2", 64)
	if got := read(t, pulled(t, store, "docker-daemon:app:dev"), "f"); got != "from the engine 2" {
		t.Errorf("after a change: got %q", got)
	}
	_, err := store.Pull(context.Background(), PullRequest{Reference: "docker-daemon:missing"}, nil)
	if !errors.Is(err, cove.NotFound) {
		t.Errorf("missing: got %v, want not found", err)
	}
	engine.Close()
	if _, err = store.Pull(context.Background(), PullRequest{Reference: "docker-daemon:app:dev"}, nil); !errors.Is(err, cove.Unavailable) {
		t.Errorf("without an engine: got %v, want unavailable", err)
	}
}
