package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/account"
)

// Size is the size of a terminal.
type Size struct{ Cols, Rows uint16 }

// ends are our ends of a command's standard streams; stdin is nil when it is empty, and
// with a terminal stdin and the one output are the same file.
type ends struct {
	stdin  *os.File
	output [streams]*os.File
}

func (e *ends) close() {
	for _, file := range []*os.File{e.stdin, e.output[stdout], e.output[stderr]} {
		if file != nil {
			_ = file.Close()
		}
	}
}

// spawn forks and executes a command, and returns our ends of its streams.
func (t *Table) spawn(c *Command) (*child, *ends, error) {
	path, err := c.find()
	if err != nil {
		return nil, nil, err
	}
	null, err := t.null()
	if err != nil {
		return nil, nil, resources(err)
	}
	ours, theirs, err := c.connect()
	defer func() {
		for _, fd := range theirs {
			if fd >= 0 {
				_ = syscall.Close(fd)
			}
		}
	}()
	if err != nil {
		ours.close()
		return nil, nil, resources(err)
	}
	files := make([]uintptr, len(theirs))
	for i, fd := range theirs {
		if files[i] = uintptr(fd); fd < 0 {
			files[i] = null.Fd()
		}
	}
	attributes := &syscall.ProcAttr{
		Dir:   c.Dir,
		Env:   c.Env,
		Files: []uintptr{files[0], files[min(1, len(files)-1)], files[len(files)-1]},
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: c.Terminal != nil, Credential: t.credential(c.Account), AmbientCaps: t.given(c.Account.UID)},
	}
	path, argv := t.limited(c.Account.UID, path, c.Argv)
	child, err := t.reaper.start(func() (int, error) { return syscall.ForkExec(path, argv, attributes) })
	if err != nil {
		ours.close()
		return nil, nil, startError(c, err)
	}
	return child, ours, nil
}

// credential returns what makes a child the account's, or nil when it is so already.
func (t *Table) credential(a account.Account) *syscall.Credential {
	if os.Geteuid() != 0 && os.Geteuid() == a.UID {
		return nil
	}
	return &syscall.Credential{Uid: uint32(a.UID), Gid: uint32(a.GID), Groups: a.Groups, NoSetGroups: t.noSetGroups}
}

// setGroupsDenied reports whether this user namespace forbids setgroups, as one does that
// an ordinary user made.
func setGroupsDenied() bool {
	policy, err := os.ReadFile("/proc/self/setgroups")
	return err == nil && strings.TrimSpace(string(policy)) == "deny"
}

// connect makes the command's streams. theirs are the child's descriptors: 0, where -1
// stands for nothing to read, and then 1 and 2, or one terminal for all. Both are valid as
// far as they go on error too.
func (c *Command) connect() (ours *ends, theirs []int, err error) {
	ours = new(ends)
	if c.Terminal != nil {
		tty, err := c.openTerminal(ours)
		if err != nil {
			return ours, nil, err
		}
		return ours, []int{tty}, nil
	}
	theirs = append(theirs, -1)
	if c.Stdin {
		read, write, err := pipe()
		if err != nil {
			return ours, theirs, err
		}
		theirs[0], ours.stdin = read, os.NewFile(uintptr(write), "stdin")
		if err := setBlocking(read); err != nil {
			return ours, theirs, err
		}
	}
	for i, name := range []string{"stdout", "stderr"} {
		read, write, err := pipe()
		if err != nil {
			return ours, theirs, err
		}
		theirs, ours.output[i] = append(theirs, write), os.NewFile(uintptr(read), name)
		if err := setBlocking(write); err != nil {
			return ours, theirs, err
		}
	}
	return ours, theirs, nil
}

// pipe returns the ends of a pipe that don't block, so that a read or write of ours can be
// interrupted.
func pipe() (read, write int, err error) {
	var fds [2]int
	err = unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK)
	return fds[0], fds[1], err
}

// setBlocking makes the child's end of a pipe what programs expect.
func setBlocking(fd int) error {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, 0)
	return err
}

// openTerminal makes a terminal that belongs to the command's user, and returns the
// child's end.
func (c *Command) openTerminal(ours *ends) (int, error) {
	master, tty, err := pty.Open()
	if err != nil {
		return 0, fmt.Errorf("open a terminal: %w", err)
	}
	defer tty.Close()
	ours.stdin, ours.output[stdout] = master, master
	if err := resize(master, *c.Terminal); err != nil {
		return 0, err
	}
	_ = tty.Chown(c.Account.UID, -1) // so that it can open /dev/pts/N by name too
	var fd int
	raw, err := tty.SyscallConn()
	if err != nil {
		return 0, err
	}
	var duplicate error
	if err := raw.Control(func(own uintptr) {
		fd, duplicate = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 3)
	}); err != nil {
		return 0, err
	}
	if duplicate != nil {
		return 0, duplicate
	}
	// Package os opened it for its poller; programs expect reads that wait.
	return fd, unix.SetNonblock(fd, false)
}

func resize(master *os.File, size Size) error {
	return pty.Setsize(master, &pty.Winsize{Cols: size.Cols, Rows: size.Rows})
}

// find returns the path of the command's program: Argv[0] itself when it has a slash, else
// the first executable of that name in the command's own PATH.
func (c *Command) find() (string, error) {
	name := c.Argv[0]
	if strings.Contains(name, "/") {
		return name, nil
	}
	path := ""
	for _, variable := range c.Env {
		if value, ok := strings.CutPrefix(variable, "PATH="); ok {
			path = value
		}
	}
	for dir := range strings.SplitSeq(path, ":") {
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(c.Dir, dir)
		}
		candidate := filepath.Join(dir, name)
		var st unix.Stat_t
		if err := unix.Stat(candidate, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o111 != 0 {
			return candidate, nil
		}
	}
	return "", &cove.Error{
		Code: cove.Invalid, Op: "start", Err: fmt.Errorf("there is no program %q in PATH", name),
		Hint: "install it, or give the path of a program", Exit: exitNoProgram,
	}
}

// The statuses of shells for a command of which no program ran.
const (
	exitNotExecutable = 126
	exitNoProgram     = 127
)

// startError says why a program could not be executed.
func startError(c *Command, err error) error {
	failed := &cove.Error{Code: cove.Invalid, Op: "start", Err: fmt.Errorf("%s: %w", c.Argv[0], err), Exit: exitNotExecutable}
	switch {
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.ENOMEM), errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return resources(err)
	case errors.Is(err, fs.ErrNotExist):
		failed.Exit = exitNoProgram
		failed.Hint = "check the path of the program, and of the interpreter or loader that it names"
	case errors.Is(err, fs.ErrPermission):
		failed.Hint = fmt.Sprintf("make sure that user %s may execute the program and enter the directory %s", c.Account.Name, c.Dir)
	case errors.Is(err, syscall.ENOEXEC):
		failed.Hint = "give a script a first line as in #!/bin/sh, and use programs built for this machine"
	case errors.Is(err, syscall.E2BIG):
		failed.Hint = "pass long arguments by a file or by standard input"
	}
	return failed
}

// resources says that the sandbox is at one of its limits.
func resources(err error) error {
	return &cove.Error{
		Code: cove.Exhausted, Op: "start", Err: fmt.Errorf("the sandbox is at a limit: %w", err),
		Hint: "end other processes, or create the sandbox with higher limits",
	}
}
