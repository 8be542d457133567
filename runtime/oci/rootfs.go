package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
)

// mountRootfs makes the root filesystem of a sandbox on the host's kernel: the image under
// an overlay on a disk of the sandbox's size, in bundle/rootfs. It returns what was mounted
// so far also on error; unmountRootfs undoes it.
func (d *Driver) mountRootfs(ctx context.Context, bundle string, root *image.Root, spec *cove.Spec) error {
	disk, target := filepath.Join(bundle, "disk"), filepath.Join(bundle, "rootfs")
	for _, dir := range []string{disk, target} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	var err error
	if d.disks.available() {
		err = d.disks.mount(ctx, spec.Limits.Disk, disk)
	} else {
		options := fmt.Sprintf("size=%d,mode=0755", spec.Limits.Disk)
		err = os.NewSyscallError("mount tmpfs", unix.Mount("cove", disk, "tmpfs", unix.MS_NODEV|unix.MS_NOSUID, options))
	}
	if err != nil {
		return err
	}
	upper, work := filepath.Join(disk, "upper"), filepath.Join(disk, "work")
	for _, dir := range []string{upper, work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower(root), upper, work)
	return os.NewSyscallError("mount overlay", unix.Mount("cove", target, "overlay", unix.MS_NODEV|unix.MS_NOSUID, options))
}

// mountLower makes one tree of an image that consists of two, read-only, in bundle/rootfs,
// and returns the directory of the whole; unmountRootfs undoes it.
func mountLower(bundle string, root *image.Root) (string, error) {
	if root.Over == "" {
		return root.Dir, nil
	}
	target := filepath.Join(bundle, "rootfs")
	if err := os.Mkdir(target, 0o755); err != nil {
		return "", err
	}
	flags := uintptr(unix.MS_RDONLY | unix.MS_NODEV | unix.MS_NOSUID)
	return target, os.NewSyscallError("mount overlay", unix.Mount("cove", target, "overlay", flags, "lowerdir="+lower(root)))
}

// lower returns the read-only layers of an image for overlayfs, the topmost first.
func lower(root *image.Root) string {
	if root.Over == "" {
		return escapeOverlay(root.Dir)
	}
	return escapeOverlay(root.Over) + ":" + escapeOverlay(root.Dir)
}

// escapeOverlay escapes what separates options and layers in overlayfs's mount options.
func escapeOverlay(path string) string {
	escaped := make([]byte, 0, len(path))
	for i := range len(path) {
		if c := path[i]; c == '\\' || c == ',' || c == ':' {
			escaped = append(escaped, '\\')
		}
		escaped = append(escaped, path[i])
	}
	return string(escaped)
}

// unmountRootfs undoes mountRootfs, as far as it got. A mount that is busy is detached: its
// last user is being killed.
func unmountRootfs(bundle string) error {
	return errors.Join(unmountAll(filepath.Join(bundle, "rootfs")), unmountAll(filepath.Join(bundle, "disk")))
}

// unmountAll detaches whatever is mounted on target. Mounts may be stacked: by a crash and a
// retry, or by two runtime programs that did the same at the same time.
func unmountAll(target string) error {
	for {
		err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // not a mount point, not there
			return nil
		}
		if err != nil {
			return &os.PathError{Op: "unmount", Path: target, Err: err}
		}
	}
}
