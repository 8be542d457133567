package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/covehq/cove/image"
	"github.com/covehq/cove/internal/daemon"
	"github.com/covehq/cove/runtime/containerd"
	"github.com/covehq/cove/runtime/docker"
	"github.com/covehq/cove/runtime/oci"
	"github.com/covehq/cove/sandbox/driver"
)

// ociOptions returns where the OCI drivers keep what they make.
func ociOptions(dirs daemon.Dirs) oci.Options {
	return oci.Options{StateDir: filepath.Join(dirs.State, "oci"), DataDir: filepath.Join(dirs.Data, "oci")}
}

// dockerOptions returns where the Docker drivers keep what they make.
func dockerOptions(dirs daemon.Dirs) docker.Options {
	return docker.Options{StateDir: filepath.Join(dirs.State, "docker"), DataDir: filepath.Join(dirs.Data, "docker")}
}

// containerdOptions returns where the containerd drivers keep what they make.
func containerdOptions(dirs daemon.Dirs) containerd.Options {
	return containerd.Options{StateDir: filepath.Join(dirs.State, "containerd"), DataDir: filepath.Join(dirs.Data, "containerd")}
}

// release removes what drivers keep from one sandbox to the next, where none is left.
func release(dirs daemon.Dirs) error {
	return errors.Join(oci.Release(ociOptions(dirs)), containerd.Release(containerdOptions(dirs)), docker.Release(dockerOptions(dirs)))
}

// drivers returns the opener of every runtime family, by its name.
func drivers(dirs daemon.Dirs, images *image.Store, log *slog.Logger) (map[string]driver.Opener, error) {
	agent, err := helper("cove-agent", "COVE_AGENT")
	if err != nil {
		return nil, err
	}
	runsc, err := helper("cove-runsc", "COVE_RUNSC")
	if err != nil {
		return nil, err
	}
	o := ociOptions(dirs)
	o.Images, o.Agent, o.Runsc, o.Logger = images, agent, runsc, log
	c := containerdOptions(dirs)
	c.Images, c.Agent, c.Runsc, c.Logger = images, agent, runsc, log
	e := dockerOptions(dirs)
	e.Images, e.Agent, e.Logger = images, agent, log
	return map[string]driver.Opener{
		"gvisor": oci.Gvisor(o),
		"runc":   oci.Named(o, "runc"),
		"crun":   oci.Named(o, "crun"),
		"oci":    oci.Any(o),

		"containerd": containerd.Open(c),
		"kata":       containerd.Kata(c),
		"docker":     docker.Open(e),
	}, nil
}

// helper returns the path of a program that comes with this one: where the variable says,
// else beside it. Whether the program is there is for the runtime that needs it to find
// out, since the others work without.
func helper(name, variable string) (string, error) {
	if path := os.Getenv(variable); path != "" {
		return filepath.Abs(path)
	}
	self, err := os.Executable()
	if err == nil {
		// A link to this program may lie anywhere; what it leads to lies with the others.
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		return "", fmt.Errorf("find %s: %w", name, err)
	}
	return filepath.Join(filepath.Dir(self), name), nil
}

// variants returns the runtimes that are described beside the families: those that most
// who have an engine look for.
func variants() []string { return []string{"containerd:gvisor", "docker:gvisor"} }
