package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/agent"
	"github.com/covehq/cove/runtime/internal/bundle"
	"github.com/covehq/cove/runtime/internal/life"
	"github.com/covehq/cove/runtime/internal/process"
	"github.com/covehq/cove/sandbox/driver"
)

// validContainer is what engines call containers. What comes from one becomes part of the
// path of the next request.
var validContainer = regexp.MustCompile(`^[a-f0-9]{64}$`)

// dir is what a sandbox has on this machine; it exists as long as anything of it does.
func (d *Driver) dir(id string) string { return filepath.Join(d.state, id) }

// removeTimeout bounds the removal of one sandbox.
const removeTimeout = 45 * time.Second

// Create implements driver.Driver.
func (d *Driver) Create(ctx context.Context, id string, spec *cove.Spec) (driver.Machine, error) {
	if err := driver.CheckID("create", id); err != nil {
		return nil, err
	}
	f, err := d.facts(ctx)
	if err != nil {
		return nil, err
	}
	if err := d.engine.ping(ctx); err != nil {
		d.forget(err)
		return nil, err
	}
	machine, err := d.attempt(ctx, id, spec, f)
	if errdefs.IsNotFound(err) { // somebody has removed the image: it is looked for, or made, again
		d.forgetImages()
		machine, err = d.attempt(ctx, id, spec, f)
	}
	if err != nil {
		d.forget(err)
		return nil, outward(err)
	}
	return machine, nil
}

// attempt makes a sandbox of what the driver knows of the engine. On error nothing is left.
func (d *Driver) attempt(ctx context.Context, id string, spec *cove.Spec, f *facts) (*machine, error) {
	from, err := d.resolve(ctx, spec, f)
	if err != nil {
		return nil, err
	}
	if !f.local {
		if from.agent, err = d.agentVolume(ctx, from.id); err != nil {
			return nil, err
		}
	}
	machine, err := d.create(ctx, id, spec, f, from)
	if err == nil {
		return machine, nil
	}
	life.Undo(ctx, d.log, id, removeTimeout, d.Remove)
	return nil, err
}

// outward gives an error of the engine's its meaning for whoever asked for the sandbox.
func outward(err error) error {
	var ready *cove.Error
	switch {
	case errors.As(err, &ready):
		return err
	case errdefs.IsInvalidArgument(err):
		return &cove.Error{Code: cove.Invalid, Op: "create", Err: err, Hint: "change what the engine refuses"}
	case errdefs.IsNotFound(err):
		return &cove.Error{Code: cove.NotFound, Op: "create", Err: err, Hint: "pull the image again, and look whether the volumes and the network are there"}
	}
	return err
}

func (d *Driver) create(ctx context.Context, id string, spec *cove.Spec, f *facts, from *source) (_ *machine, err error) {
	if f.near && !f.systemd {
		d.held.Take(d.cgroups)
	}
	dir := d.dir(id)
	if err := os.MkdirAll(d.state, 0o700); err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	placed, err := bundle.PlaceBinds(dir, spec) // engines go by names
	if err != nil {
		return nil, err
	}
	if err := d.makeVolumes(ctx, id, spec); err != nil {
		return nil, err
	}
	byStreams := !f.givesDisk()
	made, err := d.createContainer(ctx, id, placed, f, from, byStreams)
	if err != nil {
		return nil, err
	}
	var stdio *stdio
	if byStreams {
		if from.over != "" && !spec.ReadOnly {
			if err := d.layOver(ctx, made, from.over); err != nil {
				return nil, err
			}
		}
		if stdio, err = d.attach(ctx, made); err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				_ = stdio.Close()
			}
		}()
	}
	if err := d.start(ctx, made); err != nil {
		return nil, err
	}
	known := handle{Version: handleVersion, Container: made, Memory: spec.Limits.Memory, Disk: spec.Limits.Disk, Boot: process.BootID(), Direct: f.givesDisk()}
	m, err := d.bringUp(ctx, id, known, f, from, spec, stdio)
	if err != nil {
		return nil, err
	}
	// The sandbox has its own by now.
	if err := bundle.UnmountBinds(dir); err != nil {
		m.release()
		return nil, err
	}
	return m, nil
}

