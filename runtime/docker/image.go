package docker

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/docker/cli/cli/config"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
	"github.com/covehq/cove/sandbox/driver"
)

// hostRepository is where the engine has what this machine's own image is made of: a small
// tree of directories, over which those of the machine are mounted.
const hostRepository = "cove/host"

// isHost reports whether an image is not an engine's: this machine's, or a tree of it.
func isHost(name string) bool { return name == cove.DefaultImage || strings.HasPrefix(name, "rootfs:") }

// archives are the kinds of references that name no image of a registry's.
var archives = []string{"docker-archive:", "oci-archive:", "oci:"}

// Image implements driver.Imager.
func (d *Driver) Image(ctx context.Context, spec *cove.Spec, progress func(cove.PullProgress)) (*cove.Image, error) {
	name := strings.TrimPrefix(spec.Image, "docker-daemon:")
	for _, prefix := range archives {
		if strings.HasPrefix(name, prefix) {
			return nil, cove.Errorf(cove.NotSupported, "image", name, "an engine takes no archives by reference", "load it with docker load, and name the image in it")
		}
	}
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return nil, cove.Errorf(cove.Invalid, "image", name, short(err), "write it as the docker command takes it, as in python:3.12")
	}
	platform, err := parsePlatform(spec.Platform)
	if err != nil {
		return nil, err
	}
	found, err := d.inspect(ctx, named.String(), platform)
	policy := spec.Pull
	if name != spec.Image { // of the engine's own store
		policy = cove.PullNever
	}
	switch {
	case err == nil && policy != cove.PullAlways:
	case err != nil && !errors.Is(err, cove.NotFound):
		return nil, err
	case policy == cove.PullNever:
		return nil, cove.Errorf(cove.NotFound, "image", name, "the engine does not have it", "pull it with docker pull, or allow to pull it")
	default:
		if err := d.pull(ctx, named, platform, progress); err != nil {
			return nil, err
		}
		if found, err = d.inspect(ctx, named.String(), platform); err != nil {
			return nil, err
		}
	}
	d.mu.Lock()
	if len(d.images) > 1000 {
		clear(d.images) // Create asks the engine again
	}
	found.Reference = spec.Image
	d.images[spec.Image+" "+spec.Platform] = found
	d.mu.Unlock()
	described := found.Image
	return &described, nil
}

// kept is an image that the engine has.
type kept struct {
	cove.Image
	id string // of its configuration or manifest, by which the engine makes containers
}

// inspect describes an image in the engine. The error is cove.NotFound where it has none
// for the platform.
func (d *Driver) inspect(ctx context.Context, name string, platform *ocispec.Platform) (*kept, error) {
	var found client.ImageInspectResult
	err := d.engine.call(ctx, func(ctx context.Context, c *client.Client) (err error) {
		found, err = c.ImageInspect(ctx, name)
		return err
	})
	if errdefs.IsNotFound(err) {
		return nil, cove.NotFound
	}
	if err != nil {
		return nil, cove.Wrap(err, "image", name)
	}
	if platform != nil && (found.Architecture != platform.Architecture || platform.Variant != "" && found.Variant != "" && found.Variant != platform.Variant) {
		return nil, cove.NotFound
	}
	result := &kept{id: found.ID, Image: cove.Image{
		Platform: strings.TrimSuffix(found.Os+"/"+found.Architecture+"/"+found.Variant, "/"), Size: cove.Bytes(max(0, found.Size)),
	}}
	for _, digest := range found.RepoDigests {
		if _, sum, ok := strings.Cut(digest, "@"); ok && result.Digest == "" {
			result.Digest = sum
		}
	}
	if at, err := time.Parse(time.RFC3339Nano, found.Created); err == nil {
		result.CreatedAt = &at
	}
	if c := found.Config; c != nil {
		result.Config = cove.ImageConfig{
			Env: c.Env, Workdir: c.WorkingDir, User: c.User, Entrypoint: c.Entrypoint, Cmd: c.Cmd,
			Ports: slices.Sorted(maps.Keys(c.ExposedPorts)), Volumes: slices.Sorted(maps.Keys(c.Volumes)),
		}
	}
	return result, nil
}

// parsePlatform reads what the engine's API has in parts. It returns nil for no platform.
func parsePlatform(text string) (*ocispec.Platform, error) {
	if text == "" {
		return nil, nil
	}
	parts := strings.Split(strings.ToLower(text), "/")
	if len(parts) < 2 || len(parts) > 3 || parts[0] != "linux" || slices.Contains(parts, "") {
		return nil, cove.Errorf(cove.Invalid, "image", text, "not a platform of linux", "write it as in linux/amd64 or linux/arm/v7")
	}
	platform := &ocispec.Platform{OS: parts[0], Architecture: parts[1]}
	switch platform.Architecture {
	case "x86_64", "x86-64":
		platform.Architecture = "amd64"
	case "aarch64":
		platform.Architecture = "arm64"
	}
	if len(parts) == 3 {
		platform.Variant = parts[2]
	}
	return platform, nil
}

