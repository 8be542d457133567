// Package bundle provides what every runtime of containers is given for a sandbox: its OCI
// configuration with all the controls, whoever it is that reads it.
package bundle

import (
	"fmt"
	"slices"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
	"github.com/covehq/cove/runtime/internal/cgroup"
)

// AgentPath is where the agent is inside; nobody but root may look there.
const AgentPath = "/.cove/agent"

// Kernel is what the system calls of a sandbox meet.
type Kernel int

// The kernels.
const (
	SharedKernel Kernel = iota // the host's own
	GvisorKernel               // gVisor's, in user space
	GuestKernel                // a Linux of the sandbox's own, in a virtual machine
)

// Cgroups says which controllers of the host's can bound a sandbox. The zero value is none.
type Cgroups struct {
	CPU, Memory, Pids bool
	Swap              bool // the memory controller counts swap too
	Unified           bool // version 2
}

// CgroupsOf returns what a tree of cgroups can bound.
func CgroupsOf(tree cgroup.Tree) Cgroups {
	return Cgroups{
		CPU: tree.Has("cpu"), Memory: tree.Has("memory"), Pids: tree.Has("pids"),
		Swap: tree.LimitsSwap(), Unified: tree.Unified,
	}
}

// Template makes the OCI configurations of one runtime's sandboxes.
type Template struct {
	Kernel  Kernel
	Agent   string // path of cove-agent, on the host
	Cgroups Cgroups
	Volumes []image.Volume // of the sandbox's image
}

// Config maps a spec to OCI's configuration, for a root filesystem at rootfs on the host,
// over which the binds belong, and a cgroup. Nothing of the image and no label reaches it as
// an annotation: runtimes take orders from those.
func (t Template) Config(rootfs, cgroup string, binds []image.Bind, spec *cove.Spec) (*specs.Spec, error) {
	capabilities, files := Without(Capabilities(t.Kernel), spec.Options.CapDrop), openFiles()
	config := &specs.Spec{
		Version:  "1.0.2",
		Hostname: image.Hostname,
		Root:     &specs.Root{Path: rootfs, Readonly: spec.ReadOnly},
		Process: &specs.Process{
			Args: []string{AgentPath}, Cwd: "/", Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin"},
			NoNewPrivileges: true,
			Capabilities:    &specs.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities},
			Rlimits: []specs.POSIXRlimit{
				{Type: "RLIMIT_NOFILE", Soft: files, Hard: files},
				{Type: "RLIMIT_CORE"},
			},
		},
		Mounts: t.mounts(binds, spec),
		Linux: &specs.Linux{
			CgroupsPath: cgroup,
			Resources:   t.Resources(spec.Limits),
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
			},
		},
	}
	addCapabilities(config, spec.Options.CapAdd)
	addWayOut(config, spec)
	if err := addDevices(config, spec.Options.Devices); err != nil {
		return nil, err
	}
	if t.Kernel == GvisorKernel {
		// Its kernel counts a user's tasks by itself. The agent is exempt by capability.
		limit := uint64(spec.Limits.Pids)
		config.Process.Rlimits = append(config.Process.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_NPROC", Soft: limit, Hard: limit})
		return config, nil
	}
	oomScore := 500 // under pressure the host kills sandboxes before itself
	config.Process.OOMScoreAdj = &oomScore
	// In its own network namespace everybody may serve on any port.
	config.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "0"}
	config.Linux.Namespaces = append(config.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	config.Linux.MaskedPaths, config.Linux.ReadonlyPaths = slices.Clone(maskedPaths), slices.Clone(readonlyPaths)
	profile, err := seccompProfile(config, spec.Options.CapAdd)
	config.Linux.Seccomp = profile
	return config, err
}

// openFiles is how many files a process inside may have open: 65536, or what the daemon
// itself may, since a runtime program can't raise a limit without the host's capability.
func openFiles() uint64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return min(65536, limit.Max)
}

// Seccomp returns the system calls that a sandbox on the host's kernel may make.
func Seccomp() (*specs.LinuxSeccomp, error) {
	return seccompProfile(&specs.Spec{Linux: &specs.Linux{}}, nil)
}

// Hidden returns what a sandbox on the host's kernel must not read of /proc and /sys, and
// what it must not write.
func Hidden() (masked, readonly []string) {
	return slices.Clone(maskedPaths), slices.Clone(readonlyPaths)
}

// OpenFiles is how many files a process inside may have open: 65536, or what the daemon
// itself may.
func OpenFiles() uint64 { return openFiles() }

// seccompProfile returns the profile that Docker ships, for a process with none but the
// capabilities that a spec adds: the agent's don't open a system call to commands. It is for the native architecture
// alone: the system calls of 32-bit programs are attack surface that few need, and
// compiling the filter for them takes runc a quarter of a create.
func seccompProfile(config *specs.Spec, added []string) (*specs.LinuxSeccomp, error) {
	plain := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}, Linux: config.Linux}
	addCapabilities(plain, added)
	profile, err := seccomp.GetDefaultProfile(plain)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	profile.Architectures = profile.Architectures[:min(1, len(profile.Architectures))]
	return profile, nil
}

// What a container sees of the host's /proc and /sys and must not read, or not write.
var (
	maskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
		"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/class/dmi", "/sys/devices/virtual/dmi", "/sys/devices/virtual/powercap",
		"/sys/firmware", "/sys/fs/cgroup", "/sys/kernel/debug", "/sys/kernel/security",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)
