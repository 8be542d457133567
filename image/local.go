package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/covehq/cove"
)

// stamp tells whether what a reference names on this machine is what it was; "" for a
// registry, whose names are asked for by the policy.
func (s *Store) stamp(ctx context.Context, reference reference) (string, error) {
	name := reference.path
	switch reference.scheme {
	case fromRegistry:
		return "", nil
	case fromEngine:
		return s.engineStamp(ctx, reference.inner)
	case fromLayout:
		name = filepath.Join(name, "index.json")
	}
	info, err := os.Stat(name)
	if err != nil {
		return "", pathError(err)
	}
	size, modified := statOf(info)
	return fmt.Sprintf("%d %d", size, modified), nil
}

// archiveOrigin opens docker-archive: and oci-archive:.
func (s *Store) archiveOrigin(ctx context.Context, reference reference) (origin, error) {
	archive, err := s.openArchive(ctx, reference.path)
	if err != nil {
		return nil, err
	}
	if reference.scheme == fromOCIArchive {
		return newLayout(archive, reference.inner), nil
	}
	return newSaved(ctx, archive, reference.inner)
}

// layout is an image in an OCI image layout.
type layout struct {
	parts
	inner string
}

func openLayout(path, inner string) (origin, error) {
	dir, err := openDirectory(path)
	if err != nil {
		return nil, err
	}
	return newLayout(dir, inner), nil
}

// newLayout takes the files over.
func newLayout(from parts, inner string) *layout { return &layout{from, inner} }

// Annotations that hold the name of an image in a layout.
var nameAnnotations = []string{"org.opencontainers.image.ref.name", "io.containerd.image.name"}

// manifest implements origin.
func (l *layout) manifest(_ context.Context, platform v1.Platform) (*manifest, error) {
	raw, err := readPart(l, "index.json", maxManifest)
	if err != nil {
		return nil, notImages(err, "an OCI image layout")
	}
	if l.inner != "" {
		var index document
		if err := json.Unmarshal(raw, &index); err != nil {
			return nil, corrupt("index.json is not JSON of the expected form")
		}
		if index.Manifests = slices.DeleteFunc(index.Manifests, func(d v1.Descriptor) bool { return !l.named(d) }); len(index.Manifests) == 0 {
			return nil, cove.Errorf(cove.NotFound, "", "", fmt.Sprintf("there is no image named %.100q in it", l.inner), "leave the name out if it has only one")
		}
		if raw, err = json.Marshal(index); err != nil {
			return nil, err
		}
	}
	return chooseManifest(raw, platform, func(d v1.Descriptor) ([]byte, error) {
		raw, err := readPart(l, blobName(d), maxManifest)
		return raw, notImages(err, "a complete OCI image layout")
	})
}

func (l *layout) named(d v1.Descriptor) bool {
	return d.Digest.String() == l.inner || slices.ContainsFunc(nameAnnotations, func(key string) bool {
		name := d.Annotations[key]
		return name != "" && (name == l.inner || sameName(name, l.inner))
	})
}

func blobName(d v1.Descriptor) string { return "blobs/" + d.Digest.Algorithm + "/" + d.Digest.Hex }

// blob implements origin.
func (l *layout) blob(_ context.Context, d v1.Descriptor, from int64) (io.ReadCloser, int64, error) {
	file, err := l.open(blobName(d))
	if err != nil {
		return nil, 0, notImages(err, "a complete OCI image layout")
	}
	return sectionOf(file, from), from, nil
}

// sectionOf reads a file from an offset on.
func sectionOf(file part, from int64) io.ReadCloser {
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(file, from, max(0, file.Size()-from)), file}
}

// notImages says what something is not, for lack of a file.
func notImages(err error, what string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return cove.Errorf(cove.Invalid, "", "", "it is not "+what, "use "+References)
	}
	if err != nil && cove.CodeOf(err) == cove.Internal {
		return pathError(err)
	}
	return err
}

// sameName reports whether two texts name the same image in a registry.
func sameName(a, b string) bool {
	one, err := parseName(a)
	if err != nil {
		return false
	}
	other, err := parseName(b)
	return err == nil && one.Name() == other.Name()
}