// pull has the engine fetch an image, with the credentials of Docker's configuration.
func (d *Driver) pull(ctx context.Context, named reference.Named, platform *ocispec.Platform, progress func(cove.PullProgress)) error {
	options := client.ImagePullOptions{RegistryAuth: credentials(named)}
	if platform != nil {
		options.Platforms = []ocispec.Platform{*platform}
	}
	err := driver.Full(d.engine.callWithin(ctx, pullTimeout, func(ctx context.Context, c *client.Client) error {
		response, err := c.ImagePull(ctx, named.String(), options)
		if err != nil {
			return err
		}
		defer response.Close()
		report := &progressReport{to: progress, layers: map[string]layer{}}
		for message, err := range response.JSONMessages(ctx) {
			if err != nil {
				return err
			}
			if message.Error != nil {
				return message.Error
			}
			report.take(message)
		}
		return nil
	}))
	switch {
	case err == nil:
		return nil
	case errdefs.IsNotFound(err), strings.Contains(err.Error(), "manifest unknown"), strings.Contains(err.Error(), "no matching manifest"),
		strings.Contains(err.Error(), "not found"):
		return &cove.Error{Code: cove.NotFound, Op: "image", ID: named.String(), Err: err, Hint: "look whether the name, the tag and the platform are right"}
	case errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err), strings.Contains(err.Error(), "denied"), strings.Contains(err.Error(), "unauthorized"):
		return &cove.Error{Code: cove.Forbidden, Op: "image", ID: named.String(), Err: err, Hint: "log in to its registry with docker login, as the daemon's user"}
	}
	var ready *cove.Error
	if ctx.Err() != nil || errors.As(err, &ready) {
		return cove.Wrap(err, "image", named.String())
	}
	return &cove.Error{Code: cove.Unavailable, Op: "image", ID: named.String(), Err: fmt.Errorf("the engine did not get it: %s", short(err)),
		Hint: "look whether the engine reaches the registry: docker pull " + named.String()}
}

// credentials returns what Docker's configuration has for an image's registry, as the API
// takes it. Without any the engine asks as nobody.
func credentials(named reference.Named) string {
	file, err := config.Load(config.Dir())
	if err != nil {
		return ""
	}
	host := reference.Domain(named)
	if host == "docker.io" {
		host = "https://index.docker.io/v1/"
	}
	known, err := file.GetAuthConfig(host)
	if err != nil || known.Username == "" && known.IdentityToken == "" && known.RegistryToken == "" {
		return ""
	}
	data, err := json.Marshal(known)
	if err != nil {
		return ""
	}
	return base64.URLEncoding.EncodeToString(data)
}

// progressReport sums up what the engine says of single layers.
type progressReport struct {
	to     func(cove.PullProgress)
	layers map[string]layer
}

type layer struct {
	bytes, total int64
	done         bool
}

// take takes one message in and passes the sum on.
func (p *progressReport) take(message jsonstream.Message) {
	const most = 1000 // layers; an image has 127 at most
	if p.to == nil || message.ID == "" || len(p.layers) >= most {
		return
	}
	known := p.layers[message.ID]
	switch message.Status {
	case "Pulling fs layer", "Waiting":
	case "Downloading":
		if message.Progress != nil {
			known.bytes, known.total = message.Progress.Current, message.Progress.Total
		}
	case "Download complete", "Verifying Checksum", "Extracting":
		known.bytes = max(known.bytes, known.total)
	case "Pull complete", "Already exists":
		known.bytes, known.done = max(known.bytes, known.total), true
	default:
		return
	}
	p.layers[message.ID] = known
	sum := cove.PullProgress{Phase: "pulling", Layers: len(p.layers)}
	for _, l := range p.layers {
		sum.Bytes, sum.Total = sum.Bytes+cove.Bytes(l.bytes), sum.Total+cove.Bytes(l.total)
		if l.done {
			sum.Complete++
		}
	}
	if sum.Complete == sum.Layers {
		sum.Phase = "done"
	}
	p.to(sum)
}

// source is what a sandbox is made of.
type source struct {
	id      string       // of the image in the engine
	volumes []string     // directories of the image that are a tmpfs of their own
	binds   []image.Bind // what of this machine belongs on top, read-only
	over    string       // if not empty, a tree of this machine that lies over the image
	agent   string       // volume with the agent, where the engine can't be given this machine's
}

