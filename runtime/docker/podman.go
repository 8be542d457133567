package docker

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
	"github.com/covehq/cove/runtime/internal/bundle"
	"github.com/covehq/cove/runtime/internal/process"
)

// What Podman answers on the engine's API, and where it differs from Docker: it makes words of
// its own command line of what it gets, takes a seccomp profile by the name of a file, gives
// containers more processes than it may itself, and runs all of them with one runtime.

// isPodman reports whether an engine is one.
func isPodman(version client.ServerVersionResult) bool {
	return slices.ContainsFunc(version.Components, func(c system.ComponentVersion) bool { return c.Name == "Podman Engine" })
}

// choosePodman returns the runtime that is meant, if it is Podman's default. It takes no notice of
// the runtime that a container is to have: one for gVisor would share the host's kernel.
func (d *Driver) choosePodman(info *system.Info) (string, bool) {
	name := path.Base(info.DefaultRuntime) // or the program's path
	shared := d.name == "docker" && kernelOf(name, info.Runtimes[name].Path, "") == bundle.SharedKernel
	return name, shared || slices.Contains(d.runtimes, name)
}

// withoutNames returns variables of which those without a value have an empty one: Podman would
// leave them as the image has them.
func withoutNames(env []string) []string {
	env = slices.Clone(env)
	for i, variable := range env {
		if !strings.Contains(variable, "=") {
			env[i] += "="
		}
	}
	return env
}

// podmanWords are the characters that mean something in podman's --mount and --tmpfs, in which
// it writes targets and sources as they are: what comes after one would be an option, such as
// another source.
const podmanWords = ",:\"\\\r\n"

// checkForPodman refuses what Podman would take for something else.
func checkForPodman(config *container.HostConfig) error {
	var words []string
	for _, m := range config.Mounts {
		words = append(words, m.Source, m.Target)
	}
	for target := range config.Tmpfs {
		words = append(words, target)
	}
	for _, word := range words {
		if strings.ContainsAny(word, podmanWords) {
			return cove.Errorf(cove.NotSupported, "create", "", fmt.Sprintf("podman can't mount %.200q: of its characters some are podman's own", word),
				"leave commas, colons, quotes and backslashes out of the paths of mounts")
		}
	}
	return nil
}

// fitPodman changes what a container is asked to be, for Podman. The sandbox's directory is where
// Podman finds the seccomp profile.
func fitPodman(config *container.HostConfig, spec *cove.Spec, f *facts, dir string) error {
	if err := checkForPodman(config); err != nil {
		return err
	}
	const inline = "seccomp="
	for i, option := range config.SecurityOpt {
		profile, ok := strings.CutPrefix(option, inline)
		if !ok {
			continue
		}
		if !f.local { // then its own profile holds: see controls
			config.SecurityOpt = slices.Delete(config.SecurityOpt, i, i+1)
			break
		}
		file := filepath.Join(dir, "seccomp.json")
		if err := os.WriteFile(file, []byte(profile), 0o600); err != nil {
			return err
		}
		config.SecurityOpt[i] = inline + file
	}
	if f.processes != 0 {
		config.Ulimits = append(config.Ulimits, &container.Ulimit{Name: "nproc", Soft: f.processes, Hard: f.processes})
	}
	if config.ReadonlyRootfs {
		closeRoot(config, spec)
	}
	for target, options := range config.Tmpfs {
		// It would fill memory with what the image has there, whose mode it takes too.
		config.Tmpfs[target] = withoutOwner(options) + ",notmpcopyup"
	}
	return nil
}

// closeRoot makes a read-only root one, on which Podman puts memory that can be written unless
// there is something. One that is replaced anyway need not be read-only.
func closeRoot(config *container.HostConfig, spec *cove.Spec) {
	if config.ReadonlyRootfs = spec.ReadOnly; !spec.ReadOnly {
		return
	}
	for _, dir := range []string{"/run", "/var/tmp"} {
		if _, ok := config.Tmpfs[dir]; !ok && !slices.ContainsFunc(config.Mounts, func(m mount.Mount) bool { return m.Target == dir }) {
			config.Tmpfs[dir] = tmpfs(cove.MiB, "mode=0755", "ro")
		}
	}
}

// ownWorkspace gives the memory at /workspace to the sandbox's user: its runtime gives it the owner
// of what it lies on. It is a mount, in whose place nobody inside can put something else.
func ownWorkspace(first *process.Process) error {
	return inNamespaceOf(first, func() error {
		if err := unix.Lchown(workspace, image.UserID, image.UserID); err != nil {
			return &os.PathError{Op: "chown", Path: workspace, Err: err}
		}
		return nil
	})
}

// withoutOwner returns options of a tmpfs in which nobody owns it, but anybody may write: Podman
// knows no owners.
func withoutOwner(options string) string {
	words := strings.Split(options, ",")
	owned := slices.ContainsFunc(words, func(word string) bool { return strings.HasPrefix(word, "uid=") })
	if !owned {
		return options
	}
	words = slices.DeleteFunc(words, func(word string) bool {
		return strings.HasPrefix(word, "uid=") || strings.HasPrefix(word, "gid=") || strings.HasPrefix(word, "mode=")
	})
	return strings.Join(append(words, "mode=1777"), ",")
}

// processesOf returns how many processes the user of an engine may have by its own limit, -1 for
// any number, and 0 where that is not known.
func processesOf(pid int) int64 {
	var limit unix.Rlimit
	if pid == 0 || unix.Prlimit(pid, unix.RLIMIT_NPROC, nil, &limit) != nil {
		return 0
	}
	return int64(limit.Max) // RLIM_INFINITY is -1 there
}
