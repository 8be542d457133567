package fake

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox/driver"
	"golang.org/x/sys/unix"
)

// Bug is one deliberate mistake. Each breaks one promise, and the conformance suite must
// notice by the check that holds that promise. The zero value is no bug.
type Bug string

// Mistakes in the driver contract.
const (
	ProbeChanges          Bug = "every probe makes a file"
	WrongIsolation        Bug = "probe claims a kernel of its own"
	ControlMissing        Bug = "probe says nothing about one control"
	FloorTooLow           Bug = "the floor is lower than what boots"
	SpecModified          Bug = "create writes to the spec"
	LongIDFails           Bug = "an id of 40 characters is too long"
	LeaksOnCancel         Bug = "a cancelled create leaves what it made"
	LeaksOnFailure        Bug = "a failed create leaves what it made"
	DiesWithCreateContext Bug = "the sandbox dies when the context of create ends"
	HandleChanges         Bug = "the handle differs at every call"
	HandleTooLarge        Bug = "the handle is larger than 64 KiB"
	AttachFindsDead       Bug = "attach finds a sandbox that is gone"
	AttachTakesAnything   Bug = "attach takes any handle"
	AttachedNeverEnds     Bug = "wait after attach never returns"
	AttachedDestroyLeaves Bug = "destroy after attach leaves the processes"
	DialLimited           Bug = "no more than 24 connections at a time"
	DialCutsStreams       Bug = "a connection ends after 12 MiB"
	DialAfterDestroyWorks Bug = "dial after destroy returns a connection"
	WaitNeverReturns      Bug = "wait never returns"
	WaitSaysExited        Bug = "wait says exited for a kill"
	WaitSaysKilled        Bug = "wait says killed for an exit"
	WaitIgnoresContext    Bug = "wait does not end with its context"
	WaitOnce              Bug = "only the first wait succeeds"
	DestroyTwiceFails     Bug = "a second destroy fails"
	DestroyRaces          Bug = "destroy fails while another one is at work"
	DestroyDeadFails      Bug = "destroy fails when the sandbox is dead"
	DestroyLeavesProcess  Bug = "destroy leaves the processes"
	DestroyLeavesFiles    Bug = "destroy leaves the files"
	ListMissesHalfMade    Bug = "list misses what a crash left half-made"
	ListMissesDead        Bug = "list misses the dead"
	RemoveFailsOnNothing  Bug = "remove fails when there is nothing"
	RemoveLeavesRunning   Bug = "remove leaves the processes"
	LeaksDescriptors      Bug = "every destroy leaves a file descriptor"
	LeaksGoroutines       Bug = "every destroy leaves a goroutine"
	LeaksElsewhere        Bug = "every destroy leaves a file that no id names"
)

// Mistakes in what is enforced.
const (
	ClaimsMemory     Bug = "the memory limit is declared and not enforced"
	ClaimsPids       Bug = "the process limit is declared and not enforced"
	ClaimsSeccomp    Bug = "a system call filter is declared and absent"
	NoQuota          Bug = "the disk has no limit"
	ReadOnlyIgnored  Bug = "a read-only root is writable"
	NetworkLeaks     Bug = "the network is the host's"
	HostNameLeaks    Bug = "the host name is the host's"
	IPCLeaks         Bug = "system v ipc is the host's"
	FilesLeak        Bug = "the host's homes are inside"
	EnvLeaks         Bug = "the agent has the host's environment"
	SharedTmp        Bug = "sandboxes share /tmp"
	SharedMemory     Bug = "sandboxes share /dev/shm"
	OpenVar          Bug = "anybody may write to /var"
	WrongUser        Bug = "user is uid 1001"
	NoTerminals      Bug = "there are no terminals"
	HostDevices      Bug = "the host's kernel log is a device"
	CapabilitiesKept Bug = "commands have an inheritable capability"
	KernelWritable   Bug = "root inside may set the host's kernel parameters"
)

func (b Bug) probe(dir string, info driver.Info) (driver.Info, error) {
	switch b {
	case ProbeChanges:
		return info, leaveFile(dir)
	case WrongIsolation:
		info.Isolation = cove.IsolationUserspaceKernel
	case ControlMissing:
		delete(info.Controls, cove.ControlCPU)
	case ClaimsMemory:
		info.Controls[cove.ControlMemory] = cove.Enforced
	case ClaimsPids:
		info.Controls[cove.ControlPids] = cove.Enforced
	case ClaimsSeccomp:
		info.Controls[cove.ControlSeccomp] = cove.Enforced
	}
	return info, nil
}

