package bundle

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/covehq/cove"
)

// SentryMemory is what gVisor's own kernel uses of the sandbox's memory cgroup, so that a
// limit means the guest's memory; measured at 25 to 40 MiB.
const SentryMemory = 64 * cove.MiB

// AgentThreads is how many threads the guest agent may need beside the sandbox's
// processes, where the kernel counts both.
const AgentThreads = 24

// cpuPeriod is the span over which the kernel counts CPU time, in microseconds.
const cpuPeriod = 100_000

// Resources maps limits to what the cgroup of a sandbox is set to.
func (t Template) Resources(limits cove.Limits) *specs.LinuxResources {
	period, quota := uint64(cpuPeriod), int64(limits.CPUs*cpuPeriod)
	memory, pids := int64(limits.Memory), int64(limits.Pids+AgentThreads)
	if t.Kernel == GvisorKernel {
		memory += int64(SentryMemory)
		pids = int64(4*limits.Pids + 128) // host threads of its kernel, measured at 4 to each task
	}
	resources := &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
	if t.Cgroups.CPU {
		resources.CPU = &specs.LinuxCPU{Period: &period, Quota: &quota}
	}
	if t.Cgroups.Memory {
		resources.Memory = &specs.LinuxMemory{Limit: &memory}
		if t.Cgroups.Swap {
			resources.Memory.Swap = &memory // memory and swap together: no swap
		}
		if t.Cgroups.Unified && t.Kernel == SharedKernel {
			resources.Unified = map[string]string{"memory.oom.group": "1"}
		}
	}
	if t.Cgroups.Pids {
		resources.Pids = &specs.LinuxPids{Limit: pids}
	}
	return resources
}
