// Package cove provides the nouns of Cove: what a sandbox is asked to be, what it
// is, what runs in it, and the errors that every layer shares. It imports the
// standard library only.
package cove

// Version is the release, set at link time.
var Version = "0.1.0-dev"

// Isolation says what stands between a sandbox and its host. It is a fact about a
// runtime and part of every reply.
type Isolation string

// The isolation classes, weakest first.
const (
	IsolationProcess         Isolation = "process"
	IsolationSharedKernel    Isolation = "shared-kernel"
	IsolationUserspaceKernel Isolation = "userspace-kernel"
	IsolationVM              Isolation = "vm"
)

// RootInside reports whether a sandbox of this class may run commands as root:
// only where root inside meets a kernel of its own.
func (i Isolation) RootInside() bool {
	return i == IsolationUserspaceKernel || i == IsolationVM
}

// Control names something that a runtime enforces on a sandbox.
type Control string

// The controls. The list is append-only.
const (
	ControlCPU            Control = "cpu"
	ControlMemory         Control = "memory"
	ControlPids           Control = "pids"
	ControlDisk           Control = "disk"
	ControlNetwork        Control = "network"
	ControlReadOnly       Control = "read_only"
	ControlUser           Control = "user"
	ControlCapabilities   Control = "capabilities"
	ControlNoNewPrivilege Control = "no_new_privileges"
	ControlSeccomp        Control = "seccomp"
)

// Controls lists every control, in the order in which replies show them.
var Controls = []Control{
	ControlCPU, ControlMemory, ControlPids, ControlDisk, ControlNetwork, ControlReadOnly,
	ControlUser, ControlCapabilities, ControlNoNewPrivilege, ControlSeccomp,
}

// Enforcement says how far a control holds.
type Enforcement string

// The degrees of enforcement. A control that is not Enforced is refused at create,
// unless the spec says BestEffort.
const (
	Enforced    Enforcement = "enforced"
	Degraded    Enforcement = "degraded"
	Unsupported Enforcement = "unsupported"
)

// Runtime describes one way to isolate, as this host can or can't run it.
type Runtime struct {
	Name      string                  `json:"name" doc:"runtime URI, driver[:variant]" example:"gvisor"`
	Available bool                    `json:"available" doc:"whether this host can run it now"`
	Default   bool                    `json:"default" doc:"whether a spec without a runtime gets this one"`
	Isolation Isolation               `json:"isolation,omitempty" doc:"isolation class" enum:"process,shared-kernel,userspace-kernel,vm"`
	Version   string                  `json:"version,omitempty" doc:"version of the runtime program or engine"`
	Controls  map[Control]Enforcement `json:"controls,omitempty" doc:"how far each control holds here"`
	Features  []Feature               `json:"features,omitempty" doc:"parts of a spec that not every runtime has, and this one has"`
	Warnings  []string                `json:"warnings,omitempty" doc:"what an administrator should know, such as a vulnerability of its version"`
	Reason    string                  `json:"reason,omitempty" doc:"why it is not available"`
	Hint      string                  `json:"hint,omitempty" doc:"what makes it available"`
}