// leaveFile makes a file that no id names.
func leaveFile(dir string) error {
	file, err := os.CreateTemp(dir, ".left-")
	if err != nil {
		return err
	}
	return file.Close()
}

func (b Bug) create(id string, spec *cove.Spec) error {
	switch {
	case b == LongIDFails && len(id) > 32:
		return errors.New("the id is too long")
	case b == FloorTooLow && spec.Limits.Disk < 4*cove.MiB:
		return errors.New("the disk limit is too small")
	case b == SpecModified:
		spec.Env["COVE"] = "1"
	}
	return nil
}

func (b Bug) leaks(ctx context.Context) bool {
	return b == LeaksOnCancel && ctx.Err() != nil || b == LeaksOnFailure && ctx.Err() == nil
}

// lists reports whether List shows a sandbox: created leaves a note in whole ones.
func (b Bug) lists(dir, id string) bool {
	_, err := os.Stat(filepath.Join(dir, id, "created"))
	whole := err == nil
	switch b {
	case ListMissesHalfMade:
		return whole
	case ListMissesDead:
		pids, _ := processesOf(id)
		return !whole || len(pids) > 0
	}
	return true
}

// created notes what a bug needs to know of a sandbox that is ready.
func (b Bug) created(ctx context.Context, m *machine) error {
	switch b {
	case DiesWithCreateContext:
		context.AfterFunc(ctx, m.shoot)
	case ListMissesHalfMade, ListMissesDead:
		return os.WriteFile(filepath.Join(m.handle.Dir, "created"), nil, 0o600)
	}
	return nil
}

// shoot kills the agent of a sandbox that is not destroyed.
func (m *machine) shoot() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pidfd >= 0 {
		_ = unix.PidfdSendSignal(m.pidfd, unix.SIGKILL, nil, 0)
	}
}

// neverWaits: one that leaves the processes does not see their end either.
func (b Bug) neverWaits(attached, destroyed bool) bool {
	return b == WaitNeverReturns || b == AttachedNeverEnds && attached || b == DestroyLeavesProcess && destroyed
}

func (b Bug) waitContext(ctx context.Context) context.Context {
	if b == WaitIgnoresContext {
		return context.WithoutCancel(ctx)
	}
	return ctx
}

func (b Bug) exit(exit driver.Exit) driver.Exit {
	switch b {
	case WaitSaysExited:
		exit.Reason = cove.ReasonExited
	case WaitSaysKilled:
		exit.Reason = cove.ReasonKilled
	}
	return exit
}

func (b Bug) dialDestroyed() (net.Conn, error) {
	if b != DialAfterDestroyWorks {
		return nil, cove.Gone
	}
	near, far := net.Pipe()
	far.Close()
	return near, nil
}

func (b Bug) sparesProcess(attached bool) bool {
	return b == DestroyLeavesProcess && !attached || b == AttachedDestroyLeaves && attached
}

func (b Bug) destroyAgain() error {
	if b == DestroyTwiceFails {
		return errors.New("it is destroyed already")
	}
	return nil
}

func (b Bug) destroyDead(pidfd int) error {
	if b == DestroyDeadFails && ended(pidfd) {
		return errors.New("there is no such process")
	}
	return nil
}

// leak leaves something behind that has nothing to do with the sandbox's id.
func (b Bug) leak(dir string) {
	switch b {
	case LeaksDescriptors:
		_, _ = unix.Dup(0)
	case LeaksGoroutines:
		go func() { select {} }()
	case LeaksElsewhere:
		_ = leaveFile(dir)
	}
}

func (b Bug) cloneFlags() uintptr {
	switch b {
	case NetworkLeaks:
		return cloneFlags &^ unix.CLONE_NEWNET
	case HostNameLeaks:
		return cloneFlags &^ unix.CLONE_NEWUTS
	case IPCLeaks:
		return cloneFlags &^ unix.CLONE_NEWIPC
	}
	return cloneFlags
}

func (b Bug) environment() []string {
	if b == EnvLeaks {
		return os.Environ()
	}
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
}

