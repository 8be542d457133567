// Package cgroup provides the control groups of sandboxes: one for each, below a prefix of
// the driver's own, in version 1 or 2.
package cgroup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Tree is where a driver's sandboxes have their cgroups: one group per sandbox
// below one prefix, in every hierarchy of v1 or in the one of v2.
type Tree struct {
	Prefix      string // below each hierarchy, without slashes at its ends
	Unified     bool   // v2
	Own         bool   // made by this driver and not by the runtime program: see delegate.go
	Hierarchies []Hierarchy
}

// Hierarchy is one mounted hierarchy.
type Hierarchy struct {
	Mount       string
	Controllers []string
}

// Find reads this process's mounts. A v2 hierarchy beside v1 ones (the hybrid
// layout) has no controllers, but runc makes a group there too.
func Find(prefix string) Tree {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return Tree{Prefix: prefix}
	}
	defer file.Close()
	tree := parse(bufio.NewScanner(file))
	tree.Prefix = prefix
	for i, h := range tree.Hierarchies {
		if tree.Unified {
			content, _ := os.ReadFile(filepath.Join(h.Mount, "cgroup.controllers"))
			tree.Hierarchies[i].Controllers = strings.Fields(string(content))
		}
	}
	return tree
}

// parse finds the cgroup mounts in the lines of mountinfo, proc(5).
func parse(lines *bufio.Scanner) Tree {
	var v1, v2 []Hierarchy
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) < 3 {
			continue
		}
		mount := fields[4]
		switch kind[0] {
		case "cgroup":
			v1 = append(v1, Hierarchy{mount, strings.Split(kind[2], ",")})
		case "cgroup2":
			v2 = append(v2, Hierarchy{Mount: mount})
		}
	}
	if len(v1) == 0 {
		return Tree{Unified: true, Hierarchies: v2[:min(len(v2), 1)]}
	}
	return Tree{Hierarchies: append(v1, v2...)}
}

// Has reports whether the controller can be used.
func (t Tree) Has(controller string) bool { return t.MountOf(controller) != "" }

// MountOf returns where the hierarchy of a controller is mounted, "" if it can't be used.
func (t Tree) MountOf(controller string) string {
	for _, h := range t.Hierarchies {
		if slices.Contains(h.Controllers, controller) {
			return h.Mount
		}
	}
	return ""
}

// Path returns what the OCI configuration calls the cgroup of a sandbox.
func (t Tree) Path(id string) string { return "/" + t.Prefix + "/" + id }

// Dirs returns the sandbox's group in every hierarchy, whether it exists or not.
func (t Tree) Dirs(id string) []string {
	dirs := make([]string, len(t.Hierarchies))
	for i, h := range t.Hierarchies {
		dirs[i] = filepath.Join(h.Mount, t.Prefix, id)
	}
	return dirs
}

// List returns the ids that have a group anywhere.
func (t Tree) List() []string {
	var ids []string
	for _, h := range t.Hierarchies {
		entries, _ := os.ReadDir(filepath.Join(h.Mount, t.Prefix))
		for _, entry := range entries {
			if entry.IsDir() {
				ids = append(ids, entry.Name())
			}
		}
	}
	return ids
}

// OOMKills returns how often the kernel killed something of the sandbox for memory.
func (t Tree) OOMKills(id string) int {
	name := "memory.oom_control"
	if t.Unified {
		name = "memory.events"
	}
	content, _ := os.ReadFile(filepath.Join(t.MountOf("memory"), t.Prefix, id, name))
	for line := range strings.Lines(string(content)) {
		if count, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(count))
			return n
		}
	}
	return 0
}

// WatchOOM returns a file that becomes readable when the sandbox breaches its memory
// limit, on v1, where the kernel kills one process and leaves the rest. On v2 it returns
// nil: memory.oom.group ends the sandbox as a whole.
func (t Tree) WatchOOM(id string) (*os.File, error) {
	mount := t.MountOf("memory")
	if t.Unified || mount == "" {
		return nil, nil
	}
	dir := filepath.Join(mount, t.Prefix, id)
	control, err := os.Open(filepath.Join(dir, "memory.oom_control"))
	if err != nil {
		return nil, err
	}
	defer control.Close()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	event := os.NewFile(uintptr(fd), "oom event")
	line := fmt.Sprintf("%d %d", fd, control.Fd())
	if err := os.WriteFile(filepath.Join(dir, "cgroup.event_control"), []byte(line), 0); err != nil {
		event.Close()
		return nil, err
	}
	return event, nil
}

// Breached waits for what WatchOOM returned, and reports whether the sandbox has breached
// its memory limit. It has not when the event was closed, as it is at the end of a sandbox,
// nor when the group is gone, of which the kernel tells in the same way.
func (t Tree) Breached(id string, event *os.File) bool {
	if _, err := event.Read(make([]byte, 8)); err != nil {
		return false
	}
	_, err := os.Stat(filepath.Join(t.MountOf("memory"), t.Prefix, id))
	return err == nil
}

// Remove kills every process of the sandbox's groups and removes the groups.
func (t Tree) Remove(ctx context.Context, id string) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		err := t.removeOnce(id)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(pause): // a killed process leaves its group a moment later
		}
	}
}

func (t Tree) removeOnce(id string) error {
	var errs []error
	for _, dir := range t.Dirs(id) {
		var groups []string // parents first
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				groups = append(groups, path)
			}
			return nil
		})
		if err != nil {
			errs = append(errs, err)
		}
		for _, group := range slices.Backward(groups) {
			killGroup(group)
			if err := unix.Rmdir(group); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, &os.PathError{Op: "rmdir", Path: group, Err: err})
			}
		}
	}
	return errors.Join(errs...)
}

// killGroup kills the processes of one group.
func killGroup(dir string) {
	if os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) == nil { // v2, Linux 5.14
		return
	}
	content, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	for line := range strings.Lines(string(content)) {
		if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 1 && pid != os.Getpid() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// LimitsSwap reports whether the kernel counts swap for cgroups: on v1 that is a boot option.
func (t Tree) LimitsSwap() bool {
	mount := t.MountOf("memory")
	return mount != "" && (t.Unified || unix.Access(filepath.Join(mount, "memory.memsw.limit_in_bytes"), unix.R_OK) == nil)
}