// createContainer returns the engine's name for the container that it made.
func (d *Driver) createContainer(ctx context.Context, id string, spec *cove.Spec, f *facts, from *source, stdin bool) (string, error) {
	limits, err := d.hostConfig(id, spec, f, from)
	if err != nil {
		return "", err
	}
	options := client.ContainerCreateOptions{Name: containerName(id), Config: d.config(id, spec, f, from, stdin), HostConfig: limits}
	if options.Platform, err = parsePlatform(spec.Platform); err != nil {
		return "", err
	}
	var made client.ContainerCreateResult
	err = d.engine.finish(ctx, func(ctx context.Context, c *client.Client) (err error) {
		made, err = c.ContainerCreate(ctx, options)
		return err
	})
	switch {
	case err != nil:
		return "", fmt.Errorf("the engine did not create the sandbox: %w", err)
	case !validContainer.MatchString(made.ID):
		return "", fmt.Errorf("the engine calls a container %.80q", made.ID)
	}
	return made.ID, ctx.Err()
}

func (d *Driver) start(ctx context.Context, made string) error {
	err := d.engine.finish(ctx, func(ctx context.Context, c *client.Client) error {
		_, err := c.ContainerStart(ctx, made, client.ContainerStartOptions{})
		return err
	})
	if err != nil {
		return bundle.Refusal(fmt.Errorf("the engine did not start the sandbox: %w", err))
	}
	return ctx.Err()
}

// bringUp makes the machine of a container that was started, and returns when its agent
// answers.
func (d *Driver) bringUp(ctx context.Context, id string, known handle, f *facts, from *source, spec *cove.Spec, stdio *stdio) (*machine, error) {
	if f.near {
		state, err := d.stateOf(ctx, known.Container)
		if err != nil {
			return nil, err
		}
		known.PID = state.Pid
	}
	m, err := d.machine(id, known, f)
	if err != nil {
		return nil, d.why(ctx, known.Container, err, stdio)
	}
	m.link = d.linkOf(m, stdio)
	if f.givesDisk() && !spec.ReadOnly {
		if err := d.giveDisk(ctx, m.first, d.dir(id), from.over, spec.Limits.Disk); err != nil {
			m.release()
			return nil, d.why(ctx, known.Container, fmt.Errorf("disk: %w", err), stdio)
		}
	}
	if f.podman && f.givesDisk() && spec.ReadOnly && !hasMount(spec, workspace) {
		if err := ownWorkspace(m.first); err != nil {
			m.release()
			return nil, d.why(ctx, known.Container, err, stdio)
		}
	}
	if err := agent.Ready(ctx, m.Dial, m.Gone()); err != nil {
		m.release()
		return nil, d.why(ctx, known.Container, err, stdio)
	}
	return m, nil
}

// why adds to an error what the agent said and how it ended, if it did.
func (d *Driver) why(ctx context.Context, made string, err error, stdio *stdio) error {
	if ctx.Err() != nil {
		return err
	}
	if said := stdio.complaint(); said != "" {
		err = fmt.Errorf("%w: %s", err, said)
	}
	state, failed := d.stateOf(ctx, made)
	if failed != nil || state.Running {
		return err
	}
	return fmt.Errorf("%w: it ended with code %d %.300s", err, state.ExitCode, strings.ToValidUTF8(state.Error, "?"))
}

// stateOf asks the engine once how a container is.
func (d *Driver) stateOf(ctx context.Context, made string) (*container.State, error) {
	var found client.ContainerInspectResult
	err := d.engine.call(ctx, func(ctx context.Context, c *client.Client) (err error) {
		found, err = c.ContainerInspect(ctx, made, client.ContainerInspectOptions{})
		return err
	})
	if err != nil {
		return nil, err
	}
	if found.Container.ID != made || found.Container.State == nil {
		return nil, fmt.Errorf("the engine answered for container %.80q", found.Container.ID)
	}
	return found.Container.State, nil
}

// layOver copies a tree of this machine into a container that does not run yet.
func (d *Driver) layOver(ctx context.Context, made, tree string) error {
	reader, writer := io.Pipe()
	wrote := make(chan error, 1)
	go func() {
		// Engines show the container's mounts where they unpack, the agent's too.
		err := writeTree(writer, tree, strings.TrimPrefix(agentDir, "/"))
		_ = writer.CloseWithError(err)
		wrote <- err
	}()
	err := d.engine.call(ctx, func(ctx context.Context, c *client.Client) error {
		_, err := c.CopyToContainer(ctx, made, client.CopyToContainerOptions{DestinationPath: "/", Content: reader, AllowOverwriteDirWithFile: true})
		return err
	})
	_ = reader.Close()
	return errors.Join(err, ignoreClosed(<-wrote))
}
