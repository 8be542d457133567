package docker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/advisory"
	"github.com/covehq/cove/runtime/internal/bundle"
	"github.com/covehq/cove/sandbox/driver"
)

// facts are what is known of the engine and of the runtime in it.
type facts struct {
	info    driver.Info
	runtime string        // as the engine knows it
	kernel  bundle.Kernel // what the system calls of its sandboxes meet
	systemd bool          // makes the engine's cgroups

	// podman says that the engine is Podman, which processes then bounds: see fitPodman.
	podman    bool
	processes int64

	// local says that the engine sees the same files as the daemon does, so that it can be
	// given the agent and directories of this machine by their names.
	local bool
	// near says beside that that sandboxes are processes of this machine which the daemon
	// may look into.
	near bool
	// bounding are the capabilities that the engine has itself, as in /proc/PID/status, or all
	// where it can't be looked at.
	bounding uint64
	// quota says that the runtime takes the size of the root filesystem from us.
	quota bool
}

// The least with which a sandbox is of use: engines refuse less than 6 MiB, and below 32 MiB
// the agent has no room for a command.
var floor = cove.Limits{CPUs: 0.05, Memory: 32 * cove.MiB, Pids: 4, Disk: cove.MiB}

// facts asks the engine, once.
func (d *Driver) facts(ctx context.Context) (*facts, error) {
	d.mu.Lock()
	found := d.found
	d.mu.Unlock()
	if found != nil {
		return found, nil
	}
	found, err := d.look(ctx)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.found = found
	d.mu.Unlock()
	return found, nil
}

// forget makes the next look at the engine a fresh one, after an error that may mean that it
// is another one by now.
func (d *Driver) forget(err error) {
	if errors.Is(err, cove.Unavailable) {
		d.mu.Lock()
		d.found = nil
		d.mu.Unlock()
	}
}

func (d *Driver) look(ctx context.Context) (*facts, error) {
	var info system.Info
	var version client.ServerVersionResult
	err := d.engine.callWithin(ctx, pingTimeout, func(ctx context.Context, c *client.Client) error {
		_, err := c.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true})
		return err
	})
	if err == nil { // what it has to find out first, as Podman asks its programs, takes longer
		err = d.engine.call(ctx, func(ctx context.Context, c *client.Client) error {
			result, err := c.Info(ctx, client.InfoOptions{})
			if info = result.Info; err != nil {
				return err
			}
			version, err = c.ServerVersion(ctx, client.ServerVersionOptions{})
			return err
		})
	}
	if err != nil {
		return nil, cove.Wrap(err, "runtime", d.name)
	}
	unavailable := func(message, hint string) error {
		return cove.Errorf(cove.Unavailable, "runtime", d.name, message, hint)
	}
	if info.OSType != "linux" {
		return nil, unavailable("the engine runs containers of "+info.OSType+" and not of linux", "switch it to Linux containers")
	}
	if _, err := os.Stat(d.options.Agent); err != nil {
		return nil, unavailable("the guest agent is missing", "build it with make, and keep cove-agent beside cove")
	}
	podman := isPodman(version)
	runtime, ok := d.choose(&info)
	if podman {
		if runtime, ok = d.choosePodman(&info); !ok {
			return nil, unavailable("podman runs containers of this API with its default runtime alone, which is "+path.Base(info.DefaultRuntime),
				"set runtime under [engine] in the containers.conf of its service, or use another engine")
		}
	}
	if !ok {
		return nil, unavailable(fmt.Sprintf("the engine has no runtime %s; it has %s", strings.Join(d.runtimes, " or "), strings.Join(slices.Sorted(maps.Keys(info.Runtimes)), ", ")), d.missingHint())
	}
	f := &facts{runtime: runtime, kernel: kernelOf(runtime, info.Runtimes[runtime].Path, info.Runtimes[runtime].Type), systemd: info.CgroupDriver == "systemd"}
	if f.podman = podman; podman {
		f.processes = processesOf(d.engine.peer(ctx))
	}
	f.local, f.near = d.distance(ctx, &info)
	if f.bounding = ^uint64(0); f.near {
		f.bounding = boundingOf(d.engine.peer(ctx))
	}
	f.quota = f.local && f.kernel == bundle.GvisorKernel && filepath.Base(info.Runtimes[runtime].Path) == "cove-runsc"
	f.info = driver.Info{
		Isolation: isolation(f.kernel), Version: versionOf(&info, f), Warnings: warnings(&info, f), Floor: floor,
		Controls: d.controls(&info, f), Features: features(f, slices.Contains(info.Runtimes[runtime].Args, "--network=none")),
	}
	return f, nil
}