// hostEnvironment is what init gets of it.
func (b Bug) hostEnvironment() []string {
	if b == EnvLeaks {
		return os.Environ()
	}
	return []string{}
}

func (b Bug) quota(options string) string {
	if b == NoQuota {
		options, _, _ = strings.Cut(options, ",size=")
	}
	return options
}

func (b Bug) uid() int {
	if b == WrongUser {
		return 1001
	}
	return 1000
}

func (b Bug) passwd() string {
	return fmt.Sprintf("user:x:%d:1000:user:/home/user:/bin/sh\n", b.uid())
}

// keepCapabilities leaves a capability in the inheritable set, as container engines did for
// years (CVE-2022-24769).
func (b Bug) keepCapabilities() error {
	if b != CapabilitiesKept {
		return nil
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[0].Inheritable |= 1 << unix.CAP_CHOWN
	return unix.Capset(&header, &data[0])
}

// varMode is the mode of /var.
func (b Bug) varMode() os.FileMode {
	if b == OpenVar {
		return 0o777
	}
	return 0o755
}

// devices names what is bound below /dev.
func (b Bug) devices() []string {
	devices := []string{"null", "zero", "full", "random", "urandom", "tty"}
	if b == HostDevices {
		devices = append(devices, "kmsg")
	}
	return devices
}

// share mounts what the sandboxes of one driver, or they and the host, should not share.
func (b Bug) share(root, dir string) error {
	switch b {
	case SharedTmp:
		shared := filepath.Join(dir, ".tmp")
		return errors.Join(os.MkdirAll(shared, 0o777), os.Chmod(shared, 0o777|os.ModeSticky), mount(shared, filepath.Join(root, "tmp"), "", unix.MS_BIND, ""))
	case FilesLeak:
		return bind("/root", filepath.Join(root, "root"))
	}
	return nil
}

// shareMemory does the same for /dev/shm.
func (b Bug) shareMemory(root, dir string) error {
	if b != SharedMemory {
		return nil
	}
	shared := filepath.Join(dir, ".shm")
	return errors.Join(os.MkdirAll(shared, 0o777), os.Chmod(shared, 0o777|os.ModeSticky), mount(shared, filepath.Join(root, "dev/shm"), "", unix.MS_BIND, ""))
}

// faults is what the bugs of one machine remember. The zero value remembers nothing.
type faults struct {
	mu         sync.Mutex
	handles    int
	open       int
	waits      int
	destroying bool
}

func (f *faults) handle(bug Bug, h handle) handle {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.handles++
	switch bug {
	case HandleChanges:
		h.Padding = strings.Repeat("x", f.handles)
	case HandleTooLarge:
		h.Padding = strings.Repeat("x", 1<<16)
	}
	return h
}

// wrap gives a connection to the agent the bug that it may have. The proxy of a tampering
// dials for itself.
func (f *faults) wrap(bug Bug, conn net.Conn, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	if with := bug.tampering(); with != nil {
		conn.Close()
		return tamper(dial, with), nil
	}
	switch bug {
	case DialLimited:
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.open >= 24 {
			conn.Close()
			return nil, errors.New("too many connections")
		}
		f.open++
		return &countedConn{Conn: conn, faults: f}, nil
	case DialCutsStreams:
		return &shortConn{Conn: conn, left: 12 << 20}, nil
	}
	return conn, nil
}

func (f *faults) waited(bug Bug) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waits++
	if bug == WaitOnce && f.waits > 1 {
		return errors.New("wait was called")
	}
	return nil
}

func (f *faults) enterDestroy(bug Bug) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if bug != DestroyRaces {
		return nil
	}
	if f.destroying {
		return errors.New("it is being destroyed")
	}
	f.destroying = true
	return nil
}

func (f *faults) leaveDestroy() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.destroying = false
}

// countedConn counts as open until it is closed.
type countedConn struct {
	net.Conn
	faults *faults
	once   sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() {
		c.faults.mu.Lock()
		defer c.faults.mu.Unlock()
		c.faults.open--
	})
	return c.Conn.Close()
}

// shortConn ends after some bytes.
type shortConn struct {
	net.Conn
	mu   sync.Mutex
	left int
}

func (c *shortConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left -= n; c.left < 0 {
		return 0, net.ErrClosed
	}
	return n, err
}
