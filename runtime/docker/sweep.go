package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/bundle"
	"github.com/covehq/cove/runtime/internal/cgroup"
	"github.com/covehq/cove/runtime/internal/life"
	"github.com/covehq/cove/sandbox/driver"
)

// Attach implements driver.Driver. A sandbox on this machine is found by its process, so
// that it does not matter whether the engine runs.
func (d *Driver) Attach(ctx context.Context, id string, data []byte) (driver.Machine, error) {
	var known handle
	if err := life.ReadHandle(id, data, handleVersion, &known); err != nil {
		return nil, err
	}
	if !validContainer.MatchString(known.Container) {
		return nil, life.Foreign(id)
	}
	f, err := d.facts(ctx)
	if errors.Is(err, cove.Unavailable) && known.Direct && os.Geteuid() == 0 {
		f, err = &facts{near: true, local: true, kernel: bundle.SharedKernel}, nil // its socket is all that it takes
	}
	if err != nil {
		return nil, err
	}
	if f.near != (known.PID != 0) {
		return nil, cove.Errorf(cove.Conflict, "attach", id, "the sandbox was made with another engine, or by another user", "set DOCKER_HOST as it was then")
	}
	find := func() error { return d.alive(ctx, known, f) }
	if err := find(); err != nil {
		return nil, err
	}
	m, err := d.machine(id, known, f)
	if err != nil {
		return nil, life.Missed(ctx, err, find)
	}
	m.link = d.linkOf(m, nil)
	if err := life.Ready(ctx, m.Dial, m.End); err != nil {
		m.release()
		return nil, life.Missed(ctx, err, find)
	}
	return m, nil
}

// alive returns an error that is cove.NotFound for a sandbox that has ended.
func (d *Driver) alive(ctx context.Context, known handle, f *facts) error {
	if f.near {
		return life.Find(known.Boot, known.PID, known.Started)
	}
	state, err := d.stateOf(ctx, known.Container)
	switch {
	case errdefs.IsNotFound(err):
		return cove.NotFound
	case err != nil:
		return err
	case !state.Running:
		return cove.NotFound
	}
	return nil
}

// List implements driver.Lister.
func (d *Driver) List(ctx context.Context) ([]string, error) {
	if err := d.engine.ping(ctx); err != nil {
		d.forget(err)
		return nil, err
	}
	ours, err := d.containers(ctx, "")
	if err != nil {
		d.forget(err)
		return nil, err
	}
	ids := d.cgroups.List()
	for _, c := range ours {
		ids = append(ids, c.Labels[labelSandbox])
	}
	volumes, err := d.volumes(ctx, "")
	if err != nil {
		return nil, err
	}
	for _, v := range volumes {
		ids = append(ids, v.Labels[labelSandbox])
	}
	entries, err := os.ReadDir(d.state)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, entry := range entries {
		ids = append(ids, entry.Name())
	}
	return driver.IDs(ids), nil
}

// containers returns the containers of this driver, or those of one sandbox. What the
// engine answers is looked at again: nothing else is ever removed.
func (d *Driver) containers(ctx context.Context, id string) ([]container.Summary, error) {
	filters := client.Filters{}.Add("label", labelInstance+"="+d.instance, labelRuntime+"="+d.name)
	if id != "" {
		filters.Add("label", labelSandbox+"="+id)
	}
	var found client.ContainerListResult
	err := d.engine.call(ctx, func(ctx context.Context, c *client.Client) (err error) {
		found, err = c.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: filters})
		return err
	})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(found.Items, func(c container.Summary) bool {
		return c.Labels[labelInstance] != d.instance || c.Labels[labelRuntime] != d.name || id != "" && c.Labels[labelSandbox] != id ||
			!validContainer.MatchString(c.ID)
	}), nil
}

// Remove implements driver.Lister.
func (d *Driver) Remove(ctx context.Context, id string) error {
	if err := driver.CheckID("remove", id); err != nil {
		return err
	}
	return d.clear(ctx, id)
}

// clear removes everything of a sandbox. The directory goes last: as long as something is
// left, List finds it.
func (d *Driver) clear(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	err := d.engine.ping(ctx)
	if err == nil {
		err = d.removeContainers(ctx, id)
	}
	if err == nil {
		err = d.removeVolumes(ctx, id)
	}
	if err != nil {
		d.forget(err)
		return err
	}
	if os.Geteuid() == 0 { // engines leave the group that a container's is in
		if err := d.cgroups.Remove(ctx, id); err != nil {
			return err
		}
	}
	dir := d.dir(id)
	if err := errors.Join(bundle.UnmountBinds(dir), bundle.UnmountAll(dir+"/disk")); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// removeContainers removes the containers of a sandbox with the volumes that have no name,
// and returns when the engine has none any more.
func (d *Driver) removeContainers(ctx context.Context, id string) error {
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		ours, err := d.containers(ctx, id)
		if err != nil || len(ours) == 0 {
			return err
		}
		var failed error
		for _, c := range ours {
			err := d.engine.call(ctx, func(ctx context.Context, api *client.Client) error {
				_, err := api.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
				return err
			})
			if err != nil && !errdefs.IsNotFound(err) {
				failed = err
			}
		}
		if failed == nil {
			return nil
		}
		if errors.Is(failed, cove.Unavailable) {
			return failed
		}
		// Its removal is in progress, or something is busy for a moment.
		if sleep(ctx, pause); ctx.Err() != nil {
			return fmt.Errorf("%w: %w", ctx.Err(), failed)
		}
	}
}

// Release removes the cgroups of o.StateDir that nobody is in: engines leave the groups above
// those that they made for containers. It is for a daemon that leaves. An ordinary user's can
// remove none of what the engine has made; the next daemon of root's does, by oci.SweepCgroups.
func Release(o Options) error {
	dir, err := filepath.Abs(o.StateDir)
	if err != nil || os.Geteuid() != 0 {
		return err
	}
	return cgroup.Release(instanceOf(dir))
}