// saved is an image in an archive that docker save wrote. It has no manifest: one is made.
type saved struct {
	parts
	made  *manifest
	files map[string]string // by digest, where the blob is in the archive
}

// newSaved takes the archive over, also on error.
func newSaved(ctx context.Context, from parts, inner string) (*saved, error) {
	s := &saved{parts: from, files: map[string]string{}}
	if err := s.load(ctx, inner); err != nil {
		return nil, errors.Join(err, from.Close())
	}
	return s, nil
}

// savedImage is an element of manifest.json.
type savedImage struct {
	Config   string   `json:"Config"`
	RepoTags []string `json:"RepoTags"`
	Layers   []string `json:"Layers"`
}

func (s *saved) load(ctx context.Context, inner string) error {
	raw, err := readPart(s, "manifest.json", maxManifest)
	if err != nil {
		return notImages(err, "an archive that docker save wrote")
	}
	var images []savedImage
	if err := json.Unmarshal(raw, &images); err != nil {
		return corrupt("manifest.json is not JSON of the expected form")
	}
	chosen, err := chooseSaved(images, inner)
	if err != nil {
		return err
	}
	if len(chosen.Layers) > maxLayers {
		return cove.Errorf(cove.TooLarge, "", "", fmt.Sprintf("the image has %d layers", len(chosen.Layers)), fmt.Sprintf("make an image with at most %d", maxLayers))
	}
	list := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
	if list.Config, err = s.describe(ctx, chosen.Config, types.OCIConfigJSON); err != nil {
		return err
	}
	list.Layers = []v1.Descriptor{}
	for _, name := range chosen.Layers {
		layer, err := s.describe(ctx, name, types.OCIUncompressedLayer)
		if err != nil {
			return err
		}
		list.Layers = append(list.Layers, layer)
	}
	if raw, err = json.Marshal(list); err != nil {
		return err
	}
	s.made, err = newManifest(raw, document{Config: &list.Config, Layers: list.Layers})
	return err
}

func chooseSaved(images []savedImage, inner string) (savedImage, error) {
	var names []string
	for _, image := range images {
		if slices.ContainsFunc(image.RepoTags, func(tag string) bool { return sameName(tag, inner) }) {
			return image, nil
		}
		names = append(names, image.RepoTags...)
	}
	if len(images) == 1 && inner == "" {
		return images[0], nil
	}
	offered := fmt.Sprintf("%.300q", strings.Join(names[:min(len(names), 20)], ", "))
	if inner == "" {
		return savedImage{}, cove.Errorf(cove.Invalid, "", "", fmt.Sprintf("there are %d images in it", len(images)), "add a colon and one of these names: "+offered)
	}
	return savedImage{}, cove.Errorf(cove.NotFound, "", "", fmt.Sprintf("there is no image named %.100q in it", inner), "it has "+offered)
}

// describe finds out the digest of a file.
func (s *saved) describe(ctx context.Context, name string, kind types.MediaType) (v1.Descriptor, error) {
	file, err := s.open(name)
	if err != nil {
		return v1.Descriptor{}, notImages(err, "a complete archive of docker save")
	}
	defer file.Close()
	hash := sha256.New()
	reader := contextReader{ctx, io.NewSectionReader(file, 0, file.Size())}
	if _, err := io.CopyBuffer(hash, struct{ io.Reader }{reader}, make([]byte, 256<<10)); err != nil {
		return v1.Descriptor{}, err
	}
	digest := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(hash.Sum(nil))}
	s.files[digest.Hex] = name
	return v1.Descriptor{MediaType: kind, Size: file.Size(), Digest: digest}, nil
}

// manifest implements origin.
func (s *saved) manifest(context.Context, v1.Platform) (*manifest, error) { return s.made, nil }

// blob implements origin.
func (s *saved) blob(_ context.Context, d v1.Descriptor, from int64) (io.ReadCloser, int64, error) {
	file, err := s.open(s.files[d.Digest.Hex])
	if err != nil {
		return nil, 0, err
	}
	return sectionOf(file, from), from, nil
}
