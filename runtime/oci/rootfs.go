package oci

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
	"github.com/covehq/cove/runtime/internal/bundle"
)

// rootfs is the root filesystem that a sandbox gets.
type rootfs struct {
	image *image.Root
	path  string // the directory that the runtime program is to take for it
	file  string // if not empty, an EROFS filesystem that it is to take instead
}

// prepareRootfs makes the root filesystem of a sandbox. On the host's kernel it is the
// sandbox's own; gVisor keeps what is written elsewhere, and makes one tree of an image of
// two. For an ordinary user the stage mounts, and the kernel unmounts with the sandbox.
// Also on error, bundle.UnmountRoot undoes it.
func (d *Driver) prepareRootfs(ctx context.Context, id string, root *image.Root, spec *cove.Spec) (rootfs, error) {
	dir := d.bundle(id)
	own := rootfs{image: root, path: bundle.RootDir(dir)}
	if d.kind == kindLinux {
		return own, d.disks.MountRoot(ctx, dir, root, spec.Limits.Disk)
	}
	if err := os.Mkdir(d.disk(id), 0o700); err != nil {
		return rootfs{}, err
	}
	if !d.rootless {
		path, err := bundle.PrepareGvisorRoot(dir, root, spec)
		return rootfs{image: root, path: path}, err
	}
	var err error
	if own.file, err = d.options.Images.File(ctx, root); err != nil {
		return rootfs{}, err
	}
	if root.Over == "" && own.file == "" {
		return rootfs{image: root, path: root.Dir}, nil
	}
	return own, errors.Join(os.Mkdir(own.path, 0o755), os.Mkdir(filepath.Join(dir, "places"), 0o755), os.Mkdir(filepath.Join(dir, "work"), 0o755))
}

// mountBinds mounts what the spec shows of the host, and returns the spec that the runtime
// program is to have. For an ordinary user the stage mounts the binds that it returns.
func (d *Driver) mountBinds(dir string, spec *cove.Spec) (*cove.Spec, []bundle.Bind, error) {
	if d.rootless {
		return bundle.PrepareBinds(dir, spec)
	}
	placed, err := bundle.PlaceBinds(dir, spec)
	return placed, nil, err
}
