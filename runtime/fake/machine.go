package fake

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/pair"
	"github.com/covehq/cove/sandbox/driver"
	"golang.org/x/sys/unix"
)

// handle is what Attach needs. The start time tells the agent from a later process that
// was given the same pid.
type handle struct {
	Version int    `json:"version"`
	PID     int    `json:"pid"`
	Start   uint64 `json:"start"`
	Dir     string `json:"dir"`
	Padding string `json:"padding,omitempty"` // of the bug HandleTooLarge
}

// machine is a running sandbox.
type machine struct {
	id       string
	handle   handle
	bugs     bugs
	faults   faults
	attached bool

	mu        sync.Mutex
	pidfd     int      // -1 once released
	door      *os.File // nil when the agent is reached by its socket
	destroyed bool
	exit      *driver.Exit // set when the end has been seen
}

func newMachine(id string, h handle, pidfd int, door *os.File, bugs bugs) *machine {
	return &machine{id: id, handle: h, bugs: bugs, pidfd: pidfd, door: door}
}

// Handle returns where the agent is to be found.
func (m *machine) Handle() []byte {
	encoded, err := json.Marshal(m.faults.handle(m.bugs, m.handle))
	if err != nil {
		panic(err) // numbers and strings always encode
	}
	return encoded
}

// Dial opens a stream to the agent.
func (m *machine) Dial(ctx context.Context) (net.Conn, error) {
	conn, err := m.dial(ctx)
	if err != nil {
		return nil, err
	}
	return m.faults.wrap(m.bugs, conn, m.dial)
}

// dial hands one end of a socket pair to the agent through the door, or connects to the
// agent's own socket where the door was lost with an earlier process.
func (m *machine) dial(ctx context.Context) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.destroyed {
		return m.bugs.dialDestroyed()
	}
	if m.door == nil {
		var d net.Dialer
		return d.DialContext(ctx, "unix", fmt.Sprintf("/proc/%d/root/.cove/run/agent.sock", m.handle.PID))
	}
	ours, theirs, err := pair.Files()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	defer theirs.Close()
	if err := unix.Sendmsg(int(m.door.Fd()), []byte{0}, unix.UnixRights(int(theirs.Fd())), nil, unix.MSG_NOSIGNAL); err != nil {
		return nil, &cove.Error{Code: cove.Gone, Op: "dial", ID: m.id, Err: err, Hint: "the agent has ended, remove the sandbox"}
	}
	return net.FileConn(ours)
}

// ready returns when the agent answers, or says why it doesn't.
func (m *machine) ready(ctx context.Context) error {
	conn, err := m.Dial(ctx)
	if err != nil {
		return m.bootError(err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return m.bootError(err)
	}
	if _, err := conn.Write([]byte("GET /health HTTP/1.1\r\nHost: agent\r\n\r\n")); err != nil {
		return m.bootError(err)
	}
	response, err := http.ReadResponse(bufio.NewReaderSize(conn, 4096), nil)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return m.bootError(err)
	}
	response.Body.Close()
	if response.StatusCode >= 300 {
		return m.bootError(fmt.Errorf("the agent answered %s", response.Status))
	}
	return nil
}

// bootError adds the end of the log, where init and agent say what failed.
func (m *machine) bootError(err error) error {
	log, _ := os.ReadFile(filepath.Join(m.handle.Dir, "log"))
	if text := strings.TrimSpace(string(log[max(0, len(log)-1024):])); text != "" {
		err = fmt.Errorf("%w: %s", err, text)
	}
	return &cove.Error{Code: cove.Internal, Op: "create", ID: m.id, Err: err}
}

