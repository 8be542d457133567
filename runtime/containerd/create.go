package containerd

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/containerd/api/types"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
	"github.com/covehq/cove/runtime/internal/agent"
	"github.com/covehq/cove/runtime/internal/bundle"
	"github.com/covehq/cove/runtime/internal/life"
	"github.com/covehq/cove/runtime/internal/process"
	"github.com/covehq/cove/sandbox/driver"
)

// Create implements driver.Driver.
func (d *Driver) Create(ctx context.Context, id string, spec *cove.Spec) (driver.Machine, error) {
	if err := driver.CheckID("create", id); err != nil {
		return nil, err
	}
	root, err := d.options.Images.Resolve(ctx, spec.Image)
	if err != nil {
		return nil, err
	}
	// An engine that is stopped is to be found out before there is anything to clear.
	if err := d.engine.ping(ctx); err != nil {
		return nil, err
	}
	machine, err := d.create(ctx, id, spec, root)
	if err == nil {
		return machine, nil
	}
	life.Undo(ctx, d.log, id, removeTimeout, d.Remove)
	return nil, err
}

// removeTimeout bounds the removal of one sandbox.
const removeTimeout = 30 * time.Second

func (d *Driver) create(ctx context.Context, id string, spec *cove.Spec, root *image.Root) (*machine, error) {
	d.held.Take(d.cgroups)
	dir := d.bundle(id)
	for _, parent := range []string{filepath.Dir(dir), d.data, d.runscRoot()} {
		if err := os.MkdirAll(parent, 0o700); err != nil {
			return nil, err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	spec, err := bundle.PlaceBinds(dir, spec)
	if err != nil {
		return nil, err
	}
	rootfs, err := d.prepareRoot(ctx, id, root, spec)
	if err != nil {
		return nil, err
	}
	config, err := d.config(id, root, spec)
	if err != nil {
		return nil, err
	}
	return d.boot(ctx, id, config, d.placeRoot(config, rootfs), spec)
}

// placeRoot says where the root filesystem is: to runc and gVisor by its path, and to other
// shims by a mount, which they may pass on into a virtual machine.
func (d *Driver) placeRoot(config *specs.Spec, rootfs string) []*types.Mount {
	if d.variant.reach != byStdio {
		config.Root.Path = rootfs
		return nil
	}
	config.Root.Path = "rootfs"
	return []*types.Mount{{Type: "bind", Source: rootfs, Options: []string{"rbind", "rw"}}}
}

// prepareRoot makes the sandbox's root filesystem and returns where it is. gVisor keeps what
// is written elsewhere.
func (d *Driver) prepareRoot(ctx context.Context, id string, root *image.Root, spec *cove.Spec) (string, error) {
	dir := d.bundle(id)
	if d.variant.kernel != bundle.GvisorKernel {
		return bundle.RootDir(dir), d.disks.MountRoot(ctx, dir, root, spec.Limits.Disk)
	}
	if err := d.makeDisk(id, spec); err != nil {
		return "", err
	}
	return bundle.PrepareGvisorRoot(dir, root, spec)
}

// config returns the sandbox's OCI configuration.
func (d *Driver) config(id string, root *image.Root, spec *cove.Spec) (*specs.Spec, error) {
	hosts, err := bundle.HostsFile(d.bundle(id), spec)
	if err != nil {
		return nil, err
	}
	template := d.template()
	template.Volumes = root.Volumes
	return template.Config("", d.cgroups.Path(id), slices.Concat(root.Binds, hosts), spec)
}

func (d *Driver) template() bundle.Template {
	template := bundle.Template{Kernel: d.variant.kernel, Agent: d.options.Agent, Cgroups: bundle.CgroupsOf(d.cgroups)}
	if d.variant.kernel == bundle.GuestKernel { // which has all of them, and no swap
		template.Cgroups = bundle.Cgroups{CPU: true, Memory: true, Pids: true}
	}
	return template
}

// boot has the engine run the sandbox, and returns when its agent answers.
func (d *Driver) boot(ctx context.Context, id string, config *specs.Spec, rootfs []*types.Mount, spec *cove.Spec) (_ *machine, err error) {
	var stdio *pipes
	if d.variant.reach == byStdio {
		if stdio, err = newPipes(d.bundle(id), "first"); err != nil {
			return nil, err
		}
	}
	var m *machine
	defer func() {
		if err == nil {
			return
		}
		if m != nil {
			m.release()
		}
		if stdio != nil {
			err = withComplaint(err, stdio)
			_ = stdio.Close()
		}
	}()
	pid, err := d.createTask(ctx, id, config, rootfs, stdio)
	if err != nil {
		return nil, bundle.Refusal(fmt.Errorf("containerd did not make the sandbox: %w", err))
	}
	known := handle{Version: handleVersion, PID: pid, Boot: process.BootID(), Memory: spec.Limits.Memory}
	if m, err = d.machine(id, known); err != nil {
		return nil, err
	}
	if err := d.startTask(ctx, id); err != nil {
		return nil, bundle.Refusal(fmt.Errorf("containerd did not start the sandbox: %w", err))
	}
	if err := m.connect(ctx, stdio); err != nil {
		return nil, err
	}
	return m, life.Ready(ctx, m.Dial, m.End)
}

// withComplaint adds what the first process said last, should it have said anything.
func withComplaint(err error, stdio *pipes) error {
	if said := stdio.said.String(); said != "" {
		return fmt.Errorf("%w: %s", err, said)
	}
	return err
}

// link is a way to the agent.
type link interface {
	// Dial opens a fresh stream.
	Dial(ctx context.Context) (net.Conn, error)
	// Close makes every later Dial fail.
	Close()
}

// link returns the way to the agent of a sandbox that runs. stdio is the first process's, of
// a fresh one that has any.
func (d *Driver) link(ctx context.Context, m *machine, stdio *pipes) (link, error) {
	switch d.variant.reach {
	case bySocket:
		return socketLink{agent.Socket{First: m.first}}, nil
	case byDoor:
		door, err := d.openDoor(ctx, m.id)
		if err != nil { // a nil door is not a nil link
			return nil, fmt.Errorf("guest agent: %w", err)
		}
		return door, nil
	default:
		return d.line(m.id, stdio), nil
	}
}

// socketLink is a link for which there is nothing to close.
type socketLink struct{ agent.Socket }

// Close implements link.
func (socketLink) Close() {}
