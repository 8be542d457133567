package bundle

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/cgroup"
)

// Usage says where to look for what a sandbox uses.
type Usage struct {
	Kernel  Kernel
	Cgroups cgroup.Tree
	ID      string // in Cgroups
	Bundle  string // as MountRoot has it
	PID     int    // of gVisor's kernel
	Disk    string // where that keeps what is written
}

// Stats is what the kernel says of the sandbox's cgroup and of where it writes. Of a kernel
// of its own that is what the host spends on it, and its processes are its own matter. What
// can't be read, as that of a sandbox which is just ending, is left out.
func (u Usage) Stats() *cove.Stats {
	stats := u.Cgroups.Stats(u.ID)
	if u.Kernel != SharedKernel {
		stats.Processes = nil
	}
	if u.Kernel == GvisorKernel {
		stats.Disk = GvisorDiskUse(u.PID, u.Disk)
	} else {
		stats.Disk = DiskUse(u.Bundle)
	}
	return stats
}

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
