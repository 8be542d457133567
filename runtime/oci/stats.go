package oci

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/cgroup"
)

// Stats implements driver.Statter, by what the kernel says of the sandbox's cgroup and of
// where it writes. What can't be read, as that of a sandbox which is just ending, is left
// out.
func (m *machine) Stats(ctx context.Context) (*cove.Stats, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case <-m.gone:
		return nil, cove.Gone
	default:
	}
	tree, stats := m.driver.cgroups, &cove.Stats{Time: time.Now().UTC()}
	if used, ok := cpuTime(tree, m.id); ok {
		duration := cove.Duration(used)
		stats.CPUTime = &duration
	}
	if used, ok := memoryUse(tree, m.id); ok {
		stats.Memory = &used
	} else if m.driver.kind == kindGvisor {
		if used, err := (&guestMemory{pid: m.process.PID}).bytes(); err == nil {
			stats.Memory = &used
		}
	}
	if m.driver.kind == kindGvisor {
		stats.Disk = m.overlayUse()
		return stats, nil // the tasks of its kernel are not those inside
	}
	stats.Processes = processes(tree, m.id)
	stats.Disk = m.diskUse()
	return stats, nil
}

// group returns a file of the sandbox's group in the hierarchy of a controller, "" without
// one.
func group(tree cgroup.Tree, id, controller, name string) string {
	mount := tree.MountOf(controller)
	if mount == "" {
		return ""
	}
	return filepath.Join(mount, tree.Prefix, id, name)
}

func cpuTime(tree cgroup.Tree, id string) (time.Duration, bool) {
	if tree.Unified {
		used, ok := keyed(group(tree, id, "cpu", "cpu.stat"), "usage_usec")
		return time.Duration(used) * time.Microsecond, ok
	}
	used, ok := number(group(tree, id, "cpuacct", "cpuacct.usage"))
	return time.Duration(used), ok
}

// memoryUse is what the group is charged with, without the pages of files that were not
// used of late: the kernel drops those first, and at once.
func memoryUse(tree cgroup.Tree, id string) (cove.Bytes, bool) {
	current, inactive := "memory.current", "inactive_file"
	if !tree.Unified {
		current, inactive = "memory.usage_in_bytes", "total_inactive_file"
	}
	used, ok := number(group(tree, id, "memory", current))
	cache, _ := keyed(group(tree, id, "memory", "memory.stat"), inactive)
	return cove.Bytes(max(used-cache, 0)), ok
}

// processes counts those in the group but the agent.
func processes(tree cgroup.Tree, id string) *int {
	list, err := os.ReadFile(group(tree, id, "pids", "cgroup.procs"))
	if err != nil {
		return nil
	}
	count := max(strings.Count(string(list), "\n")-1, 0)
	return &count
}

// diskUse is what lies on the disk that is the sandbox's alone, without what the file
// system takes for itself.
func (m *machine) diskUse() *cove.Bytes {
	dir := filepath.Join(m.driver.bundle(m.id), "disk")
	var disk, around unix.Statfs_t
	if unix.Statfs(dir, &disk) != nil || unix.Statfs(filepath.Dir(dir), &around) != nil || disk.Fsid == around.Fsid {
		return nil // it is not mounted, and this would be the host's
	}
	used := cove.Bytes(disk.Blocks-disk.Bfree) * cove.Bytes(disk.Bsize)
	return &used
}

// overlayUse is how much is allocated to the file in which gVisor keeps what is written.
func (m *machine) overlayUse() *cove.Bytes {
	dir := fmt.Sprintf("/proc/%d/fd", m.process.PID)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		target, err := os.Readlink(path)
		if err != nil || !strings.HasPrefix(filepath.Base(target), ".gvisor.filestore.") && !strings.HasPrefix(target, m.driver.disk(m.id)) {
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

func number(path string) (int64, bool) {
	content, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(content)), 10, 64)
	return n, err == nil
}

// keyed returns the number after a key in a file of lines "key number".
func keyed(path, key string) (int64, bool) {
	content, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(content)) {
		if value, ok := strings.CutPrefix(line, key+" "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