// choose returns the runtime of the engine that is meant. What docker stands for is runc,
// also where the engine's own default is another.
func (d *Driver) choose(info *system.Info) (string, bool) {
	for _, name := range d.runtimes {
		if _, ok := info.Runtimes[name]; ok {
			return name, true
		}
	}
	// An engine without a runc has one like it: Podman has crun.
	if d.name == "docker" && kernelOf(info.DefaultRuntime, info.Runtimes[info.DefaultRuntime].Path, "") == bundle.SharedKernel {
		return info.DefaultRuntime, true
	}
	return "", false
}

func (d *Driver) missingHint() string {
	switch d.name {
	case "docker:gvisor":
		return "run cove runtime install docker-gvisor"
	case "docker:kata":
		return "install Kata Containers (it needs /dev/kvm), and register its containerd-shim-kata-v2 under runtimes in /etc/docker/daemon.json as kata"
	}
	return "register it under runtimes in /etc/docker/daemon.json, and reload the engine (systemctl reload docker)"
}

// kernelOf tells by a runtime's name and program what its sandboxes run on. What is not
// known is held to be of the weakest class.
func kernelOf(name, program, shim string) bundle.Kernel {
	for _, word := range []string{name, path.Base(program), shim} {
		switch {
		case strings.Contains(word, "runsc"), strings.Contains(word, "gvisor"):
			return bundle.GvisorKernel
		case strings.Contains(word, "kata"):
			return bundle.GuestKernel
		}
	}
	return bundle.SharedKernel
}

func isolation(kernel bundle.Kernel) cove.Isolation {
	switch kernel {
	case bundle.GvisorKernel:
		return cove.IsolationUserspaceKernel
	case bundle.GuestKernel:
		return cove.IsolationVM
	}
	return cove.IsolationSharedKernel
}

// versionOf names the engine and its runtime.
func versionOf(info *system.Info, f *facts) string {
	version := f.engine() + " " + info.ServerVersion
	if f.runtime == "runc" && info.RuncCommit.ID != "" {
		return version + ", runc " + info.RuncCommit.ID
	}
	return version + ", " + filepath.Base(f.runtime)
}

// engine names what speaks the engine's API.
func (f *facts) engine() string {
	if f.podman {
		return "podman"
	}
	return "docker"
}

// warnings are about known vulnerabilities, and about an engine that anybody may use.
func warnings(info *system.Info, f *facts) []string {
	found := advisory.Of(f.engine(), info.ServerVersion)
	if f.kernel == bundle.SharedKernel {
		found = append(found, advisory.Of("runc", info.RuncCommit.ID)...)
	}
	found = append(found, advisory.Of("containerd", info.ContainerdCommit.ID)...)
	for _, warning := range info.Warnings {
		if strings.Contains(warning, "without encryption") || strings.Contains(warning, "without TLS") {
			found = append(found, short(errors.New(warning)))
		}
	}
	return found
}

