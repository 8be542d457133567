package bundle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
)

// RootDir is where the root filesystem of a bundle is that has one of its own.
func RootDir(bundle string) string { return filepath.Join(bundle, "rootfs") }

// diskDir is where the disk of a bundle is mounted.
func diskDir(bundle string) string { return filepath.Join(bundle, "disk") }

// MountRoot makes the root filesystem of a sandbox on the host's kernel: the image under
// an overlay on a disk of the given size, in RootDir. Also on error, UnmountRoot undoes it.
func (d *Disks) MountRoot(ctx context.Context, bundle string, root *image.Root, size cove.Bytes) error {
	disk, target := diskDir(bundle), RootDir(bundle)
	for _, dir := range []string{disk, target} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if err := d.Mount(ctx, disk, size); err != nil {
		return err
	}
	upper, work := filepath.Join(disk, "upper"), filepath.Join(disk, "work")
	for _, dir := range []string{upper, work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", Lower(root), escapeOverlay(upper), escapeOverlay(work))
	return os.NewSyscallError("mount overlay", unix.Mount("cove", target, "overlay", unix.MS_NODEV|unix.MS_NOSUID, options))
}

// Mount mounts an empty file system of the given size on target: a disk or, where this host
// can make none, memory.
func (d *Disks) Mount(ctx context.Context, target string, size cove.Bytes) error {
	if d.Available() {
		return d.mount(ctx, size, target)
	}
	options := fmt.Sprintf("size=%d,mode=0755", size)
	return os.NewSyscallError("mount tmpfs", unix.Mount("cove", target, "tmpfs", unix.MS_NODEV|unix.MS_NOSUID, options))
}

// MountLower mounts the tree of an image that consists of two, read-only, on target.
func MountLower(target string, root *image.Root) error {
	flags := uintptr(unix.MS_RDONLY | unix.MS_NODEV | unix.MS_NOSUID)
	return os.NewSyscallError("mount overlay", unix.Mount("cove", target, "overlay", flags, "lowerdir="+Lower(root)))
}

// PrepareGvisorRoot returns the directory that gVisor is to take for a sandbox's root, of an
// image that it does not write to. That is the image's own tree, shared by all, unless it
// consists of two or something is to be mounted in it: gVisor makes the places for mounts,
// and in the tree that all share every sandbox would see them. UnmountRoot undoes it.
func PrepareGvisorRoot(bundle string, root *image.Root, spec *cove.Spec) (string, error) {
	places := slices.ContainsFunc(spec.Mounts, func(m cove.Mount) bool { return m.Type == cove.MountBind })
	if root.Over == "" && !places {
		return root.Dir, nil
	}
	target, upper, work := RootDir(bundle), filepath.Join(bundle, "places"), filepath.Join(bundle, "work")
	if err := os.Mkdir(target, 0o755); err != nil {
		return "", err
	}
	if !places {
		return target, MountLower(target, root)
	}
	for _, dir := range []string{upper, work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return "", err
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", Lower(root), escapeOverlay(upper), escapeOverlay(work))
	return target, os.NewSyscallError("mount overlay", unix.Mount("cove", target, "overlay", unix.MS_NODEV|unix.MS_NOSUID, options))
}

// Lower returns the read-only layers of an image for overlayfs, the topmost first.
func Lower(root *image.Root) string {
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

// UnmountRoot undoes MountRoot, as far as it got, and MountLower on RootDir. A mount that is
// busy is detached: its last user is being killed.
func UnmountRoot(bundle string) error {
	return errors.Join(UnmountAll(RootDir(bundle)), UnmountAll(diskDir(bundle)))
}

// UnmountAll detaches whatever is mounted on target. Mounts may be stacked: by a crash and a
// retry, or by two runtime programs that did the same at the same time.
func UnmountAll(target string) error {
	if os.Geteuid() != 0 { // whose mounts are in a namespace that goes with the sandbox
		return nil
	}
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
