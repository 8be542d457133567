package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

// layerSize is how much the image of these measurements has in each of its layers,
// unpacked: 235 MB in all, as much as a small distribution with Python.
const (
	layerSize = 47_000_000
	layers    = 5
)

// images measures the way from a registry to a sandbox, beside a Docker engine's, and
// whether a sandbox of such an image comes up as fast as one of the host's own system.
func (b *bench) images(ctx context.Context) error {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	reference := strings.TrimPrefix(server.URL, "http://") + "/bench/system:1"
	if err := publish(reference); err != nil {
		b.table.note("Nothing was measured of images: %v.", err)
		return nil
	}
	spec := cove.Spec{Runtime: "gvisor", Image: reference}
	at := time.Now()
	if _, err := b.client.PullImage(ctx, cove.ImagePull{Reference: reference, Runtime: spec.Runtime}, nil); err != nil {
		return err
	}
	pulled := time.Since(at)
	box, err := b.client.Create(ctx, spec, client.CreateOptions{})
	if err != nil {
		return err
	}
	first := time.Since(at)
	if err := box.Remove(ctx); err != nil {
		return err
	}
	b.table.note("A 235 MB image of %d layers from a registry on this machine: pulled and flattened by Cove in %.2f s, its first sandbox (gvisor) after %.2f s%s.",
		layers, pulled.Seconds(), first.Seconds(), b.dockerPull(ctx, reference))
	for _, runtime := range []string{"gvisor", "runc"} {
		if err := b.createFromImage(ctx, runtime, reference); err != nil {
			return err
		}
	}
	return nil
}

// dockerPull returns how long the engine took for the same, in words.
func (b *bench) dockerPull(ctx context.Context, reference string) string {
	at := time.Now()
	if _, err := b.docker(ctx, nil, "pull", "-q", reference); err != nil {
		return "; no Docker engine pulled it"
	}
	pulled := time.Since(at)
	defer b.docker(context.WithoutCancel(ctx), nil, "rmi", "-f", reference)
	if _, err := b.docker(ctx, nil, "run", "--rm", "--network", "none", reference, "/bin/true"); err != nil {
		return fmt.Sprintf("; `docker pull` %.2f s, and `docker run` failed", pulled.Seconds())
	}
	return fmt.Sprintf("; `docker pull` %.2f s, with the first `docker run true` %.2f s", pulled.Seconds(), time.Since(at).Seconds())
}

// createFromImage measures creates of the image in turns with creates of the host's system.
func (b *bench) createFromImage(ctx context.Context, runtime, reference string) error {
	var image, host samples
	for i := range b.rounds + 1 {
		for reference, into := range map[string]*samples{reference: &image, "host": &host} {
			at := time.Now()
			box, err := b.client.Create(ctx, cove.Spec{Runtime: runtime, Image: reference}, client.CreateOptions{})
			if err != nil {
				return err
			}
			took := time.Since(at)
			if err := box.Remove(ctx); err != nil {
				return err
			}
			if i > 0 {
				*into = append(*into, took)
			}
		}
	}
	b.table.time("create from an OCI image", runtime, image, host, "create from host", 0)
	return nil
}

// publish makes an image of this machine's libraries and a static busybox, and writes it to
// a registry.
func publish(text string) error {
	reference, err := name.ParseReference(text)
	if err != nil {
		return err
	}
	contents, err := layersOfSystem()
	if err != nil {
		return err
	}
	image := empty.Image
	for _, content := range contents {
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil })
		if err != nil {
			return err
		}
		if image, err = mutate.AppendLayers(image, layer); err != nil {
			return err
		}
	}
	config, err := image.ConfigFile()
	if err != nil {
		return err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return err
	}
	return remote.Write(reference, image)
}

// layersOfSystem returns layers as they are served, compressed.
func layersOfSystem() ([][]byte, error) {
	base, err := busyboxImage()
	if err != nil {
		return nil, err
	}
	done := [][]byte{compressed(base)}
	var current bytes.Buffer
	w, size := tar.NewWriter(&current), int64(0)
	full := errors.New("enough")
	err = filepath.WalkDir("/usr/lib", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return nil // what can't be read is not needed
		}
		content, err := os.ReadFile(path)
		if err != nil || len(content) > 20_000_000 {
			return nil
		}
		header := tar.Header{Name: "opt/" + strings.TrimPrefix(path, "/"), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}
		if err := w.WriteHeader(&header); err != nil {
			return err
		}
		if _, err := w.Write(content); err != nil {
			return err
		}
		if size += header.Size; size < layerSize {
			return nil
		}
		if err := w.Close(); err != nil {
			return err
		}
		done = append(done, compressed(current.Bytes()))
		current.Reset()
		if w, size = tar.NewWriter(&current), 0; len(done) == layers+1 {
			return full
		}
		return nil
	})
	if !errors.Is(err, full) {
		return nil, fmt.Errorf("this machine's /usr/lib has not enough files: %w", err)
	}
	return done, nil
}

func compressed(content []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(content) // into memory
	_ = w.Close()
	return b.Bytes()
}