// distance says how near the engine is: see facts.
func (d *Driver) distance(ctx context.Context, info *system.Info) (local, near bool) {
	pid := d.engine.peer(ctx)
	if pid == 0 || strings.Contains(info.OperatingSystem, "Docker Desktop") {
		return false, false
	}
	var system unix.Utsname
	if err := unix.Uname(&system); err != nil || unix.ByteSliceToString(system.Release[:]) != info.KernelVersion {
		return false, false
	}
	if host, err := os.Hostname(); err != nil || host != info.Name { // a proxy to elsewhere, or an engine in a container
		return false, false
	}
	if os.Geteuid() != 0 {
		return true, false
	}
	ours, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return false, false
	}
	for _, option := range info.SecurityOptions {
		if strings.Contains(option, "name=rootless") || strings.Contains(option, "name=userns") {
			return true, false
		}
	}
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	return true, err == nil && ours == theirs
}

// boundingOf returns the capabilities that a process and its children can ever have, all of
// them where that is not known.
func boundingOf(pid int) uint64 {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return ^uint64(0)
	}
	for line := range strings.Lines(string(content)) {
		if value, ok := strings.CutPrefix(line, "CapBnd:"); ok {
			if set, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64); err == nil {
				return set
			}
		}
	}
	return ^uint64(0)
}

// has reports whether the engine can give a capability of those that we ask for.
func (f *facts) has(capability string) bool {
	numbers := map[string]int{
		"CAP_SYS_RESOURCE": unix.CAP_SYS_RESOURCE, "CAP_AUDIT_WRITE": unix.CAP_AUDIT_WRITE, "CAP_MKNOD": unix.CAP_MKNOD,
		"CAP_NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE, "CAP_SETFCAP": unix.CAP_SETFCAP, "CAP_SYS_CHROOT": unix.CAP_SYS_CHROOT,
		"CAP_NET_ADMIN": unix.CAP_NET_ADMIN, "CAP_NET_RAW": unix.CAP_NET_RAW,
	}
	number, optional := numbers[capability]
	return !optional || f.bounding>>number&1 == 1
}

// controls says what is enforced. The engine sets what cgroups there are.
func (d *Driver) controls(info *system.Info, f *facts) map[cove.Control]cove.Enforcement {
	controls := map[cove.Control]cove.Enforcement{}
	for _, control := range cove.Controls {
		controls[control] = cove.Enforced
	}
	for control, has := range map[cove.Control]bool{
		cove.ControlCPU: info.CPUCfsQuota, cove.ControlMemory: info.MemoryLimit, cove.ControlPids: info.PidsLimit || f.kernel == bundle.GvisorKernel,
	} {
		if !has {
			controls[control] = cove.Unsupported
		}
	}
	if f.podman && !f.local {
		controls[cove.ControlSeccomp] = cove.Degraded // by the profile that it has itself
	}
	if f.podman && f.kernel == bundle.SharedKernel && !f.near {
		controls[cove.ControlReadOnly] = cove.Degraded // /workspace is not the user's
	}
	switch {
	case f.kernel == bundle.SharedKernel && f.near && d.disks.Available(), f.quota:
	case f.kernel == bundle.SharedKernel && f.near:
		controls[cove.ControlDisk] = cove.Degraded // in memory, and so within the memory limit
	default:
		controls[cove.ControlDisk] = cove.Degraded // watched from outside
	}
	return controls
}

// features are the parts of a spec that sandboxes here may have. A runtime that was
// registered as offline gives them no network of the engine.
func features(f *facts, offline bool) []cove.Feature {
	all := []cove.Feature{
		cove.FeatureOCI, cove.FeaturePlatform, cove.FeatureVolume, cove.FeatureTmpfs, cove.FeatureUlimits, cove.FeatureShm,
		cove.FeatureCapAdd, cove.FeatureCapDrop,
	}
	if !offline {
		all = append(all, cove.FeatureNetworkMode, cove.FeatureDNS)
	}
	if f.local {
		all = append(all, cove.FeatureHosts)
	}
	if f.near { // a source is shown by descriptor, and looked at again
		all = append(all, cove.FeatureBind)
	}
	if f.kernel == bundle.SharedKernel {
		all = append(all, cove.FeaturePrivileged, cove.FeatureDevices)
	}
	return all
}
