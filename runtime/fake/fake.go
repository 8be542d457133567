// Package fake provides the reference driver: the real agent in fresh Linux namespaces,
// for tests and development. It shows what the driver contract asks for in the least
// code, it enforces little and says so, and it can be built with one deliberate bug, so
// that the conformance suite can show that it catches it. It needs root.
package fake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/pair"
	"github.com/covehq/cove/sandbox/driver"
	"golang.org/x/sys/unix"
)

// handleVersion is raised when a handle changes its meaning; Attach refuses others.
const handleVersion = 1

// cloneFlags are the namespaces of a sandbox.
const cloneFlags = unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS

// Options says where a driver keeps its state and what it boots.
type Options struct {
	// Dir holds one directory for each sandbox. Required.
	Dir string
	// Agent is the path of cove-agent, built static. Required.
	Agent string
}

// Driver makes sandboxes out of namespaces. The program that uses it calls Main first
// thing in its main function, or in TestMain.
type Driver struct {
	options Options
	bugs    bugs
}

var (
	_ driver.Driver = (*Driver)(nil)
	_ driver.Lister = (*Driver)(nil)
)

// New returns a driver that keeps its state below o.Dir.
func New(o Options) *Driver { return &Driver{options: o} }

// WithBug returns a driver on the same state that has these deliberate bugs, and no other.
func (d *Driver) WithBug(bugs ...Bug) *Driver { return &Driver{options: d.options, bugs: bugs} }

// Probe reports what the namespaces give. It needs root and the agent.
func (d *Driver) Probe(ctx context.Context) (driver.Info, error) {
	if err := ctx.Err(); err != nil {
		return driver.Info{}, err
	}
	if os.Geteuid() != 0 {
		return driver.Info{}, cove.Errorf(cove.Unavailable, "probe", "fake", "namespaces without a user namespace need root", "run as root")
	}
	if _, err := os.Stat(d.options.Agent); err != nil {
		return driver.Info{}, &cove.Error{Code: cove.Unavailable, Op: "probe", ID: "fake", Err: err, Hint: "build cmd/cove-agent and name it in Options.Agent"}
	}
	return d.bugs.probe(d.options.Dir, driver.Info{
		Isolation: cove.IsolationProcess,
		Version:   "1",
		Controls: map[cove.Control]cove.Enforcement{
			cove.ControlCPU:            cove.Unsupported,
			cove.ControlMemory:         cove.Unsupported,
			cove.ControlPids:           cove.Unsupported,
			cove.ControlDisk:           cove.Enforced,
			cove.ControlNetwork:        cove.Enforced,
			cove.ControlReadOnly:       cove.Enforced,
			cove.ControlUser:           cove.Enforced,
			cove.ControlCapabilities:   cove.Enforced,
			cove.ControlNoNewPrivilege: cove.Enforced,
			cove.ControlSeccomp:        cove.Unsupported,
		},
		Features: []cove.Feature{cove.FeatureBind, cove.FeatureTmpfs, cove.FeatureHosts, cove.FeatureShm, cove.FeatureUlimits},
		Floor:    cove.Limits{CPUs: 0.01, Memory: cove.MiB, Pids: 1, Disk: cove.MiB},
	})
}

