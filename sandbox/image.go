package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/policy"
	"github.com/covehq/cove/sandbox/driver"
)

// provide makes the image of a complete spec be here and fills in of its configuration
// what the spec was not asked to have. It returns the image's digest, or "" for an image
// that is not fetched from anywhere. The spec is the caller's own.
func (h *Host) provide(ctx context.Context, on *runtime, spec, asked *cove.Spec) (digest string, err error) {
	imager, ok := on.driver.(driver.Imager)
	if !ok || !slices.Contains(spec.Features(), cove.FeatureOCI) {
		return "", nil
	}
	ctx, stop := h.pulling(ctx, spec.Image)
	defer stop()
	image, err := imager.Image(ctx, spec, nil)
	if err != nil {
		return "", interruption(ctx, err)
	}
	if err := applyImage(spec, asked, &image.Config); err != nil {
		return "", err
	}
	return image.Digest, nil
}

// pulling returns the context of a pull: it ends with the caller's and with the host, and
// after the host's time for pulls.
func (h *Host) pulling(ctx context.Context, reference string) (context.Context, context.CancelFunc) {
	overdue := &cove.Error{
		Code: cove.Timeout, ID: quote(reference), Err: fmt.Errorf("the image was not here within %v", h.pullTime),
		Hint: "try again: what has been fetched is kept for a while",
	}
	ctx, stop := context.WithTimeoutCause(ctx, h.pullTime, overdue)
	ctx, cancel := context.WithCancelCause(ctx)
	detach := context.AfterFunc(h.ctx, func() { cancel(context.Cause(h.ctx)) })
	return ctx, func() {
		detach()
		cancel(nil)
		stop()
	}
}

// interruption is why ctx has ended, where that is behind err, and else err.
func interruption(ctx context.Context, err error) error {
	interrupted := errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || cove.CodeOf(err) == cove.Internal
	if ctx.Err() != nil && interrupted {
		return context.Cause(ctx)
	}
	return err
}

// applyImage fills in what an image says of itself. All of it is whoever made the image's:
// what would be refused of a caller is refused of an image, by its name.
func applyImage(spec, asked *cove.Spec, config *cove.ImageConfig) error {
	var p problems
	env := map[string]string{}
	for _, entry := range config.Env {
		key, value, ok := strings.Cut(entry, "=")
		if !ok {
			p.invalid("", "variable %s has no value", quote(entry))
		}
		env[key] = value
	}
	checkEnv(&p, env)
	for key, value := range spec.Env {
		env[key] = value
	}
	if len(env) > 0 {
		spec.Env = env
	}
	if asked.Workdir == "" && config.Workdir != "" && config.Workdir != "/" {
		checkText(&p, "workdir", config.Workdir, "")
		if !path.IsAbs(config.Workdir) {
			p.invalid("", "workdir %s is not absolute", quote(config.Workdir))
		}
		spec.Workdir = config.Workdir
	}
	if user := withoutRoot(config.User); asked.User == "" && user != "" {
		checkUser(&p, user)
		spec.User = user
	}
	if p.code != "" {
		problem := p.err("create")
		return &cove.Error{
			Code: cove.Invalid, ID: quote(spec.Image), Err: fmt.Errorf("the configuration of image %s: %w", quote(spec.Image), errors.New(reason(problem))),
			Hint: "use another image, or make it again without that",
		}
	}
	checkEnv(&p, spec.Env) // together they may be too large
	return p.err("create")
}

// withoutRoot returns the user of an image, or "" for root: that is what most images say
// because they say nothing. It does not take root's group along.
func withoutRoot(user string) string {
	name, group, pair := strings.Cut(user, ":")
	switch {
	case isRoot(name):
		return ""
	case pair && isRoot(group):
		return name
	}
	return user
}

// identity returns the spec whose fingerprint stands for a request: what the image fills
// in is not part of it, nor is what is filled in where an image has nothing to say.
func identity(spec, asked *cove.Spec) *cove.Spec {
	if !slices.Contains(spec.Features(), cove.FeatureOCI) {
		return spec
	}
	copied := *spec
	copied.User, copied.Workdir = asked.User, asked.Workdir
	return &copied
}

// images returns the runtime with that name, the host's own choice for "", and what
// it does with images. The error is cove.NotSupported for one without images.
func (h *Host) images(ctx context.Context, name string) (*runtime, driver.Imager, error) {
	name = cmp.Or(name, h.fallback)
	if !runtimePattern.MatchString(name) {
		return nil, nil, cove.Errorf(cove.Invalid, "", "", "runtime "+quote(name)+" is not a runtime name", "write a runtime as driver or driver:variant, such as gvisor")
	}
	on, err := h.runtime(name)
	if err != nil {
		return nil, nil, err
	}
	imager, ok := on.driver.(driver.Imager)
	if !ok {
		return nil, nil, cove.Errorf(cove.NotSupported, "", name, "runtime "+name+" takes no images but the host's", "choose another runtime: see cove runtime ls")
	}
	if _, err := on.probe(ctx, always); err != nil {
		return nil, nil, err
	}
	return h.keep(on), imager, nil
}

// keeper is images for drivers that have a store of their own.
func (h *Host) keeper(ctx context.Context, name string) (driver.ImageKeeper, error) {
	on, imager, err := h.images(ctx, name)
	if err != nil {
		return nil, err
	}
	keeper, ok := imager.(driver.ImageKeeper)
	if !ok {
		return nil, cove.Errorf(cove.NotSupported, "", on.name, "the images of "+on.name+" are not Cove's to keep", "use the tools of its engine")
	}
	return keeper, nil
}

