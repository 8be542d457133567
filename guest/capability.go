package guest

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dropCapabilities gives capabilities away for ever: no thread of this process has them any
// more, and no command can have them, root's included. Where ambient says that all came as
// ambient ones, those that are left are kept from being inherited.
func dropCapabilities(ambient bool, numbers ...uintptr) error {
	everywhere := func(trap, a1, a2, a3 uintptr) error {
		if _, _, errno := syscall.AllThreadsSyscall(trap, a1, a2, a3); errno != 0 {
			return fmt.Errorf("limit capabilities: %w", errno)
		}
		return nil
	}
	for _, n := range numbers {
		if err := everywhere(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, n, 0); err != nil {
			return err
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	for _, n := range numbers {
		set, bit := &sets[n/32], uint32(1)<<(n%32)
		set.Permitted &^= bit
		set.Effective &^= bit
		set.Inheritable &^= bit
	}
	if ambient {
		sets[0].Inheritable, sets[1].Inheritable = 0, 0
	}
	return everywhere(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&sets[0])), 0)
}
