package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove/runtime/internal/agent"
	"github.com/covehq/cove/runtime/internal/bundle"
	"github.com/covehq/cove/runtime/internal/cgroup"
	"github.com/covehq/cove/runtime/internal/life"
	"github.com/covehq/cove/sandbox/driver"
)

var (
	_ driver.Driver  = (*Driver)(nil)
	_ driver.Lister  = (*Driver)(nil)
	_ driver.Machine = (*machine)(nil)
)

// Attach implements driver.Driver. The agent gets a new door from a process that the
// runtime program starts inside, which hands over its standard input and exits.
func (d *Driver) Attach(ctx context.Context, id string, data []byte) (driver.Machine, error) {
	var known handle
	if err := life.ReadHandle(id, data, handleVersion, &known); err != nil {
		return nil, err
	}
	find := func() error { return life.Find(known.Boot, known.PID, known.Started) }
	if err := find(); err != nil {
		return nil, err
	}
	m, err := d.rejoin(ctx, id, known)
	if err != nil {
		return nil, life.Missed(ctx, err, find)
	}
	return m, nil
}

// rejoin makes the handle on a sandbox that runs, by a new door to its agent.
func (d *Driver) rejoin(ctx context.Context, id string, known handle) (*machine, error) {
	door, err := d.reach(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("the guest agent was not reached: %w", err)
	}
	m, err := d.machine(id, door, known, 0)
	if err != nil {
		door.Close()
		return nil, err
	}
	if err := life.Ready(ctx, m.Dial, m.End); err != nil {
		m.release()
		return nil, err
	}
	return m, nil
}

// reach gives the agent of a running sandbox a new door.
func (d *Driver) reach(ctx context.Context, id string) (*agent.Door, error) {
	door, theirs, err := agent.NewDoor()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	args := append(d.globalFlags(id, nil), "exec", "--user", "0:0", "--cwd", "/")
	pidFile := filepath.Join(d.bundle(id), "connect.pid")
	if d.kind == kindLinux {
		// Attached, runc puts pipes of its own between us and the process.
		args = append(args, "--detach", "--pid-file", pidFile)
	}
	if err := d.run(ctx, theirs, nil, append(args, id, bundle.AgentPath, "connect")...); err != nil {
		door.Close()
		return nil, err
	}
	if d.kind == kindLinux {
		d.bury(ctx, pidFile)
	}
	return door, nil
}

// bury waits for the process in pidFile to end and reaps it, where it has become our
// child. A PID namespace does not go before the last process of it is reaped.
func (d *Driver) bury(ctx context.Context, pidFile string) {
	content, err := os.ReadFile(pidFile)
	if err != nil {
		return
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		return
	}
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(time.Millisecond) {
		if done, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); done == pid || errors.Is(err, unix.ECHILD) {
			return
		}
	}
}

// List implements driver.Lister.
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
	return driver.IDs(ids), ctx.Err()
}

// Remove implements driver.Lister.
func (d *Driver) Remove(ctx context.Context, id string) error {
	if err := driver.CheckID("remove", id); err != nil {
		return err
	}
	killByBundle(d.bundle(id))
	return d.clear(ctx, id)
}

// clear removes everything of a sandbox. The bundle goes last: as long as something is
// left, List finds it.
func (d *Driver) clear(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	var errs []error
	if d.knows(id) {
		// Its complaints are about what a crash left half-made; what counts is cleared below.
		if err := d.run(ctx, nil, nil, append(d.globalFlags(id, nil), "delete", "--force", id)...); err != nil {
			d.log.Debug("delete", "id", id, "error", err)
		}
	}
	errs = append(errs, d.cgroups.Remove(ctx, id), bundle.UnmountRoot(d.bundle(id)), bundle.UnmountBinds(d.bundle(id)))
	for _, leftover := range d.leftovers(id) {
		errs = append(errs, os.RemoveAll(leftover))
	}
	errs = append(errs, os.RemoveAll(d.disk(id)))
	d.reap()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.RemoveAll(d.bundle(id))
}

// knows reports whether the runtime program has state of the sandbox.
func (d *Driver) knows(id string) bool { return len(d.leftovers(id)) > 0 }

// leftovers are the files that the runtime program keeps about a sandbox in its root: a
// directory of that name (runc, crun), or files that begin with it (runsc). Ids have one
// length, so none is a prefix of another.
func (d *Driver) leftovers(id string) []string {
	var paths []string
	entries, _ := os.ReadDir(d.root())
	for _, entry := range entries {
		name := entry.Name()
		if name == id || bundle.GvisorState(name, id) {
			paths = append(paths, filepath.Join(d.root(), name))
		}
	}
	return paths
}

// Release removes what stays from one sandbox to the next and is no use without any: what
// gVisor keeps mounted, and the cgroups of o.StateDir that nobody is in. It is for a daemon
// that leaves; sandboxes that it leaves behind keep what they have.
func Release(o Options) error {
	state := filepath.Join(o.StateDir, "gvisor")
	return errors.Join(bundle.ReleaseGvisor(filepath.Join(state, "bundles"), filepath.Join(state, "root")), cgroup.Release(o.instance()))
}
