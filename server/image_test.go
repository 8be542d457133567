package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
	"github.com/covehq/cove/sandbox"
	"github.com/covehq/cove/sandbox/driver"
	"github.com/covehq/cove/store/sqlite"
)

// gallery is a driver with images, by name.
type gallery struct {
	memory
	mu     sync.Mutex
	images map[string]cove.Image
}

var _ interface {
	driver.Imager
	driver.ImageKeeper
} = (*gallery)(nil)

func (g *gallery) find(name string) (*cove.Image, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	image, ok := g.images[name]
	if !ok {
		return nil, cove.Errorf(cove.NotFound, "", "", "no such image", "check its name")
	}
	return &image, nil
}

func (g *gallery) Image(ctx context.Context, spec *cove.Spec, progress func(cove.PullProgress)) (*cove.Image, error) {
	if progress != nil {
		progress(cove.PullProgress{Phase: "pulling", Layers: 2, Complete: 1, Bytes: 5, Total: 10})
		progress(cove.PullProgress{Phase: "done"})
	}
	if spec.Image == "endless" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return g.find(spec.Image)
}

func (g *gallery) Images(context.Context) ([]cove.Image, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []cove.Image
	for _, image := range g.images {
		list = append(list, image)
	}
	slices.SortFunc(list, func(a, b cove.Image) int { return strings.Compare(a.Reference, b.Reference) })
	return list, nil
}

func (g *gallery) ImportImage(_ context.Context, name string, archive io.Reader, _ func(cove.PullProgress)) (*cove.Image, error) {
	hash := sha256.New()
	n, err := io.Copy(hash, archive)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	image := cove.Image{Reference: name, Digest: fmt.Sprintf("sha256:%x", hash.Sum(nil)), Size: cove.Bytes(n)}
	g.images[name] = image
	return &image, nil
}

func (g *gallery) RemoveImage(_ context.Context, reference string, _ func(string) bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.images[reference]; !ok {
		return cove.Errorf(cove.NotFound, "", "", "no such image", "")
	}
	delete(g.images, reference)
	return nil
}

func (g *gallery) PruneImages(ctx context.Context, _ func(string) bool) ([]cove.Image, error) {
	list, err := g.Images(ctx)
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.images)
	return list, err
}

// newGallery serves a host with images to a client.
func newGallery(t *testing.T, o Options) (*client.Client, *httptest.Server) {
	t.Helper()
	records, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { records.Close() })
	images := &gallery{images: map[string]cove.Image{
		"ghcr.io/team/app:1": {Reference: "ghcr.io/team/app:1", Digest: "sha256:1", Config: cove.ImageConfig{Cmd: []string{"/app"}}},
	}}
	o.Host, err = sandbox.Open(context.WithoutCancel(t.Context()), sandbox.Options{
		Store: records, Default: "gallery", Logger: slog.New(slog.DiscardHandler),
		Drivers: map[string]driver.Opener{"gallery": func(string) (driver.Driver, error) { return images, nil }},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Host.Close(context.Background()) })
	server := httptest.NewServer(New(o))
	t.Cleanup(server.Close)
	c, err := client.New(client.Options{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, server
}

func TestImagesByTheAPI(t *testing.T) {
	ctx := t.Context()
	c, _ := newGallery(t, Options{})
	const name = "ghcr.io/team/app:1"
	var seen []cove.PullProgress
	for _, progress := range []func(cove.PullProgress){nil, func(p cove.PullProgress) { seen = append(seen, p) }} {
		image, err := c.PullImage(ctx, cove.ImagePull{Reference: name}, progress)
		if err != nil || image.Digest != "sha256:1" || !slices.Equal(image.Config.Cmd, []string{"/app"}) {
			t.Errorf("pull: got %+v, %v", image, err)
		}
		if _, err := c.PullImage(ctx, cove.ImagePull{Reference: "missing"}, progress); !errors.Is(err, cove.NotFound) || cove.HintOf(err) == "" {
			t.Errorf("pull of what is not there: got %v, want not found, with a hint", err)
		}
		if _, err := c.PullImage(ctx, cove.ImagePull{Reference: name, Pull: "sometimes"}, progress); !errors.Is(err, cove.Invalid) {
			t.Errorf("a policy that is none: got %v, want invalid", err)
		}
	}
	want := []cove.PullProgress{{Phase: "pulling", Layers: 2, Complete: 1, Bytes: 5, Total: 10}, {Phase: "done"}}
	if diff := cmp.Diff(slices.Concat(want, want), seen); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
	if image, err := c.Image(ctx, "", name); err != nil || image.Reference != name {
		t.Errorf("get: got %+v, %v", image, err)
	}
	archive := bytes.Repeat([]byte("tar"), 3<<20) // more than a JSON body may have
	image, err := c.ImportImage(ctx, "gallery", "team/base:1", bytes.NewReader(archive))
	if err != nil || image.Size != cove.Bytes(len(archive)) || image.Digest != fmt.Sprintf("sha256:%x", sha256.Sum256(archive)) {
		t.Errorf("import: got %+v, %v", image, err)
	}
	if list, err := c.Images(ctx, ""); err != nil || len(list) != 2 {
		t.Errorf("list: got %+v, %v, want two", list, err)
	}
	if err := c.RemoveImage(ctx, "", "team/base:1"); err != nil {
		t.Errorf("remove: %v", err)
	}
	if err := c.RemoveImage(ctx, "", "team/base:1"); !errors.Is(err, cove.NotFound) {
		t.Errorf("remove twice: got %v, want not found", err)
	}
	if pruned, err := c.PruneImages(ctx, ""); err != nil || len(pruned) != 1 {
		t.Errorf("prune: got %v, %v, want one", pruned, err)
	}
	if _, err := c.Images(ctx, "missing"); !errors.Is(err, cove.Invalid) {
		t.Errorf("images of no runtime: got %v, want invalid", err)
	}
	for _, odd := range []string{"", ".", "..", "a/../b", "%2e%2e", "a?b#c"} {
		if _, err := c.Image(ctx, "", odd); cove.CodeOf(err) != cove.NotFound {
			t.Errorf("%q: got %v, want not found", odd, err)
		}
	}
}

func TestPullEndsWithItsRequest(t *testing.T) {
	c, _ := newGallery(t, Options{})
	for _, streaming := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		progress := func(cove.PullProgress) { cancel() }
		if !streaming {
			progress = nil
			time.AfterFunc(20*time.Millisecond, cancel)
		}
		_, err := c.PullImage(ctx, cove.ImagePull{Reference: "endless"}, progress)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("streaming %v: got %v, want canceled", streaming, err)
		}
		cancel()
	}
	// Closing the host, at the end, would wait for a pull that goes on.
}

func TestImportWhoseSenderDawdlesEnds(t *testing.T) {
	_, server := newGallery(t, Options{BodyTimeout: 50 * time.Millisecond})
	body, feed := io.Pipe()
	defer feed.Close()
	go func() { _, _ = feed.Write([]byte("a little")) }()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/v1/images/import?name=x", body)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-tar")
	reply, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("got %s, want 504", reply.Status)
	}
}
