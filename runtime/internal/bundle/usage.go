package bundle

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
)

// DiskUse is what lies on the disk of a bundle that MountRoot made, without what the file
// system takes for itself; nil where it is not mounted.
func DiskUse(bundle string) *cove.Bytes {
	dir := diskDir(bundle)
	var disk, around unix.Statfs_t
	if unix.Statfs(dir, &disk) != nil || unix.Statfs(filepath.Dir(dir), &around) != nil || disk.Fsid == around.Fsid {
		return nil // it is not mounted, and this would be the host's
	}
	used := cove.Bytes(disk.Blocks-disk.Bfree) * cove.Bytes(disk.Bsize)
	return &used
}

// GvisorDiskUse is how much is allocated to the file in which the gVisor of a process keeps
// what is written: a file in dir, or without a name.
func GvisorDiskUse(pid int, dir string) *cove.Bytes {
	fds := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(fds)
	if err != nil {
		return nil
	}
	for _, entry := range entries {
		path := filepath.Join(fds, entry.Name())
		target, err := os.Readlink(path)
		if err != nil || !strings.HasPrefix(filepath.Base(target), ".gvisor.filestore.") && !strings.HasPrefix(target, dir) {
			continue
		}
		var stat unix.Stat_t
		if err := unix.Stat(path, &stat); err == nil && stat.Mode&unix.S_IFMT == unix.S_IFREG {
			used := cove.Bytes(stat.Blocks * 512)
			return &used
		}
	}
	return nil
}