// resolve finds what the spec's image is in the engine.
func (d *Driver) resolve(ctx context.Context, spec *cove.Spec, f *facts) (*source, error) {
	if isHost(spec.Image) {
		if !f.local {
			return nil, cove.Errorf(cove.NotSupported, "create", "", "the engine is on another machine, which does not have the files of image "+spec.Image, "name an image of a registry, as in --image debian:12")
		}
		root, err := d.options.Images.Resolve(ctx, spec.Image)
		if err != nil {
			return nil, err
		}
		found, err := d.hostImage(ctx, root)
		if err != nil {
			return nil, err
		}
		return &source{id: found.id, binds: root.Binds}, nil
	}
	over, err := d.options.Images.Over(ctx)
	if err != nil {
		return nil, err
	}
	known := func() *kept {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.images[spec.Image+" "+spec.Platform]
	}
	if known() == nil { // after a restart of the daemon
		if _, err := d.Image(ctx, &cove.Spec{Image: spec.Image, Platform: spec.Platform, Pull: cove.PullNever}, nil); err != nil {
			return nil, err
		}
	}
	found := known()
	if found == nil {
		return nil, cove.NotFound
	}
	return &source{id: found.id, volumes: found.Config.Volumes, over: over}, nil
}

// forgetImages makes the next resolve ask the engine: somebody has removed an image.
func (d *Driver) forgetImages() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.images)
}

// hostImage returns the image in the engine with the tree of root, which is imported where
// the engine has none.
func (d *Driver) hostImage(ctx context.Context, root *image.Root) (*kept, error) {
	d.importing.Lock()
	defer d.importing.Unlock()
	d.mu.Lock()
	known := d.images[root.Dir]
	d.mu.Unlock()
	if known != nil {
		return known, nil
	}
	sum := sha256.New()
	if err := writeTree(sum, root.Dir, ""); err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	tag := hex.EncodeToString(sum.Sum(nil))[:32]
	name := hostRepository + ":" + tag
	found, err := d.inspect(ctx, name, nil)
	if errors.Is(err, cove.NotFound) {
		if err := d.importTree(ctx, root.Dir, tag); err != nil {
			return nil, err
		}
		found, err = d.inspect(ctx, name, nil)
	}
	if err != nil {
		return nil, cove.Wrap(err, "image", name)
	}
	d.mu.Lock()
	d.images[root.Dir] = found
	d.mu.Unlock()
	return found, nil
}

func (d *Driver) importTree(ctx context.Context, dir, tag string) error {
	return d.engine.callWithin(ctx, 10*time.Minute, func(ctx context.Context, c *client.Client) error {
		reader, writer := io.Pipe()
		wrote := make(chan error, 1)
		go func() {
			err := writeTree(writer, dir, "")
			_ = writer.CloseWithError(err)
			wrote <- err
		}()
		reply, err := c.ImageImport(ctx, client.ImageImportSource{Source: reader, SourceName: "-"}, hostRepository+":"+tag, client.ImageImportOptions{
			Message: "directories of a Cove sandbox", // Podman knows no tag of its own here
		})
		if err == nil {
			err = lastWord(reply)
			_ = reply.Close()
		}
		_ = reader.CloseWithError(cmp.Or(err, io.ErrClosedPipe))
		return errors.Join(err, ignoreClosed(<-wrote))
	})
}

// lastWord reads what an engine says of its work to the end, which may be that it failed.
func lastWord(reply io.Reader) error {
	for words := json.NewDecoder(reply); ; {
		var message jsonstream.Message
		if err := words.Decode(&message); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if message.Error != nil {
			return message.Error
		}
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return err
}

// writeTree writes a tree as a tar, the same one for the same tree, but for the directory
// of the name without.
func writeTree(to io.Writer, dir, without string) error {
	out := tar.NewWriter(to)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if name == without {
			return fs.SkipDir
		}
		return writeEntry(out, path, name, entry)
	})
	return errors.Join(err, out.Close())
}

func writeEntry(out *tar.Writer, path, name string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	link := ""
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		if link, err = os.Readlink(path); err != nil {
			return err
		}
	case !info.IsDir() && !info.Mode().IsRegular():
		return nil // devices and sockets are no part of an image
	}
	header, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	header.Name, header.ModTime, header.Uname, header.Gname = name, time.Unix(0, 0), "", ""
	if info.IsDir() {
		header.Name += "/"
	}
	if err := out.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(out, file)
	return err
}
