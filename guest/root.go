package guest

import (
	"errors"
	"fmt"
	"os"
	"syscall"

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
	// The one capability that becoming root took is given away. The others are kept from
	// commands, which would inherit them as they came.
	return dropCapabilities(true, unix.CAP_SYS_ADMIN)
}
