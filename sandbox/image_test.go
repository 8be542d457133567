package sandbox

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox/driver"
)

// gallery is a world whose driver has images, by reference.
type gallery struct {
	*world

	images map[string]cove.ImageConfig
	// pull, if not nil, is called by Image.
	pull func(ctx context.Context, spec *cove.Spec, progress func(cove.PullProgress)) error

	mu      sync.Mutex
	created []*cove.Spec // as Create got them
	removed []string
}

var _ interface {
	driver.Imager
	driver.ImageKeeper
} = (*gallery)(nil)

func newGallery(t *testing.T, o Options, images map[string]cove.ImageConfig) (*rig, *gallery) {
	t.Helper()
	g := &gallery{world: newWorld(), images: images}
	g.info.Features = []cove.Feature{cove.FeatureOCI, cove.FeaturePlatform}
	o.Drivers = map[string]driver.Opener{"test": opener(g), "plain": opener(newWorld())}
	return openRig(t, g.world, t.TempDir(), o), g
}

func (g *gallery) Image(ctx context.Context, spec *cove.Spec, progress func(cove.PullProgress)) (*cove.Image, error) {
	if g.pull != nil {
		if err := g.pull(ctx, spec, progress); err != nil {
			return nil, err
		}
	}
	config, ok := g.images[spec.Image]
	if !ok {
		return nil, cove.Errorf(cove.NotFound, "", "", "no such image", "check its name")
	}
	return &cove.Image{Reference: spec.Image, Digest: "sha256:" + spec.Image, Config: config}, nil
}

func (g *gallery) Create(ctx context.Context, id string, spec *cove.Spec) (driver.Machine, error) {
	g.mu.Lock()
	g.created = append(g.created, spec)
	g.mu.Unlock()
	return g.world.Create(ctx, id, spec)
}

func (g *gallery) Images(context.Context) ([]cove.Image, error) {
	var list []cove.Image
	for _, name := range slices.Sorted(maps.Keys(g.images)) {
		list = append(list, cove.Image{Reference: name, Digest: "sha256:" + name})
	}
	return list, nil
}

func (g *gallery) ImportImage(_ context.Context, name string, archive io.Reader, _ func(cove.PullProgress)) (*cove.Image, error) {
	data, err := io.ReadAll(archive)
	return &cove.Image{Reference: name, Digest: "sha256:" + string(data)}, err
}

