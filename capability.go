package cove

import (
	"slices"
	"strings"
)

// AllCapabilities stands for every capability, in a list of them.
const AllCapabilities = "ALL"

// capabilities are those of capabilities(7), in the order of their numbers.
var capabilities = []string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

// Capabilities returns the names of all capabilities, as a Spec has them.
func Capabilities() []string { return slices.Clone(capabilities) }

// ParseCapability returns the name of a capability as a Spec has it, NET_ADMIN, for one
// that is written so, in lower case or with CAP_ before it; also for ALL. It reports
// whether there is such a capability.
func ParseCapability(text string) (name string, known bool) {
	name = strings.TrimPrefix(strings.ToUpper(text), "CAP_")
	return name, name == AllCapabilities || slices.Contains(capabilities, name)
}
