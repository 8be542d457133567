package oci

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
)

// agentPath is where the agent is inside; nobody but root may look there.
const agentPath = "/.cove/agent"

// sentryMemory is what gVisor's own kernel uses of the sandbox's memory cgroup, so that a
// limit means the guest's memory; measured at 25 to 40 MiB.
const sentryMemory = 64 * cove.MiB

// agentThreads is how many threads the guest agent may need beside the sandbox's
// processes, where the kernel counts both.
const agentThreads = 24

// writeBundle writes the sandbox's OCI configuration.
func (d *Driver) writeBundle(id, rootfs string, root *image.Root, spec *cove.Spec) error {
	config, err := d.config(id, rootfs, root.Binds, spec)
	if err != nil {
		return err
	}
	data, err := json.Marshal(config)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(d.bundle(id), "config.json"), data, 0o600)
}

// config maps a spec to OCI's configuration. Nothing of the image and no label reaches
// it as an annotation: runtimes take orders from those.
func (d *Driver) config(id, rootfs string, binds []image.Bind, spec *cove.Spec) (*specs.Spec, error) {
	capabilities, files := d.capabilities(), openFiles()
	config := &specs.Spec{
		Version:  "1.0.2",
		Hostname: image.Hostname,
		Root:     &specs.Root{Path: rootfs, Readonly: spec.ReadOnly},
		Process: &specs.Process{
			Args: []string{agentPath}, Cwd: "/", Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin"},
			NoNewPrivileges: true,
			Capabilities:    &specs.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities},
			Rlimits: []specs.POSIXRlimit{
				{Type: "RLIMIT_NOFILE", Soft: files, Hard: files},
				{Type: "RLIMIT_CORE"},
			},
		},
		Mounts: d.mounts(binds, spec),
		Linux: &specs.Linux{
			CgroupsPath: d.cgroups.path(id),
			Resources:   d.resources(spec.Limits),
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
			},
		},
	}
	if d.kind == kindGvisor {
		// Its kernel counts a user's tasks by itself. The agent is exempt by capability.
		limit := uint64(spec.Limits.Pids)
		config.Process.Rlimits = append(config.Process.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_NPROC", Soft: limit, Hard: limit})
		return config, nil
	}
	oomScore := 500 // under pressure the host kills sandboxes before itself
	config.Process.OOMScoreAdj = &oomScore
	config.Linux.Namespaces = append(config.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	config.Linux.MaskedPaths, config.Linux.ReadonlyPaths = maskedPaths, readonlyPaths
	profile, err := d.seccomp(config)
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

// The agent's capabilities: to switch users, to write files for them, to end their
// processes, and to read which process belongs to which command. Commands of other users
// than root have none.
var agentCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_SYS_PTRACE",
}

// rootCapabilities is what root inside has beside that, where it meets gVisor's kernel and
// not the host's: enough for package managers and servers. CAP_SYS_RESOURCE exempts the
// agent from the limit on processes.
var rootCapabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_MKNOD", "CAP_NET_BIND_SERVICE", "CAP_SETFCAP", "CAP_SYS_CHROOT", "CAP_SYS_RESOURCE",
}

func (d *Driver) capabilities() []string {
	if d.kind == kindGvisor {
		return slices.Concat(agentCapabilities, rootCapabilities)
	}
	return agentCapabilities
}

// seccomp returns the profile that Docker ships, for a process without capabilities:
// the agent's don't open a system call to commands. It is for the native architecture
// alone: the system calls of 32-bit programs are attack surface that few need, and
// compiling the filter for them takes runc a quarter of a create.
func (d *Driver) seccomp(config *specs.Spec) (*specs.LinuxSeccomp, error) {
	plain := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}, Linux: config.Linux}
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

func (d *Driver) mounts(binds []image.Bind, spec *cove.Spec) []specs.Mount {
	tmpfs := func(target string, size cove.Bytes, options ...string) specs.Mount {
		return specs.Mount{Destination: target, Type: "tmpfs", Source: "tmpfs",
			Options: append([]string{"nosuid", "nodev", fmt.Sprintf("size=%d", size)}, options...)}
	}
	inMemory := spec.Limits.Memory / 2
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
		tmpfs("/dev/shm", min(inMemory, 64*cove.MiB), "noexec", "mode=1777"),
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
	}
	for _, bind := range binds {
		mounts = append(mounts, specs.Mount{Destination: bind.Target, Type: "bind", Source: bind.Source, Options: []string{"rbind", "ro", "nosuid", "nodev"}})
	}
	if spec.ReadOnly {
		mounts = append(mounts,
			tmpfs("/tmp", min(inMemory, spec.Limits.Disk), "mode=1777"),
			tmpfs("/workspace", min(inMemory, spec.Limits.Disk), "mode=0755", fmt.Sprintf("uid=%d", image.UserID), fmt.Sprintf("gid=%d", image.UserID)))
	}
	return append(mounts,
		tmpfs("/.cove", cove.MiB, "mode=0700"),
		specs.Mount{Destination: agentPath, Type: "bind", Source: d.options.Agent, Options: []string{"bind", "ro", "nosuid", "nodev"}})
}

// cpuPeriod is the span over which the kernel counts CPU time, in microseconds.
const cpuPeriod = 100_000

func (d *Driver) resources(limits cove.Limits) *specs.LinuxResources {
	period, quota := uint64(cpuPeriod), int64(limits.CPUs*cpuPeriod)
	memory, pids := int64(limits.Memory), int64(limits.Pids+agentThreads)
	if d.kind == kindGvisor {
		memory += int64(sentryMemory)
		pids = int64(4*limits.Pids + 128) // host threads of its kernel, measured at 4 to each task
	}
	resources := &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
	if d.cgroups.has("cpu") {
		resources.CPU = &specs.LinuxCPU{Period: &period, Quota: &quota}
	}
	if d.cgroups.has("memory") {
		resources.Memory = &specs.LinuxMemory{Limit: &memory}
		if d.cgroups.limitsSwap() {
			resources.Memory.Swap = &memory // memory and swap together: no swap
		}
		if d.cgroups.unified && d.kind == kindLinux {
			resources.Unified = map[string]string{"memory.oom.group": "1"}
		}
	}
	if d.cgroups.has("pids") {
		resources.Pids = &specs.LinuxPids{Limit: pids}
	}
	return resources
}
