package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/bundle"
	"github.com/covehq/cove/runtime/internal/cgroup"
	"github.com/covehq/cove/runtime/internal/life"
	"github.com/covehq/cove/runtime/internal/process"
	"github.com/covehq/cove/sandbox/driver"
)

var (
	_ driver.Driver      = (*Driver)(nil)
	_ driver.Lister      = (*Driver)(nil)
	_ driver.Imager      = (*Driver)(nil)
	_ driver.ImageKeeper = (*Driver)(nil)
	_ driver.Machine     = (*machine)(nil)
	_ driver.Statter     = (*machine)(nil)
)

// Attach implements driver.Driver.
func (d *Driver) Attach(ctx context.Context, id string, data []byte) (driver.Machine, error) {
	var known handle
	if err := life.ReadHandle(id, data, handleVersion, &known); err != nil {
		return nil, err
	}
	find := func() error { return d.running(ctx, id, known) }
	if err := find(); err != nil {
		return nil, err
	}
	m, err := d.rejoin(ctx, id, known)
	if err != nil {
		return nil, life.Missed(ctx, err, find)
	}
	return m, nil
}

// rejoin makes the handle on a sandbox that runs, by a new way to its agent.
func (d *Driver) rejoin(ctx context.Context, id string, known handle) (*machine, error) {
	m, err := d.machine(id, known)
	if err != nil {
		return nil, err
	}
	if err = m.connect(ctx, nil); err == nil {
		err = life.Ready(ctx, m.Dial, m.End)
	}
	if err != nil {
		m.release()
		return nil, fmt.Errorf("the guest agent was not reached: %w", err)
	}
	return m, nil
}

// running returns nil for a sandbox that runs, and cove.NotFound for one that does not.
func (d *Driver) running(ctx context.Context, id string, known handle) error {
	if d.variant.reach != byStdio {
		return life.Find(known.Boot, known.PID, known.Started)
	}
	if known.Boot != process.BootID() {
		return cove.NotFound
	}
	alive, err := d.taskRuns(ctx, id)
	if err == nil && !alive || errdefs.IsNotFound(err) {
		return cove.NotFound
	}
	return err
}

// List implements driver.Lister. What is on the host is listed also where the engine does
// not answer, with its error.
func (d *Driver) List(ctx context.Context) ([]string, error) {
	ids := d.cgroups.List()
	for _, dir := range []string{filepath.Join(d.state, "bundles"), d.data} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		for _, entry := range entries {
			ids = append(ids, entry.Name())
		}
	}
	if d.engine.installed() || len(ids) > 0 {
		for _, list := range []func(context.Context) ([]string, error){d.containers, d.tasks} {
			more, err := list(ctx)
			if err != nil {
				return nil, err
			}
			ids = append(ids, more...)
		}
		ids = append(ids, d.abandoned(ctx, ids)...)
	}
	return driver.IDs(ids), ctx.Err()
}

// Remove implements driver.Lister.
func (d *Driver) Remove(ctx context.Context, id string) error {
	if err := driver.CheckID("remove", id); err != nil {
		return err
	}
	return d.clear(ctx, id)
}

// clear removes everything of a sandbox. The bundle goes last: as long as something is
// left, List finds it. Without the engine its processes are ended, and the rest is left for
// the next time.
func (d *Driver) clear(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	err := d.removeTask(ctx, id)
	if errors.Is(err, cove.Unavailable) && !d.engine.installed() && len(d.traces(id)) == 0 {
		err = nil // there is no engine, and never was one that could have something
	}
	err = errors.Join(err, d.cgroups.Remove(ctx, id))
	if err != nil {
		return err
	}
	if err := errors.Join(d.unmountShim(id), d.clearRunc(id), bundle.UnmountRoot(d.bundle(id)), bundle.UnmountBinds(d.bundle(id))); err != nil {
		return err
	}
	if err := errors.Join(d.clearRunsc(id), os.RemoveAll(d.disk(id))); err != nil {
		return err
	}
	return os.RemoveAll(d.bundle(id))
}

// unmountShim unmounts what a shim that was killed has left mounted: below the engine's
// state, in a directory of the container's name.
func (d *Driver) unmountShim(id string) error {
	if d.variant.reach != byStdio {
		return nil // placeRoot gave it nothing to mount
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var errs []error
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasSuffix(fields[4], "/"+namespace+"/"+d.container(id)+"/rootfs") {
			errs = append(errs, bundle.UnmountAll(fields[4]))
		}
	}
	return errors.Join(errs...)
}

// clearRunc removes what runc leaves of a container that it was killed over: the directory of
// its state, and what it has mounted there of itself.
func (d *Driver) clearRunc(id string) error {
	if d.variant.shim != runcShim || d.variant.kernel == bundle.GvisorKernel {
		return nil
	}
	dir := filepath.Join(d.runcRoot, namespace, d.container(id))
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			if err := bundle.UnmountAll(fields[4]); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(dir)
}

// traces are what of a sandbox is on the host.
func (d *Driver) traces(id string) []string {
	var found []string
	for _, path := range append(d.cgroups.Dirs(id), d.bundle(id), d.disk(id)) {
		if _, err := os.Lstat(path); err == nil {
			found = append(found, path)
		}
	}
	return found
}

// clearRunsc removes what gVisor keeps of a sandbox that was not deleted by its own program.
func (d *Driver) clearRunsc(id string) error {
	if d.variant.kernel != bundle.GvisorKernel {
		return nil
	}
	var errs []error
	entries, _ := os.ReadDir(filepath.Join(d.runscRoot(), namespace))
	for _, entry := range entries {
		if bundle.GvisorState(entry.Name(), d.container(id)) {
			errs = append(errs, os.RemoveAll(filepath.Join(d.runscRoot(), namespace, entry.Name())))
		}
	}
	return errors.Join(errs...)
}

// Release removes what stays from one sandbox to the next and is no use without any: what
// gVisor keeps mounted, and the cgroups of o.StateDir that nobody is in. It is for a daemon
// that leaves; sandboxes that it leaves behind keep what they have.
func Release(o Options) error {
	dir, err := filepath.Abs(o.StateDir)
	if err != nil {
		return err
	}
	gvisor := filepath.Join(dir, "containerd-gvisor")
	errs := []error{bundle.ReleaseGvisor(filepath.Join(gvisor, "bundles"), filepath.Join(gvisor, "runsc", namespace))}
	runtimes, err := os.ReadDir(dir) // of all that ever had a sandbox
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, runtime := range runtimes {
		errs = append(errs, cgroup.Release(instanceOf(filepath.Join(dir, runtime.Name()))))
	}
	return errors.Join(errs...)
}
