package bundle

import (
	"context"
	"io"
	"runtime"
	"strings"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
)

// Store is the part of a driver that takes its images from Cove's own store, which all such
// drivers of a daemon share.
type Store struct{ Source *image.Store }

// Image implements driver.Imager.
func (s Store) Image(ctx context.Context, spec *cove.Spec, progress func(cove.PullProgress)) (*cove.Image, error) {
	if err := ownPlatform(spec.Platform); err != nil {
		return nil, err
	}
	return s.Source.Pull(ctx, image.PullRequest{Reference: spec.Image, Policy: spec.Pull}, progress)
}

// ownPlatform refuses what this machine's processor can't run, or can't be told to.
func ownPlatform(platform string) error {
	if platform == "" {
		return nil
	}
	system, rest, _ := strings.Cut(strings.ToLower(platform), "/")
	architecture, variant, _ := strings.Cut(rest, "/")
	switch architecture {
	case "x86_64", "x86-64":
		architecture = "amd64"
	case "aarch64":
		architecture = "arm64"
	}
	if architecture == "arm64" && variant == "v8" {
		variant = "" // there is no other
	}
	if system != "linux" || architecture != runtime.GOARCH || variant != "" {
		return cove.Errorf(cove.NotSupported, "image", platform, "this machine can't run that platform", "use linux/"+runtime.GOARCH+", or a machine of that kind")
	}
	return nil
}

// Images implements driver.ImageKeeper.
func (s Store) Images(ctx context.Context) ([]cove.Image, error) { return s.Source.List(ctx) }

// ImportImage implements driver.ImageKeeper.
func (s Store) ImportImage(ctx context.Context, name string, archive io.Reader, progress func(cove.PullProgress)) (*cove.Image, error) {
	return s.Source.Import(ctx, name, archive, progress)
}

// RemoveImage implements driver.ImageKeeper.
func (s Store) RemoveImage(ctx context.Context, reference string, used func(digest string) bool) error {
	return s.Source.Remove(ctx, reference, used)
}

// PruneImages implements driver.ImageKeeper.
func (s Store) PruneImages(ctx context.Context, used func(digest string) bool) ([]cove.Image, error) {
	return s.Source.Prune(ctx, used)
}
