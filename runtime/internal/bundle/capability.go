package bundle

import (
	"slices"
	"strings"

	"github.com/covehq/cove"
)

// The agent's capabilities: to switch users, to write files for them, to end their
// processes, and to read which process belongs to which command. Commands of other users
// than root have none.
var agentCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_SYS_PTRACE",
}

// rootCapabilities is what root inside has beside that, where it meets a kernel that is not
// the host's: enough for package managers and servers. CAP_SYS_RESOURCE exempts the agent
// from the limit on processes.
var rootCapabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_MKNOD", "CAP_NET_BIND_SERVICE", "CAP_SETFCAP", "CAP_SYS_CHROOT", "CAP_SYS_RESOURCE",
}

// Capabilities returns what the agent, and root inside, may have on a kernel, as in
// CAP_CHOWN.
func Capabilities(kernel Kernel) []string {
	if kernel == SharedKernel {
		return slices.Clone(agentCapabilities)
	}
	return slices.Concat(agentCapabilities, rootCapabilities)
}

// neverDropped are those that the agent can't work without, whatever a spec drops: it takes
// them from commands by itself.
var neverDropped = slices.Concat(agentCapabilities, []string{"CAP_SYS_RESOURCE"})

// Without returns those of the agent's capabilities that are left when a spec drops some.
func Without(capabilities, dropped []string) []string {
	return slices.DeleteFunc(slices.Clone(capabilities), func(name string) bool {
		named := slices.Contains(dropped, cove.AllCapabilities) || slices.Contains(dropped, strings.TrimPrefix(name, "CAP_"))
		return named && !slices.Contains(neverDropped, name)
	})
}
