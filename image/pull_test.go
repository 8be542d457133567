package image

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/covehq/cove"
)

func TestPullUnpacksLayersOfEveryCompression(t *testing.T) {
	for name, pack := range map[string]func([]byte) []byte{"gzip": gzipped, "zstd": zstandard, "none": plain} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			ref := w.push("app", assembled(pack, func(c *configFile) {
				c.Config.Env = []string{"PATH=/usr/bin", "A=b=c"}
				c.Config.WorkingDir, c.Config.User = "/srv/app/", "daemon"
				c.Config.Entrypoint, c.Config.Cmd = []string{"/run"}, []string{"it"}
				c.Config.ExposedPorts = map[string]struct{}{"8000/tcp": {}}
				c.Config.Volumes = map[string]struct{}{"/data": {}}
			}, layerOf(folder("bin"), file("bin/sh", "one")), layerOf(file("bin/sh", "two"), file("etc/x", "y"))))
			store := newStore(t, Options{})
			var phases []string
			image, err := store.Pull(context.Background(), PullRequest{Reference: ref}, func(p cove.PullProgress) { phases = append(phases, p.Phase) })
			if err != nil {
				t.Fatal(err)
			}
			want := cove.ImageConfig{
				Env: []string{"PATH=/usr/bin", "A=b=c"}, Workdir: "/srv/app", User: "daemon",
				Entrypoint: []string{"/run"}, Cmd: []string{"it"}, Ports: []string{"8000/tcp"}, Volumes: []string{"/data"},
			}
			if diff := cmp.Diff(want, image.Config); diff != "" {
				t.Errorf("config (-want +got):\n%s", diff)
			}
			if image.Reference != ref+":latest" || image.Digest == "" || image.Size != 7 || image.CreatedAt == nil || image.UsedAt != nil {
				t.Errorf("got %+v", image)
			}
			if len(phases) == 0 || phases[len(phases)-1] != "done" {
				t.Errorf("progress: got %v, want it to end in done", phases)
			}
			root := pulled(t, store, ref)
			if got := read(t, root, "bin/sh") + read(t, root, "etc/x"); got != "twoy" {
				t.Errorf("got %q, want the upper layer's", got)
			}
			if info, err := os.Stat(filepath.Join(root.Dir, "srv/app")); err != nil || !info.IsDir() {
				t.Errorf("workdir: %v", err)
			}
			if len(root.Volumes) != 1 || root.Volumes[0].Path != "/data" || root.Over == "" {
				t.Errorf("got %+v", root)
			}
		})
	}
}

func TestPullPolicySaysWhenTheRegistryIsAsked(t *testing.T) {
	w := newWorld(t, nil)
	ref := w.push("app", assembled(gzipped, nil, layerOf(file("v", "1"))))
	store := newStore(t, Options{})
	pull := func(policy cove.PullPolicy) (*cove.Image, error) {
		return store.Pull(context.Background(), PullRequest{Reference: ref, Policy: policy}, nil)
	}
	if _, err := pull(cove.PullNever); !errors.Is(err, cove.NotFound) || w.requests("/") != 0 {
		t.Errorf("never: got %v after %d requests, want not found and none", err, w.requests("/"))
	}
	first, err := pull(cove.PullMissing)
	if err != nil {
		t.Fatal(err)
	}
	asked := w.requests("manifests")
	w.push("app", assembled(gzipped, nil, layerOf(file("v", "2"))))
	for _, policy := range []cove.PullPolicy{cove.PullMissing, cove.PullNever, ""} {
		if again, err := pull(policy); err != nil || again.Digest != first.Digest || w.requests("manifests") != asked {
			t.Errorf("%s: got %v, %v, want the image that is here, unasked", policy, again, err)
		}
	}
	newer, err := pull(cove.PullAlways)
	if err != nil || newer.Digest == first.Digest {
		t.Fatalf("always: got %v, %v, want the newer image", newer, err)
	}
	if got := read(t, pulled(t, store, ref), "v"); got != "2" {
		t.Errorf("got version %s, want 2", got)
	}
}

func TestPullGoesOnWhereAConnectionWasCut(t *testing.T) {
	const cutAt = 100_000
	content := strings.Repeat("0123456789abcdef", 20_000)
	image := assembled(plain, nil, layerOf(file("big", content)))
	cuts := 0
	var inner *world
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, image.layers[0]) || cuts >= 2 {
			return false
		}
		cuts++
		data := image.blobs[image.layers[0]]
		status, from := http.StatusOK, 0
		if r.Header.Get("Range") == "bytes=100000-321535" {
			status, from = http.StatusPartialContent, cutAt
			rw.Header().Set("Content-Range", "bytes 100000-400000/400001")
		}
		rw.Header().Set("Content-Length", "300000")
		rw.WriteHeader(status)
		_, _ = rw.Write(data[from : from+cutAt])
		_ = http.NewResponseController(rw).Flush()
		panic(http.ErrAbortHandler)
	})
	inner = w
	ref := w.push("app", image)
	root := pulled(t, newStore(t, Options{}), ref)
	if got := read(t, root, "big"); got != content {
		t.Errorf("got %d bytes, want %d", len(got), len(content))
	}
	if inner.requests("bytes=100000-") != 1 || inner.requests("bytes=200000-") != 1 {
		t.Errorf("requests: got %v, want two that go on", inner.seen)
	}
}

func TestPullThatWasInterruptedGoesOnInAnotherProcess(t *testing.T) {
	content := strings.Repeat("x", 300_000)
	image := assembled(plain, nil, layerOf(file("big", content)))
	broken := true
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) bool {
		if !broken || !strings.Contains(r.URL.Path, image.layers[0]) {
			return false
		}
		rw.Header().Set("Content-Length", "302080")
		_, _ = rw.Write(image.blobs[image.layers[0]][:50_000])
		_ = http.NewResponseController(rw).Flush()
		<-r.Context().Done()
		return true
	})
	ref := w.push("app", image)
	store := newStore(t, Options{})
	_, err := store.Pull(ctx, PullRequest{Reference: ref}, func(p cove.PullProgress) {
		if p.Bytes == 50_000 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want canceled", err)
	}
	broken = false
	again, err := OpenWith(store.dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, pulled(t, again, ref), "big"); got != content {
		t.Errorf("got %d bytes", len(got))
	}
	if w.requests("bytes=50000-") != 1 {
		t.Errorf("requests: got %v, want one that goes on", w.seen)
	}
}

func TestPullRefusesContentOfAnotherDigest(t *testing.T) {
	image := assembled(plain, nil, layerOf(file("f", "what was promised")))
	for name, part := range map[string]string{"a layer": image.layers[0], "a manifest by digest": digestOf(image.manifest)} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, part) {
					return false
				}
				lie := append([]byte{}, image.blobs[part]...)
				if len(lie) == 0 {
					lie = append(append([]byte{}, image.manifest...), ' ')
				} else {
					lie[600] ^= 1
				}
				_, _ = rw.Write(lie)
				return true
			})
			w.push("app", image)
			store := newStore(t, Options{})
			_, err := store.Pull(context.Background(), PullRequest{Reference: w.host + "/app@" + digestOf(image.manifest)}, nil)
			if !errors.Is(err, cove.Invalid) || !strings.Contains(err.Error(), "sha256:") && !strings.Contains(err.Error(), "digest") {
				t.Errorf("got %v, want invalid, about the digest", err)
			}
			if left, _ := filepath.Glob(filepath.Join(store.dir, "image-*")); len(left) > 1 { // its lock
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

var _ = io.EOF
