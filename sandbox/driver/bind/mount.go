package bind

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Mount shows what is behind a Path at a target that the caller owns, and that is a file
// or directory as the source is. What is mounted beneath the source is not shown. No
// devices and no setuid programs work there. It needs CAP_SYS_ADMIN; unmounting is the
// caller's.
func Mount(path, target string, readOnly bool) error {
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	if readOnly {
		flags |= unix.MS_RDONLY
	}
	// The kernel follows the link of /proc to the file itself, without a name.
	if err := unix.Mount(path, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind at %s: %w", target, err)
	}
	err := unix.Mount("", target, "", unix.MS_PRIVATE, "")
	if err == nil {
		err = unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|flags, "")
	}
	if err != nil {
		_ = unix.Unmount(target, unix.MNT_DETACH)
		return fmt.Errorf("bind at %s: %w", target, err)
	}
	return nil
}
