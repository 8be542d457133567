package cgroup

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/covehq/cove"
)

// Stats returns what the kernel says that a sandbox uses. What can't be read, as that of a
// sandbox which is just ending, is left out.
func (t Tree) Stats(id string) *cove.Stats {
	stats := &cove.Stats{Time: time.Now().UTC(), Processes: t.processes(id)}
	if used, ok := t.cpuTime(id); ok {
		duration := cove.Duration(used)
		stats.CPUTime = &duration
	}
	if used, ok := t.memoryUse(id); ok {
		stats.Memory = &used
	}
	return stats
}

// file returns a file of the sandbox's group in the hierarchy of a controller, "" without
// one.
func (t Tree) file(id, controller, name string) string {
	mount := t.MountOf(controller)
	if mount == "" {
		return ""
	}
	return filepath.Join(mount, t.Prefix, id, name)
}

func (t Tree) cpuTime(id string) (time.Duration, bool) {
	if t.Unified {
		used, ok := readKeyed(t.file(id, "cpu", "cpu.stat"), "usage_usec")
		return time.Duration(used) * time.Microsecond, ok
	}
	used, ok := readNumber(t.file(id, "cpuacct", "cpuacct.usage"))
	return time.Duration(used), ok
}

// memoryUse is what the group is charged with, without the pages of files that were not
// used of late: the kernel drops those first, and at once.
func (t Tree) memoryUse(id string) (cove.Bytes, bool) {
	current, inactive := "memory.current", "inactive_file"
	if !t.Unified {
		current, inactive = "memory.usage_in_bytes", "total_inactive_file"
	}
	used, ok := readNumber(t.file(id, "memory", current))
	cache, _ := readKeyed(t.file(id, "memory", "memory.stat"), inactive)
	return cove.Bytes(max(used-cache, 0)), ok
}

// processes counts those in the group but the agent.
func (t Tree) processes(id string) *int {
	list, err := os.ReadFile(t.file(id, "pids", "cgroup.procs"))
	if err != nil {
		return nil
	}
	count := max(strings.Count(string(list), "\n")-1, 0)
	return &count
}

func readNumber(path string) (int64, bool) {
	content, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(content)), 10, 64)
	return n, err == nil
}

// readKeyed returns the number after a key in a file of lines "key number".
func readKeyed(path, key string) (int64, bool) {
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
