package containerd

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// helper is a process that the engine has started for a container of this driver's: its
// shim, or a runtime program that the shim runs.
type helper struct {
	pid       int
	container string
	deletes   bool // it removes what the engine has on disk, which nobody else would
}

// helpers returns the helpers of one container; "": of all that are this driver's.
func (d *Driver) helpers(name string) []helper {
	var found []helper
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		args := strings.Split(string(line), "\x00")
		container := helperOf(args)
		if container == name || name == "" && strings.HasPrefix(container, d.instance+"-") {
			found = append(found, helper{pid, container, slices.Contains(args, "delete")})
		}
	}
	return found
}

// helperOf returns the container in Cove's namespace that a process with these arguments
// serves, or "": shims are told it, and runtime programs the engine's directory of it.
func helperOf(args []string) string {
	if flag(args, "-namespace") == namespace {
		return flag(args, "-id")
	}
	if dir := flag(args, "--bundle"); filepath.Base(filepath.Dir(dir)) == namespace {
		return filepath.Base(dir)
	}
	return ""
}

// flag returns the value of a flag, of which a runtime program's may be written as one word.
func flag(args []string, name string) string {
	for i, arg := range args {
		if value, ok := strings.CutPrefix(arg, name+"="); ok {
			return value
		}
		if arg == name && i+1 < len(args) {
			return args[i+1]
		}
	}
	return ""
}

// endHelpers kills the helpers of a container, and reports whether there were any. Those that
// remove something end by themselves.
func (d *Driver) endHelpers(name string) bool {
	found := d.helpers(name)
	for _, h := range found {
		if !h.deletes {
			_ = unix.Kill(h.pid, unix.SIGKILL)
		}
	}
	return len(found) > 0
}

// leaving is how long a shim may take to end after its container was removed.
const leaving = time.Second

// abandoned returns the sandboxes of which there are helpers and nothing else: of a create
// that the engine began after everything of it was removed. Known are those that are found
// by other means.
func (d *Driver) abandoned(ctx context.Context, known []string) []string {
	var ids []string
	for _, h := range d.helpers("") {
		id := strings.TrimPrefix(h.container, d.instance+"-")
		if !slices.Contains(known, id) && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	for end := time.Now().Add(leaving); len(ids) > 0 && time.Now().Before(end) && ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
		ids = slices.DeleteFunc(ids, func(id string) bool { return len(d.helpers(d.container(id))) == 0 })
	}
	return ids
}