// Create boots the agent in namespaces of its own. The directory of the sandbox is made
// first, so that a crash at any later point leaves something that List finds.
func (d *Driver) Create(ctx context.Context, id string, spec *cove.Spec) (driver.Machine, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := d.bugs.create(id, spec); err != nil {
		return nil, err
	}
	dir := filepath.Join(d.options.Dir, id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	machine, err := d.boot(ctx, id, dir, spec)
	if err != nil {
		if d.bugs.leaks(ctx) {
			return nil, err
		}
		return nil, errors.Join(err, d.Remove(context.WithoutCancel(ctx), id))
	}
	return machine, nil
}

func (d *Driver) boot(ctx context.Context, id, dir string, spec *cove.Spec) (driver.Machine, error) {
	if spec.Image != cove.DefaultImage {
		return nil, cove.Errorf(cove.Invalid, "create", id, fmt.Sprintf("image %q is not one that this driver boots", spec.Image), "use image host")
	}
	m, err := d.start(id, dir, spec)
	if err != nil {
		return nil, err
	}
	if err := m.ready(ctx); err != nil {
		m.release()
		return nil, err
	}
	return m, d.bugs.created(ctx, m)
}

// start writes down what the sandbox is to be, and starts the init that makes it so.
func (d *Driver) start(id, dir string, spec *cove.Spec) (_ *machine, err error) {
	plan := plan{Root: filepath.Join(dir, "root"), Agent: d.options.Agent, ID: id, Disk: spec.Limits.Disk, ReadOnly: spec.ReadOnly, Shared: d.options.Dir, Bugs: d.bugs,
		Mounts: spec.Mounts, Hosts: spec.Hosts, Shm: spec.Limits.Shm, Way: d.bugs.way(spec)}
	if err := plan.write(dir); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	door, inner, err := pair.Files()
	if err != nil {
		return nil, err
	}
	defer inner.Close()
	defer func() {
		if err != nil {
			door.Close()
		}
	}()
	sources, err := openSources(spec.Mounts)
	defer func() {
		for _, source := range sources {
			_ = source.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	pidfd := -1
	process, err := os.StartProcess("/proc/self/exe", []string{initName + id, dir}, &os.ProcAttr{
		Dir:   "/",
		Env:   d.bugs.hostEnvironment(),
		Files: append([]*os.File{inner, log, log}, sources...),
		Sys:   &syscall.SysProcAttr{Cloneflags: d.bugs.cloneFlags(), Setsid: true, PidFD: &pidfd},
	})
	if err != nil {
		return nil, fmt.Errorf("start the namespaces: %w", err)
	}
	pid := process.Pid
	_ = process.Release() // the pidfd outlives it
	started, err := startTime(pid)
	if err == nil {
		err = unix.SetNonblock(pidfd, true)
	}
	if err != nil {
		_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
		_ = unix.Close(pidfd)
		return nil, err
	}
	return newMachine(id, handle{Version: handleVersion, PID: pid, Start: started, Dir: dir}, pidfd, door, d.bugs), nil
}

// Attach finds the agent by its pid and start time, which no later process shares.
func (d *Driver) Attach(ctx context.Context, id string, opaque []byte) (driver.Machine, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var h handle
	if err := json.Unmarshal(opaque, &h); err != nil || h.Version != handleVersion {
		if d.bugs.has(AttachTakesAnything) {
			return newMachine(id, handle{Version: handleVersion, PID: os.Getpid()}, -1, nil, d.bugs), nil
		}
		return nil, cove.Errorf(cove.Invalid, "attach", id, "the handle is not one of this driver", "remove the sandbox and create it again")
	}
	pidfd, err := unix.PidfdOpen(h.PID, unix.PIDFD_NONBLOCK)
	if err != nil {
		if d.bugs.has(AttachFindsDead) {
			return newMachine(id, h, -1, nil, d.bugs), nil
		}
		return nil, cove.NotFound
	}
	started, err := startTime(h.PID)
	if (err != nil || started != h.Start || ended(pidfd)) && !d.bugs.has(AttachFindsDead) {
		_ = unix.Close(pidfd)
		return nil, cove.NotFound
	}
	m := newMachine(id, h, pidfd, nil, d.bugs)
	m.attached = true
	return m, nil
}

// List names every directory that Create made and nobody removed.
func (d *Driver) List(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(d.options.Dir)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, entry := range entries {
		if entry.IsDir() && entry.Name()[0] != '.' && d.bugs.lists(d.options.Dir, entry.Name()) {
			ids = append(ids, entry.Name())
		}
	}
	return ids, nil
}

// Remove kills what runs under the id, found by the name it carries, and deletes its
// directory. It trusts no file that a crash could have left unwritten. The plan goes first:
// a process that has no name yet does not become an agent without it.
func (d *Driver) Remove(ctx context.Context, id string) error {
	if d.bugs.has(RemoveFailsOnNothing) {
		if _, err := os.Stat(filepath.Join(d.options.Dir, id)); err != nil {
			return err
		}
	}
	if err := os.Remove(filepath.Join(d.options.Dir, id, planName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	pids, err := processesOf(id)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if d.bugs.has(RemoveLeavesRunning) {
			break
		}
		if err := kill(ctx, pid); err != nil {
			return err
		}
	}
	return os.RemoveAll(filepath.Join(d.options.Dir, id))
}
