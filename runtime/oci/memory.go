package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
)

// samplePeriod is how often the memory of a sandbox is looked at that no cgroup bounds.
const samplePeriod = 200 * time.Millisecond

// guestMemory finds gVisor's memory file: what all programs inside have, and the files that
// gVisor keeps in memory, are pages of it.
type guestMemory struct {
	pid  int
	path atomic.Pointer[string] // below /proc, once found
}

// bytes returns how much memory the guest has now.
func (g *guestMemory) bytes() (cove.Bytes, error) {
	path := g.path.Load()
	if path == nil {
		found, err := findMemoryFile(g.pid)
		if err != nil {
			return 0, err
		}
		path = &found
		g.path.Store(path)
	}
	var st unix.Stat_t
	if err := unix.Stat(*path, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: *path, Err: err}
	}
	return cove.Bytes(st.Blocks * 512), nil
}

func findMemoryFile(pid int) (string, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if target, err := os.Readlink(path); err == nil && strings.HasPrefix(target, "/memfd:runsc-memory") {
			return path, nil
		}
	}
	return "", fmt.Errorf("process %d has no memory file of gVisor's", pid)
}

// sampleMemory ends the sandbox when it has more memory than its limit, some time after it
// got it: for hosts where this user has no cgroup of its own.
func (m *machine) sampleMemory() {
	ticker := time.NewTicker(samplePeriod)
	defer ticker.Stop()
	memory := guestMemory{pid: m.process.PID}
	for {
		select {
		case <-m.Gone():
			return
		case <-ticker.C:
		}
		if used, err := memory.bytes(); err == nil && used > m.known.Memory {
			m.overLimit.Store(true)
			m.process.Kill()
		}
	}
}
