package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// An ordinary user's limits hold where a service manager has delegated a cgroup to the
// daemon: systemd to a service of the user's own with Delegate=yes, or an administrator by
// giving the user the daemon's group. See cgroups(7), "Cgroup delegation".

// daemonGroup is where the daemon keeps itself below a delegated group of v2, whose own
// processes must be in leaves.
const daemonGroup = "cove-daemon"

// Claim prepares the cgroup that was delegated to this process, if there is one, for
// the groups of sandboxes. It moves the process within that group; it is for a daemon,
// before it opens a driver.
func Claim() error {
	if os.Geteuid() == 0 {
		return nil
	}
	for _, h := range delegated() {
		if len(h.Controllers) > 0 || filepath.Base(h.Mount) == daemonGroup {
			continue // v1, or claimed by an earlier call
		}
		if err := claim(h.Mount); err != nil {
			return err
		}
	}
	return nil
}

// claim turns group, which this process is in, into one that passes its controllers on.
func claim(group string) error {
	leaf := filepath.Join(group, daemonGroup)
	if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("delegated cgroup: %w", err)
	}
	if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		return fmt.Errorf("delegated cgroup: %w", err)
	}
	return nil
}

// delegated returns the groups of this process in which it may make others, as hierarchies
// that begin there. A group of v2 has no controllers in it yet.
func delegated() []Hierarchy {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var writable []Hierarchy
	for _, h := range ownGroups(string(own), string(mounts)) {
		if unix.Access(h.Mount, unix.W_OK|unix.X_OK) == nil && unix.Access(filepath.Join(h.Mount, "cgroup.procs"), unix.W_OK) == nil {
			writable = append(writable, h)
		}
	}
	return writable
}

// ownGroups returns the group of a process in every hierarchy, from the contents of
// /proc/PID/cgroup (cgroups(7)) and mountinfo.
func ownGroups(own, mountinfo string) []Hierarchy {
	paths := map[string]string{} // by the hierarchy's controllers; v2 has none
	for line := range strings.Lines(own) {
		if fields := strings.SplitN(strings.TrimSpace(line), ":", 3); len(fields) == 3 {
			paths[fields[1]] = fields[2]
		}
	}
	var groups []Hierarchy
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) < 3 || kind[0] != "cgroup" && kind[0] != "cgroup2" {
			continue
		}
		for controllers, path := range paths {
			below, inside := strings.CutPrefix(path, strings.TrimSuffix(fields[3], "/"))
			matches := kind[0] == "cgroup2" && controllers == "" || kind[0] == "cgroup" && controllers != "" && hasOptions(kind[2], controllers)
			if !inside || !matches {
				continue
			}
			h := Hierarchy{Mount: filepath.Join(fields[4], below)}
			if controllers != "" {
				h.Controllers = strings.Split(controllers, ",")
			}
			groups = append(groups, h)
		}
	}
	return groups
}

// hasOptions reports whether each of names is among the options of a mount.
func hasOptions(options, names string) bool {
	have := "," + options + ","
	for name := range strings.SplitSeq(names, ",") {
		if !strings.Contains(have, ","+name+",") {
			return false
		}
	}
	return true
}

// FindDelegated returns the tree of an ordinary user's sandboxes, which is empty where
// nothing was delegated.
func FindDelegated(prefix string) Tree {
	tree := Tree{Prefix: prefix, Own: true}
	var unified []Hierarchy
	for _, h := range delegated() {
		if len(h.Controllers) > 0 {
			tree.Hierarchies = append(tree.Hierarchies, h)
			continue
		}
		if filepath.Base(h.Mount) != daemonGroup {
			continue // not claimed: this process is no daemon, and makes no sandboxes
		}
		h.Mount = filepath.Dir(h.Mount)
		content, _ := os.ReadFile(filepath.Join(h.Mount, "cgroup.controllers"))
		if h.Controllers = strings.Fields(string(content)); len(h.Controllers) > 0 && passOn(h.Mount, h.Controllers) == nil {
			unified = append(unified, h)
		}
	}
	if len(tree.Hierarchies) == 0 && len(unified) > 0 {
		tree.Hierarchies, tree.Unified = unified, true
	}
	return tree
}

// passOn lets the groups below dir have the controllers that limits need.
func passOn(dir string, controllers []string) error {
	for _, controller := range controllers {
		switch controller {
		case "cpu", "memory", "pids":
			if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// Make makes the groups of a sandbox and sets their limits, where the runtime program
// can't: it is told to leave cgroups alone. What is made on error is for remove.
func (t Tree) Make(id string, limits *specs.LinuxResources) error {
	if !t.Own {
		return nil
	}
	for _, h := range t.Hierarchies {
		dir := h.Mount
		for part := range strings.SplitSeq(t.Prefix+"/"+id, "/") {
			if t.Unified {
				if err := passOn(dir, h.Controllers); err != nil {
					return fmt.Errorf("cgroup: %w", err)
				}
			}
			dir = filepath.Join(dir, part)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
				return fmt.Errorf("cgroup: %w", err)
			}
		}
		for name, value := range t.values(h, limits) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(value), 0); err != nil {
				return fmt.Errorf("cgroup: %w", err)
			}
		}
	}
	return nil
}

// values returns what to write to the files of a group for the limits that its hierarchy
// has.
func (t Tree) values(h Hierarchy, limits *specs.LinuxResources) map[string]string {
	values := map[string]string{}
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	for _, controller := range h.Controllers {
		switch {
		case controller == "memory" && limits.Memory != nil:
			if !t.Unified {
				values["memory.limit_in_bytes"] = number(*limits.Memory.Limit)
				continue
			}
			values["memory.max"], values["memory.swap.max"] = number(*limits.Memory.Limit), "0"
			values["memory.oom.group"] = "1"
		case controller == "pids" && limits.Pids != nil:
			values["pids.max"] = number(limits.Pids.Limit)
		case controller == "cpu" && limits.CPU != nil && t.Unified:
			values["cpu.max"] = fmt.Sprintf("%d %d", *limits.CPU.Quota, *limits.CPU.Period)
		case controller == "cpu" && limits.CPU != nil:
			values["cpu.cfs_period_us"] = strconv.FormatUint(*limits.CPU.Period, 10)
			values["cpu.cfs_quota_us"] = number(*limits.CPU.Quota)
		}
	}
	return values
}

// Procs returns the files by which a process enters the sandbox's groups, where it has to
// do so itself.
func (t Tree) Procs(id string) []string {
	if !t.Own {
		return nil
	}
	dirs := t.Dirs(id)
	for i := range dirs {
		dirs[i] = filepath.Join(dirs[i], "cgroup.procs")
	}
	return dirs
}