// Wait waits on a pidfd of its own, so that callers don't queue behind each other.
func (m *machine) Wait(ctx context.Context) (driver.Exit, error) {
	m.mu.Lock()
	if m.bugs.neverWaits(m.attached, m.destroyed) {
		m.mu.Unlock()
		<-ctx.Done()
		return driver.Exit{}, ctx.Err()
	}
	if m.exit != nil || m.pidfd < 0 {
		defer m.mu.Unlock()
		return m.ended(), m.faults.waited(m.bugs)
	}
	duplicate, err := unix.FcntlInt(uintptr(m.pidfd), unix.F_DUPFD_CLOEXEC, 0)
	m.mu.Unlock()
	if err != nil {
		return driver.Exit{}, err
	}
	pidfd := os.NewFile(uintptr(duplicate), "pidfd")
	defer pidfd.Close()
	if err := awaitEnd(m.bugs.waitContext(ctx), pidfd); err != nil {
		return driver.Exit{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ended(), m.faults.waited(m.bugs)
}

// ended returns how the agent ended, and remembers it. m.mu is held.
func (m *machine) ended() driver.Exit {
	if m.exit == nil {
		exit := exitOf(m.pidfd)
		m.exit = &exit
	}
	return m.bugs.exit(*m.exit)
}

// Destroy kills the agent, and with it everything in its pid namespace; the mounts, the
// network and the rest of the namespaces go with the last process.
func (m *machine) Destroy(ctx context.Context) error {
	if err := m.faults.enterDestroy(m.bugs); err != nil {
		return err
	}
	defer m.faults.leaveDestroy()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.destroyed {
		return m.bugs.destroyAgain()
	}
	if m.pidfd >= 0 && !m.bugs.sparesProcess(m.attached) {
		if err := m.bugs.destroyDead(m.pidfd); err != nil {
			return err
		}
		if err := m.end(ctx); err != nil {
			return err
		}
	}
	if !m.bugs.has(DestroyLeavesFiles) {
		if err := os.RemoveAll(m.handle.Dir); err != nil {
			return err
		}
	}
	m.destroyed = true
	m.closeFiles()
	m.bugs.leak(filepath.Dir(m.handle.Dir))
	return nil
}

// end kills the agent and returns when it is gone and reaped. m.mu is held.
func (m *machine) end(ctx context.Context) error {
	if err := unix.PidfdSendSignal(m.pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill the agent: %w", err)
	}
	if err := await(ctx, m.pidfd); err != nil {
		return err
	}
	m.ended()
	reap(m.handle.PID)
	return nil
}

// release drops what Create holds of a sandbox that didn't come up.
func (m *machine) release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closeFiles()
}

// closeFiles closes what the machine holds open. m.mu is held.
func (m *machine) closeFiles() {
	if m.door != nil {
		m.door.Close()
	}
	if m.pidfd >= 0 && m.exit == nil {
		m.ended()
	}
	if m.pidfd >= 0 {
		_ = unix.Close(m.pidfd)
	}
	m.door, m.pidfd = nil, -1
}

// await waits for the process of a pidfd without taking the descriptor over.
func await(ctx context.Context, pidfd int) error {
	duplicate, err := unix.FcntlInt(uintptr(pidfd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(duplicate), "pidfd")
	defer file.Close()
	return awaitEnd(ctx, file)
}

// awaitEnd returns when the process has ended, or with ctx's error. A pidfd is readable
// from then on, and the runtime's poller waits for that without a thread.
func awaitEnd(ctx context.Context, pidfd *os.File) error {
	stop := context.AfterFunc(ctx, func() { _ = pidfd.SetReadDeadline(time.Now()) })
	defer stop()
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	if err := raw.Read(func(fd uintptr) bool { return ended(int(fd)) }); err != nil && ctx.Err() != nil {
		return ctx.Err()
	} else if err != nil {
		return fmt.Errorf("wait for the agent: %w", err)
	}
	return nil
}

// ended reports whether the process of a pidfd has ended, reaped or not.
func ended(pidfd int) bool {
	polled := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(polled, 0)
	return err == nil && n > 0
}

// exitOf says how the process of a pidfd ended, and leaves it to be reaped by Destroy, as
// another Machine may ask too. Only its parent is told; others know that it is gone.
func exitOf(pidfd int) driver.Exit {
	gone := driver.Exit{Reason: cove.ReasonKilled, Message: "the agent is gone"}
	if pidfd < 0 {
		return gone
	}
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PIDFD, pidfd, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != nil || info.Signo == 0 {
		return gone
	}
	const exited, statusOffset = 1, 24 // CLD_EXITED; si_status on 64-bit Linux
	status := *(*int32)(unsafe.Add(unsafe.Pointer(&info), statusOffset))
	if info.Code == exited {
		return driver.Exit{Reason: cove.ReasonExited, Message: fmt.Sprintf("the agent exited with code %d", status)}
	}
	return driver.Exit{Reason: cove.ReasonKilled, Message: fmt.Sprintf("signal %d ended the agent", status)}
}
