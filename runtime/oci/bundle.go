package oci

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
	"github.com/covehq/cove/runtime/internal/bundle"
)

// writeBundle writes the sandbox's OCI configuration.
func (d *Driver) writeBundle(id string, root rootfs, spec *cove.Spec) error {
	hosts, err := bundle.HostsFile(d.bundle(id), spec)
	if err != nil {
		return err
	}
	config, err := d.config(id, root.path, slices.Concat(root.image.Binds, hosts), root.image.Volumes, spec)
	if err != nil {
		return err
	}
	if d.rootless {
		d.unprivileged(config, id, root.file, spec)
	}
	data, err := json.Marshal(config)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(d.bundle(id), "config.json"), data, 0o600)
}

// config maps a spec to OCI's configuration.
func (d *Driver) config(id, rootfs string, binds []image.Bind, volumes []image.Volume, spec *cove.Spec) (*specs.Spec, error) {
	template := d.template()
	template.Volumes = volumes
	return template.Config(rootfs, d.cgroups.Path(id), binds, spec)
}

// resources maps limits to what the cgroup of a sandbox is set to.
func (d *Driver) resources(limits cove.Limits) *specs.LinuxResources {
	return d.template().Resources(limits)
}

func (d *Driver) template() bundle.Template {
	return bundle.Template{Kernel: d.kernel(), Agent: d.options.Agent, Cgroups: bundle.CgroupsOf(d.cgroups)}
}

// kernel is what the system calls of a sandbox meet.
func (d *Driver) kernel() bundle.Kernel {
	if d.kind == kindGvisor {
		return bundle.GvisorKernel
	}
	return bundle.SharedKernel
}
