package account

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
)

// parallel bounds how many threads act as a user at one time: each waits for a disk on its
// own, and a sandbox's limit on processes counts threads too.
const parallel = 4

// keep leaves an id as it is.
const keep = ^uintptr(0)

// As calls f with the rights of a on files: the kernel checks every access as that user's,
// and what f makes belongs to it. So no symlink that a program inside plants leads the
// agent where that program could not go itself. f must be short, must not start goroutines
// and must not call As.
func (b *Book) As(a Account, f func() error) error {
	own := os.Geteuid()
	if a.UID == own {
		return f()
	}
	if own != 0 {
		return cove.Errorf(cove.Forbidden, "", "", "the agent does not run as root and can't act as another user",
			"leave the user out")
	}
	b.turns <- struct{}{}
	defer func() { <-b.turns }()
	// The kernel keeps credentials by thread; the Go runtime starts no thread from a
	// locked one, so that these stay here.
	runtime.LockOSThread()
	if err := assume(a); err != nil {
		restore()
		return err
	}
	defer restore()
	return f()
}

// assume takes on the account's groups and effective ids. The real and saved ids stay
// root's: they are what lets the thread return, and what keeps the user from signalling it.
func assume(a Account) error {
	groups := a.Groups
	if len(groups) == 0 {
		groups = []uint32{uint32(a.GID)}
	}
	if err := setGroups(groups); err != nil && err != unix.EPERM {
		return fmt.Errorf("act as %s: set groups: %w", a.Name, err)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, keep, uintptr(a.GID), keep); errno != 0 {
		return fmt.Errorf("act as %s: set group: %w", a.Name, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(a.UID), keep); errno != 0 {
		return fmt.Errorf("act as %s: set user: %w", a.Name, errno)
	}
	return nil
}

// restore makes the thread root's again. Should the kernel refuse, the goroutine ends, and
// its thread with it: it must not serve anybody else.
func restore() {
	_, _, errUID := unix.RawSyscall(unix.SYS_SETRESUID, keep, 0, keep)
	_, _, errGID := unix.RawSyscall(unix.SYS_SETRESGID, keep, 0, keep)
	errGroups := setGroups(nil)
	if errUID != 0 || errGID != 0 || (errGroups != nil && errGroups != unix.EPERM) {
		runtime.Goexit()
	}
	runtime.UnlockOSThread()
}

// setGroups sets the thread's supplementary groups; the wrapper in package syscall would
// set those of all threads. A user namespace may forbid it with EPERM: then there are none
// to gain or lose.
func setGroups(groups []uint32) error {
	var first unsafe.Pointer
	if len(groups) > 0 {
		first = unsafe.Pointer(&groups[0])
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(first), 0); errno != 0 {
		return errno
	}
	return nil
}