func (g *gallery) RemoveImage(_ context.Context, reference string, used func(string) bool) error {
	if used("sha256:" + reference) {
		return cove.Errorf(cove.Conflict, "", "", "it is used", "")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.removed = append(g.removed, reference)
	return nil
}

func (g *gallery) PruneImages(ctx context.Context, used func(string) bool) ([]cove.Image, error) {
	list, err := g.Images(ctx)
	return slices.DeleteFunc(list, func(i cove.Image) bool { return used(i.Digest) }), err
}

// last is the spec of the last sandbox.
func (g *gallery) last() *cove.Spec {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.created[len(g.created)-1]
}

func TestImageFillsInWhatTheSpecLeavesOpen(t *testing.T) {
	for name, test := range map[string]struct {
		config cove.ImageConfig
		asked  cove.Spec
		want   cove.Spec
	}{
		"an image that says nothing": {
			want: cove.Spec{User: "user", Workdir: "/workspace"},
		},
		"an image that says everything": {
			config: cove.ImageConfig{Env: []string{"A=1", "B=2=3"}, User: "app", Workdir: "/srv"},
			want:   cove.Spec{User: "app", Workdir: "/srv", Env: map[string]string{"A": "1", "B": "2=3"}},
		},
		"a spec that says it too": {
			config: cove.ImageConfig{Env: []string{"A=1", "B=2"}, User: "app", Workdir: "/srv"},
			asked:  cove.Spec{User: "user", Workdir: "/workspace", Env: map[string]string{"A": "mine", "C": "3"}},
			want:   cove.Spec{User: "user", Workdir: "/workspace", Env: map[string]string{"A": "mine", "B": "2", "C": "3"}},
		},
		"root, which most images are by mistake":   {config: cove.ImageConfig{User: "root"}, want: cove.Spec{User: "user", Workdir: "/workspace"}},
		"root by number":                           {config: cove.ImageConfig{User: "0"}, want: cove.Spec{User: "user", Workdir: "/workspace"}},
		"root by its number in another form":       {config: cove.ImageConfig{User: "000:5"}, want: cove.Spec{User: "user", Workdir: "/workspace"}},
		"a user of root's group":                   {config: cove.ImageConfig{User: "1001:0"}, want: cove.Spec{User: "1001", Workdir: "/workspace"}},
		"a pair":                                   {config: cove.ImageConfig{User: "1001:7"}, want: cove.Spec{User: "1001:7", Workdir: "/workspace"}},
		"the root directory, where nobody writes":  {config: cove.ImageConfig{Workdir: "/"}, want: cove.Spec{User: "user", Workdir: "/workspace"}},
		"root is what the spec asks for":           {config: cove.ImageConfig{User: "app"}, asked: cove.Spec{User: "root"}, want: cove.Spec{User: "root", Workdir: "/workspace"}},
		"what it runs is not run by a sandbox":     {config: cove.ImageConfig{Entrypoint: []string{"/x"}}, want: cove.Spec{User: "user", Workdir: "/workspace"}},
		"its ports and volumes are not the spec's": {config: cove.ImageConfig{Ports: []string{"80/tcp"}, Volumes: []string{"/data"}}, want: cove.Spec{User: "user", Workdir: "/workspace"}},
	} {
		t.Run(name, func(t *testing.T) {
			r, g := newGallery(t, Options{}, map[string]cove.ImageConfig{"app": test.config})
			test.asked.Image = "app"
			s := r.create(test.asked)
			for who, got := range map[string]cove.Spec{"the driver": *g.last(), "the view": s.View().Spec} {
				if got.User != test.want.User || got.Workdir != test.want.Workdir || cmp.Diff(got.Env, test.want.Env) != "" || len(got.Ports)+len(got.Mounts) != 0 {
					t.Errorf("%s: got user %q, workdir %q, env %v, want %q, %q, %v", who, got.User, got.Workdir, got.Env, test.want.User, test.want.Workdir, test.want.Env)
				}
			}
		})
	}
}

func TestT09AbsurdValuesOfAnImageAreErrorsThatNameIt(t *testing.T) {
	for name, config := range map[string]cove.ImageConfig{
		"a variable with NUL":          {Env: []string{"A=\x00"}},
		"a variable without a name":    {Env: []string{"=1"}},
		"an environment that is huge":  {Env: []string{"A=" + strings.Repeat("x", 1<<20)}},
		"a user that is an option":     {User: "--privileged"},
		"a user that does not end":     {User: strings.Repeat("a", 5000)},
		"a user that the kernel fears": {User: "4294967295"},
		"a workdir that is relative":   {Workdir: "srv"},
		"a workdir with an escape":     {Workdir: "/\x1b[2J"},
		"a workdir that does not end":  {Workdir: "/" + strings.Repeat("a", 5000)},
	} {
		t.Run(name, func(t *testing.T) {
			r, g := newGallery(t, Options{}, map[string]cove.ImageConfig{"evil": config})
			_, err := r.Create(t.Context(), cove.Spec{Image: "evil"}, CreateOptions{})
			if !errors.Is(err, cove.Invalid) || !strings.Contains(err.Error(), "evil") {
				t.Errorf("got %v, want invalid, with the image's name", err)
			}
			if len(g.created) != 0 || len(r.records()) != 0 {
				t.Errorf("created: %v, records: %v, want none", g.created, r.records())
			}
		})
	}
}

func TestPullHoldsNoPlaceOfThoseThatBoot(t *testing.T) {
	pulling, let := make(chan struct{}), make(chan struct{})
	r, g := newGallery(t, Options{MaxBoots: 1}, map[string]cove.ImageConfig{"slow": {}})
	g.pull = func(ctx context.Context, _ *cove.Spec, _ func(cove.PullProgress)) error {
		close(pulling)
		select {
		case <-let:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	done := make(chan error, 1)
	go func() {
		_, err := r.Create(context.Background(), cove.Spec{Image: "slow"}, CreateOptions{})
		done <- err
	}()
	<-pulling
	r.create(cove.Spec{}) // while the other one waits
	close(let)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestPullEndsWithTheRequestTheHostAndItsTime(t *testing.T) {
	forever := func(ctx context.Context, _ *cove.Spec, _ func(cove.PullProgress)) error {
		<-ctx.Done()
		return ctx.Err()
	}
	t.Run("the request", func(t *testing.T) {
		r, g := newGallery(t, Options{}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		g.pull = func(ctx context.Context, s *cove.Spec, p func(cove.PullProgress)) error {
			cancel()
			return forever(ctx, s, p)
		}
		if _, err := r.Create(ctx, cove.Spec{Image: "slow"}, CreateOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want canceled", err)
		}
	})
	t.Run("its time", func(t *testing.T) {
		r, g := newGallery(t, Options{PullTimeout: time.Millisecond}, nil)
		g.pull = forever
		if _, err := r.Create(t.Context(), cove.Spec{Image: "slow"}, CreateOptions{}); !errors.Is(err, cove.Timeout) || !strings.Contains(err.Error(), "1ms") {
			t.Errorf("got %v, want a time-out", err)
		}
	})
	t.Run("the host", func(t *testing.T) {
		r, g := newGallery(t, Options{}, nil)
		begun := make(chan struct{})
		g.pull = func(ctx context.Context, s *cove.Spec, p func(cove.PullProgress)) error {
			close(begun)
			return forever(ctx, s, p)
		}
		done := make(chan error, 1)
		go func() {
			_, err := r.PullImage(context.Background(), cove.ImagePull{Reference: "slow"}, nil)
			done <- err
		}()
		<-begun
		if err := r.Host.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, cove.Unavailable) {
			t.Errorf("got %v, want unavailable", err)
		}
	})
}

func TestFingerprintIsOfWhatWasAsked(t *testing.T) {
	r, g := newGallery(t, Options{}, map[string]cove.ImageConfig{"app": {User: "app", Env: []string{"A=1"}}})
	first, err := r.Create(t.Context(), cove.Spec{Image: "app"}, CreateOptions{IdempotencyKey: "k"})
	if err != nil {
		t.Fatal(err)
	}
	g.images["app"] = cove.ImageConfig{User: "other"} // its tag has moved
	again, err := r.Create(t.Context(), cove.Spec{Image: "app"}, CreateOptions{IdempotencyKey: "k"})
	if err != nil || again != first {
		t.Errorf("the same request: got %v, %v, want the same sandbox", again, err)
	}
	if _, err = r.Create(t.Context(), cove.Spec{Image: "app", User: "user"}, CreateOptions{IdempotencyKey: "k"}); !errors.Is(err, cove.Conflict) {
		t.Errorf("another request: got %v, want a conflict", err)
	}
}

func TestImageOfALivingSandboxIsUsed(t *testing.T) {
	r, g := newGallery(t, Options{}, map[string]cove.ImageConfig{"app": {}, "idle": {}})
	s := r.create(cove.Spec{Image: "app"})
	if err := r.RemoveImage(t.Context(), "", "app"); !errors.Is(err, cove.Conflict) {
		t.Errorf("while it lives: got %v, want a conflict", err)
	}
	pruned, err := r.PruneImages(t.Context(), "")
	if err != nil || len(pruned) != 1 || pruned[0].Reference != "idle" {
		t.Errorf("pruned %v, %v, want the idle one", pruned, err)
	}
	r.shut()
	again := openRig(t, g.world, r.dir, Options{Drivers: map[string]driver.Opener{"test": opener(g)}})
	if err := again.RemoveImage(t.Context(), "", "app"); !errors.Is(err, cove.Conflict) {
		t.Errorf("after a restart: got %v, want a conflict", err)
	}
	living, err := again.Sandbox(t.Context(), s.ID())
	if err == nil {
		err = living.Destroy(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := again.RemoveImage(t.Context(), "", "app"); err != nil || !slices.Equal(g.removed, []string{"app"}) {
		t.Errorf("at its end: %v, removed %v", err, g.removed)
	}
}

func TestImagesAreThoseOfARuntime(t *testing.T) {
	r, _ := newGallery(t, Options{}, map[string]cove.ImageConfig{"app": {User: "app"}})
	ctx := t.Context()
	if list, err := r.Images(ctx, ""); err != nil || len(list) != 1 {
		t.Errorf("list: %v, %v", list, err)
	}
	for _, reference := range []string{"app", "sha256:app"} {
		if image, err := r.Image(ctx, "test", reference, ""); err != nil || image.Digest != "sha256:app" {
			t.Errorf("%s: %v, %v", reference, image, err)
		}
	}
	if _, err := r.Image(ctx, "", "missing", ""); !errors.Is(err, cove.NotFound) {
		t.Errorf("missing: %v, want not found", err)
	}
	if image, err := r.ImportImage(ctx, "", "new", strings.NewReader("abc"), nil); err != nil || image.Digest != "sha256:abc" {
		t.Errorf("import: %v, %v", image, err)
	}
	var seen []cove.PullProgress
	if image, err := r.PullImage(ctx, cove.ImagePull{Reference: "app"}, func(p cove.PullProgress) { seen = append(seen, p) }); err != nil || image.Config.User != "app" {
		t.Errorf("pull: %v, %v", image, err)
	}
	if _, err := r.Images(ctx, "plain"); !errors.Is(err, cove.NotSupported) {
		t.Errorf("a runtime without images: %v, want unsupported", err)
	}
	if _, err := r.Create(ctx, cove.Spec{Runtime: "plain", Image: "app"}, CreateOptions{}); !errors.Is(err, cove.NotSupported) {
		t.Errorf("a sandbox of it: %v, want unsupported", err)
	}
	for name, request := range map[string]cove.ImagePull{
		"no reference":          {},
		"a policy that is none": {Reference: "app", Pull: "sometimes"},
		"a reference with NUL":  {Reference: "a\x00b"},
		"a runtime that is no":  {Reference: "app", Runtime: "../x"},
	} {
		if _, err := r.PullImage(ctx, request, nil); !errors.Is(err, cove.Invalid) {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
}
