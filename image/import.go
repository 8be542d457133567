package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/covehq/cove"
)

// Import puts the image of an archive into the store, under a name as one in a registry
// has: an archive that docker save or an OCI tool wrote, of this machine's platform, or a
// tar of a root filesystem, each plain or compressed. progress may be nil. The errors are
// those of Pull.
func (s *Store) Import(ctx context.Context, ref string, archive io.Reader, progress func(cove.PullProgress)) (*cove.Image, error) {
	if progress == nil {
		progress = func(cove.PullProgress) {}
	}
	image, err := s.importAs(ctx, ref, archive, progress)
	if err != nil {
		return nil, cove.Wrap(err, "import image", ref[:min(len(ref), 200)])
	}
	progress(cove.PullProgress{Phase: "done"})
	return image, nil
}

func (s *Store) importAs(ctx context.Context, ref string, archive io.Reader, progress func(cove.PullProgress)) (*cove.Image, error) {
	reference, err := parseReference(ref)
	if err != nil {
		return nil, err
	}
	if reference.scheme != fromRegistry || reference.pinned() != "" || ref == cove.DefaultImage {
		return nil, badReference(ref, "not a name for an image")
	}
	platform, err := parsePlatform("")
	if err != nil {
		return nil, err
	}
	progress(cove.PullProgress{Phase: "pulling"})
	file, err := s.spool(contextReader{ctx, archive}, int64(s.options.Limits.Fetched))
	if err != nil {
		return nil, err
	}
	from, err := s.recognise(ctx, file, platform)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	progress(cove.PullProgress{Phase: "unpacking"})
	return s.take(ctx, &job{}, from, tag{Reference: reference.String(), Platform: platform.String()}, platform)
}

// recognise returns the image in a file, which it takes over.
func (s *Store) recognise(ctx context.Context, file *os.File, platform v1.Platform) (origin, error) {
	plain, err := s.plain(ctx, file)
	if err != nil {
		return nil, err
	}
	files, err := indexTar(ctx, plain)
	if err != nil {
		return nil, err
	}
	has := func(name string) bool {
		part, err := files.open(name)
		if err == nil {
			part.Close()
		}
		return !errors.Is(err, fs.ErrNotExist)
	}
	switch {
	case has("index.json") && has("oci-layout"):
		return newLayout(files, ""), nil
	case has("manifest.json"):
		return newSaved(ctx, files, "")
	}
	made, err := newPlainTree(ctx, plain, platform)
	if err != nil {
		return nil, errors.Join(err, plain.Close())
	}
	return made, nil
}

// plainTree is an image of one layer, a root filesystem, with nothing configured.
type plainTree struct {
	file   *os.File
	size   int64
	made   *manifest
	config []byte
}

func newPlainTree(ctx context.Context, file *os.File, platform v1.Platform) (*plainTree, error) {
	hash := sha256.New()
	size, err := io.CopyBuffer(hash, struct{ io.Reader }{contextReader{ctx, io.NewSectionReader(file, 0, 1<<62)}}, make([]byte, 256<<10))
	if err != nil {
		return nil, err
	}
	layer := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(hash.Sum(nil))}
	var about configFile
	about.OS, about.Architecture, about.Variant = platform.OS, platform.Architecture, platform.Variant
	about.RootFS.DiffIDs = []string{layer.String()}
	t := &plainTree{file: file, size: size}
	if t.config, err = json.Marshal(about); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(t.config)
	list := v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1,
		Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Size: int64(len(t.config)), Digest: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}},
		Layers: []v1.Descriptor{{MediaType: types.OCIUncompressedLayer, Size: size, Digest: layer}},
	}
	raw, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	t.made, err = newManifest(raw, document{Config: &list.Config, Layers: list.Layers})
	return t, err
}

// manifest implements origin.
func (t *plainTree) manifest(context.Context, v1.Platform) (*manifest, error) { return t.made, nil }

// blob implements origin.
func (t *plainTree) blob(_ context.Context, d v1.Descriptor, from int64) (io.ReadCloser, int64, error) {
	if d.Digest == t.made.config.Digest {
		return sectionOf(inTarball{io.NewSectionReader(bytes.NewReader(t.config), 0, int64(len(t.config)))}, from), from, nil
	}
	return sectionOf(inTarball{io.NewSectionReader(t.file, 0, t.size)}, from), from, nil
}

// Close implements origin.
func (t *plainTree) Close() error { return t.file.Close() }
