package oci

import (
	"context"
	"os"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
	"github.com/covehq/cove/runtime/internal/bundle"
)

// mountRootfs makes the root filesystem of a sandbox on the host's kernel.
func (d *Driver) mountRootfs(ctx context.Context, dir string, root *image.Root, spec *cove.Spec) error {
	return d.disks.MountRoot(ctx, dir, root, spec.Limits.Disk)
}

// mountLower makes one tree of an image that consists of two, read-only, and returns the
// directory of the whole; bundle.UnmountRoot undoes it. For an ordinary user the stage mounts
// it, and the kernel unmounts it with the sandbox.
func (d *Driver) mountLower(dir string, root *image.Root) (string, error) {
	if root.Over == "" {
		return root.Dir, nil
	}
	target := bundle.RootDir(dir)
	if err := os.Mkdir(target, 0o755); err != nil {
		return "", err
	}
	if d.rootless {
		return target, nil
	}
	return target, bundle.MountLower(target, root)
}

// mountBinds mounts what the spec shows of the host, and returns the spec that the runtime
// program is to have. For an ordinary user the stage mounts the binds that it returns.
func (d *Driver) mountBinds(dir string, spec *cove.Spec) (*cove.Spec, []bundle.Bind, error) {
	placed, binds, err := bundle.PrepareBinds(dir, spec)
	if err != nil || d.rootless {
		return placed, binds, err
	}
	for _, b := range binds {
		if err := b.Mount(); err != nil {
			return nil, nil, err
		}
	}
	return placed, nil, nil
}
