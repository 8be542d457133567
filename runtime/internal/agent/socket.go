package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/process"
)

// socketPath is the agent's own socket, from the sandbox's root.
const socketPath = ".cove/run/agent.sock"

// Socket reaches the agent of a sandbox on the host's kernel by its socket, as a file of the
// mount namespace of its first process. It needs neither the engine that made the sandbox
// nor anything mounted for it.
type Socket struct {
	First *process.Process
}

// Dial connects to the agent. One that is still on its way to its socket is waited for,
// until ctx ends. The error is cove.Gone when the first process is dead.
func (s Socket) Dial(ctx context.Context) (net.Conn, error) {
	for pause := 250 * time.Microsecond; ; pause = min(2*pause, 20*time.Millisecond) {
		conn, err := s.connect(ctx)
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ECONNREFUSED) {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}

// connect opens what the guest has at the socket's place without following it anywhere, and
// connects to exactly that.
func (s Socket) connect(ctx context.Context) (net.Conn, error) {
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", s.First.PID), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if !s.First.Alive() { // and so it was when its root was opened, or the pid is another's
		if err == nil {
			unix.Close(root)
		}
		return nil, cove.Gone
	}
	if err != nil {
		return nil, os.NewSyscallError("open the sandbox's root", err)
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, socketPath, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: socketPath, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return nil, errors.New("the guest has put something else in place of the agent's socket")
	}
	var dialer net.Dialer
	return dialer.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d", fd))
}
