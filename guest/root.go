package guest

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rootVariable is set where the runtime can start the agent as an ordinary user alone, with
// the capability to become root.
const rootVariable = "COVE_BECOME_ROOT"

// becomeRoot does what the runtime could not. The program begins again then: whose a
// process is for others of the same user is decided when it executes.
func becomeRoot() error {
	if os.Getenv(rootVariable) == "" {
		return nil
	}
	if os.Getuid() != 0 {
		err := errors.Join(syscall.Setgroups(nil), syscall.Setresgid(0, 0, 0), syscall.Setresuid(0, 0, 0))
		if err != nil {
			return fmt.Errorf("become root: %w", err)
		}
		return fmt.Errorf("begin again: %w", syscall.Exec("/proc/self/exe", os.Args, os.Environ()))
	}
	if err := os.Unsetenv(rootVariable); err != nil {
		return err
	}
	// gVisor's /proc keeps the owner that a process had when it was first looked up there,
	// which Go programs do before their main. Another one has not been looked at yet.
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return limitCapabilities()
}

// limitCapabilities gives away the one capability that becoming root took, and keeps the
// others from commands, which would inherit them as they came.
func limitCapabilities() error {
	everywhere := func(trap, a1, a2, a3 uintptr) error {
		if _, _, errno := syscall.AllThreadsSyscall(trap, a1, a2, a3); errno != 0 {
			return fmt.Errorf("limit capabilities: %w", errno)
		}
		return nil
	}
	if err := everywhere(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, unix.CAP_SYS_ADMIN, 0); err != nil {
		return err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	for i := range sets {
		sets[i].Inheritable = 0
	}
	const bit = 1 << unix.CAP_SYS_ADMIN
	sets[0].Permitted &^= bit
	sets[0].Effective &^= bit
	return everywhere(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&sets[0])), 0)
}