// PullImage makes sure that an image is here and describes it. progress may be nil; it is
// called from one goroutine at a time and must not block. The errors are those of Create
// for an image.
func (h *Host) PullImage(ctx context.Context, request cove.ImagePull, progress func(cove.PullProgress)) (*cove.Image, error) {
	var image *cove.Image
	err := h.withImages("pull image", request.Reference, func() (err error) {
		image, err = h.pullImage(ctx, request, progress)
		return err
	})
	return image, err
}

func (h *Host) pullImage(ctx context.Context, request cove.ImagePull, progress func(cove.PullProgress)) (*cove.Image, error) {
	spec := cove.Spec{Image: request.Reference, Platform: request.Platform, Pull: cmp.Or(request.Pull, cove.PullMissing)}
	var p problems
	checkImage(&p, &spec)
	h.forbid(&p, func(operator *policy.Policy) []policy.Violation { return operator.CheckImage(spec.Image) })
	h.forbidOwned(ctx, &p, &spec)
	if err := p.err("pull image"); err != nil {
		return nil, err
	}
	on, imager, err := h.images(ctx, request.Runtime)
	if err != nil {
		return nil, err
	}
	spec.Runtime = on.name
	spec = spec.WithDefaults()
	ctx, stop := h.pulling(ctx, request.Reference)
	defer stop()
	image, err := imager.Image(ctx, &spec, progress)
	if err != nil {
		return nil, interruption(ctx, err)
	}
	return image, nil
}

// checkImage notes what is wrong with what a spec says of its image.
func checkImage(p *problems, s *cove.Spec) {
	checkText(p, "image", s.Image, "use an image such as host, rootfs:DIR or python:3.12")
	if !slices.Contains([]cove.PullPolicy{cove.PullMissing, cove.PullAlways, cove.PullNever}, s.Pull) {
		p.invalid("use missing, always or never", "pull %s is not a policy", quote(string(s.Pull)))
	}
	if s.Platform != "" {
		checkText(p, "platform", s.Platform, "write os/architecture, as in linux/amd64")
	}
}

// Images describes the images that a runtime has, by reference.
func (h *Host) Images(ctx context.Context, runtime string) ([]cove.Image, error) {
	var list []cove.Image
	err := h.withImages("list images", "", func() error {
		keeper, err := h.keeper(ctx, runtime)
		if err == nil {
			list, err = keeper.Images(ctx)
		}
		return err
	})
	return list, err
}

// Image describes an image that a runtime has, by a name as in a spec or by its digest. The
// error is cove.NotFound without it.
func (h *Host) Image(ctx context.Context, runtime, reference, platform string) (*cove.Image, error) {
	var found *cove.Image
	err := h.withImages("inspect image", reference, func() error {
		keeper, err := h.keeper(ctx, runtime)
		if err != nil {
			return err
		}
		list, err := keeper.Images(ctx)
		if err != nil {
			return err
		}
		for i, image := range list {
			if (image.Reference == reference || image.Digest == reference) && (platform == "" || image.Platform == platform) {
				found = &list[i]
				return nil
			}
		}
		// People write a name in many ways, which its driver knows.
		found, err = h.pullImage(ctx, cove.ImagePull{Reference: reference, Runtime: runtime, Platform: platform, Pull: cove.PullNever}, nil)
		return err
	})
	return found, err
}

// RemoveImage takes a name from an image, and removes it with the last one. The error is
// cove.Conflict while a sandbox that was made of it lives.
func (h *Host) RemoveImage(ctx context.Context, runtime, reference string) error {
	return h.withImages("remove image", reference, func() error {
		keeper, err := h.keeper(ctx, runtime)
		if err == nil {
			err = keeper.RemoveImage(ctx, reference, h.usesImage)
		}
		return err
	})
}

// PruneImages removes the images of which no living sandbox was made, and returns them.
func (h *Host) PruneImages(ctx context.Context, runtime string) ([]cove.Image, error) {
	var pruned []cove.Image
	err := h.withImages("prune images", "", func() error {
		keeper, err := h.keeper(ctx, runtime)
		if err == nil {
			pruned, err = keeper.PruneImages(ctx, h.usesImage)
		}
		return err
	})
	return pruned, err
}

// ImportImage puts the image of an archive among those that a runtime has, under a name.
// Reading of the archive ends with ctx where its own reads do.
func (h *Host) ImportImage(ctx context.Context, runtime, name string, archive io.Reader, progress func(cove.PullProgress)) (*cove.Image, error) {
	var image *cove.Image
	err := h.withImages("import image", name, func() error {
		var p problems
		checkText(&p, "name", name, "use a name such as team/base:1")
		h.forbid(&p, func(operator *policy.Policy) []policy.Violation { return operator.CheckImport(name) })
		if err := p.err("import image"); err != nil {
			return err
		}
		keeper, err := h.keeper(ctx, runtime)
		if err != nil {
			return err
		}
		ctx, stop := h.pulling(ctx, name)
		defer stop()
		image, err = keeper.ImportImage(ctx, name, archive, progress)
		if err != nil {
			return interruption(ctx, err)
		}
		return nil
	})
	return image, err
}

// usesImage reports whether a living sandbox was made of the image, or is being made. A
// sandbox is known before its driver looks for the image.
func (h *Host) usesImage(digest string) bool {
	return slices.ContainsFunc(h.all(), func(s *Sandbox) bool {
		r := s.snapshot()
		return r.Image == digest && !r.Ended()
	})
}

// withImages does something with images, that Close waits for.
func (h *Host) withImages(op, subject string, do func() error) error {
	if !h.enter() {
		return cove.Wrap(errClosed, op, "")
	}
	defer h.tasks.Done()
	if len(subject) > 100 || !printable(subject) {
		subject = ""
	}
	return h.wrap(do(), op, subject)
}

// defaultPullTime bounds the fetching and unpacking of one image.
const defaultPullTime = 30 * time.Minute
