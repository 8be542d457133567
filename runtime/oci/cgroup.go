package oci

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

// cgroupTree is where this driver's sandboxes have their cgroups: one group per sandbox
// below one prefix, in every hierarchy of v1 or in the one of v2.
type cgroupTree struct {
	prefix      string // below each hierarchy, without slashes at its ends
	unified     bool   // v2
	own         bool   // made by this driver and not by the runtime program: see delegate.go
	hierarchies []hierarchy
}

type hierarchy struct {
	mount       string
	controllers []string
}

// findCgroups reads this process's mounts. A v2 hierarchy beside v1 ones (the hybrid
// layout) has no controllers, but runc makes a group there too.
func findCgroups(prefix string) cgroupTree {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return cgroupTree{prefix: prefix}
	}
	defer file.Close()
	tree := parseCgroups(bufio.NewScanner(file))
	tree.prefix = prefix
	for i, h := range tree.hierarchies {
		if tree.unified {
			content, _ := os.ReadFile(filepath.Join(h.mount, "cgroup.controllers"))
			tree.hierarchies[i].controllers = strings.Fields(string(content))
		}
	}
	return tree
}

// parseCgroups finds the cgroup mounts in the lines of mountinfo, proc(5).
func parseCgroups(lines *bufio.Scanner) cgroupTree {
	var v1, v2 []hierarchy
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) < 3 {
			continue
		}
		mount := fields[4]
		switch kind[0] {
		case "cgroup":
			v1 = append(v1, hierarchy{mount, strings.Split(kind[2], ",")})
		case "cgroup2":
			v2 = append(v2, hierarchy{mount: mount})
		}
	}
	if len(v1) == 0 {
		return cgroupTree{unified: true, hierarchies: v2[:min(len(v2), 1)]}
	}
	return cgroupTree{hierarchies: append(v1, v2...)}
}

// has reports whether the controller can be used.
func (t cgroupTree) has(controller string) bool { return t.mountOf(controller) != "" }

func (t cgroupTree) mountOf(controller string) string {
	for _, h := range t.hierarchies {
		if slices.Contains(h.controllers, controller) {
			return h.mount
		}
	}
	return ""
}

// path returns what the OCI configuration calls the cgroup of a sandbox.
func (t cgroupTree) path(id string) string { return "/" + t.prefix + "/" + id }

// dirs returns the sandbox's group in every hierarchy, whether it exists or not.
func (t cgroupTree) dirs(id string) []string {
	dirs := make([]string, len(t.hierarchies))
	for i, h := range t.hierarchies {
		dirs[i] = filepath.Join(h.mount, t.prefix, id)
	}
	return dirs
}

// list returns the ids that have a group anywhere.
func (t cgroupTree) list() []string {
	var ids []string
	for _, h := range t.hierarchies {
		entries, _ := os.ReadDir(filepath.Join(h.mount, t.prefix))
		for _, entry := range entries {
			if entry.IsDir() {
				ids = append(ids, entry.Name())
			}
		}
	}
	return ids
}

// oomKills returns how often the kernel killed something of the sandbox for memory.
func (t cgroupTree) oomKills(id string) int {
	name := "memory.oom_control"
	if t.unified {
		name = "memory.events"
	}
	content, _ := os.ReadFile(filepath.Join(t.mountOf("memory"), t.prefix, id, name))
	for line := range strings.Lines(string(content)) {
		if count, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(count))
			return n
		}
	}
	return 0
}

// watchOOM returns a file that becomes readable when the sandbox breaches its memory
// limit, on v1, where the kernel kills one process and leaves the rest. On v2 it returns
// nil: memory.oom.group ends the sandbox as a whole.
func (t cgroupTree) watchOOM(id string) (*os.File, error) {
	mount := t.mountOf("memory")
	if t.unified || mount == "" {
		return nil, nil
	}
	dir := filepath.Join(mount, t.prefix, id)
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

// remove kills every process of the sandbox's groups and removes the groups.
func (t cgroupTree) remove(ctx context.Context, id string) error {
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

func (t cgroupTree) removeOnce(id string) error {
	var errs []error
	for _, dir := range t.dirs(id) {
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
