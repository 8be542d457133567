package fake

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox/driver"
	"golang.org/x/sys/unix"
)

// Bug is one deliberate mistake. Each breaks one promise, and the conformance suite must
// notice by the check that holds that promise. The zero value is no bug.
type Bug string

// bugs are the deliberate mistakes of one driver.
type bugs []Bug

func (b bugs) has(bug Bug) bool { return slices.Contains(b, bug) }

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
	ClaimsCPU        Bug = "the processor limit is declared and not enforced"
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
	GivenWritable    Bug = "a read-only mount is writable"
	HostsIgnored     Bug = "names of the spec are not in /etc/hosts"
	HostDevices      Bug = "the host's kernel log is a device"
	CapabilitiesKept Bug = "commands have an inheritable capability"
	WayMissing       Bug = "there is no way out"
	WayKept          Bug = "commands may have what the agent needed for the way out"
	KernelWritable   Bug = "root inside may set the host's kernel parameters"
)

func (b bugs) probe(dir string, info driver.Info) (driver.Info, error) {
	if b.has(WrongIsolation) {
		info.Isolation = cove.IsolationUserspaceKernel
	}
	if b.has(ControlMissing) {
		delete(info.Controls, cove.ControlCPU)
	}
	for bug, control := range map[Bug]cove.Control{
		ClaimsMemory: cove.ControlMemory, ClaimsCPU: cove.ControlCPU, ClaimsPids: cove.ControlPids, ClaimsSeccomp: cove.ControlSeccomp,
	} {
		if b.has(bug) {
			info.Controls[control] = cove.Enforced
		}
	}
	if b.has(ProbeChanges) {
		return info, leaveFile(dir)
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

func (b bugs) create(id string, spec *cove.Spec) error {
	if b.has(SpecModified) {
		spec.Env["COVE"] = "1"
	}
	if b.has(LongIDFails) && len(id) > 32 {
		return errors.New("the id is too long")
	}
	if b.has(FloorTooLow) && spec.Limits.Disk < 4*cove.MiB {
		return errors.New("the disk limit is too small")
	}
	return nil
}

func (b bugs) leaks(ctx context.Context) bool {
	return b.has(LeaksOnCancel) && ctx.Err() != nil || b.has(LeaksOnFailure) && ctx.Err() == nil
}

// lists reports whether List shows a sandbox: created leaves a note in whole ones.
func (b bugs) lists(dir, id string) bool {
	_, err := os.Stat(filepath.Join(dir, id, "created"))
	whole := err == nil
	if b.has(ListMissesHalfMade) && !whole {
		return false
	}
	if b.has(ListMissesDead) && whole {
		pids, _ := processesOf(id)
		return len(pids) > 0
	}
	return true
}

// created notes what a bug needs to know of a sandbox that is ready.
func (b bugs) created(ctx context.Context, m *machine) error {
	if b.has(DiesWithCreateContext) {
		context.AfterFunc(ctx, m.shoot)
	}
	if b.has(ListMissesHalfMade) || b.has(ListMissesDead) {
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
func (b bugs) neverWaits(attached, destroyed bool) bool {
	return b.has(WaitNeverReturns) || b.has(AttachedNeverEnds) && attached || b.has(DestroyLeavesProcess) && destroyed
}

func (b bugs) waitContext(ctx context.Context) context.Context {
	if b.has(WaitIgnoresContext) {
		return context.WithoutCancel(ctx)
	}
	return ctx
}

func (b bugs) exit(exit driver.Exit) driver.Exit {
	switch {
	case b.has(WaitSaysExited) && exit.Reason == cove.ReasonKilled:
		exit.Reason = cove.ReasonExited
	case b.has(WaitSaysKilled) && exit.Reason == cove.ReasonExited:
		exit.Reason = cove.ReasonKilled
	}
	return exit
}

func (b bugs) dialDestroyed() (net.Conn, error) {
	if !b.has(DialAfterDestroyWorks) {
		return nil, cove.Gone
	}
	near, far := net.Pipe()
	far.Close()
	return near, nil
}

func (b bugs) sparesProcess(attached bool) bool {
	return b.has(DestroyLeavesProcess) && !attached || b.has(AttachedDestroyLeaves) && attached
}

func (b bugs) destroyAgain() error {
	if b.has(DestroyTwiceFails) {
		return errors.New("it is destroyed already")
	}
	return nil
}

func (b bugs) destroyDead(pidfd int) error {
	if b.has(DestroyDeadFails) && ended(pidfd) {
		return errors.New("there is no such process")
	}
	return nil
}

// leak leaves something behind that has nothing to do with the sandbox's id.
func (b bugs) leak(dir string) {
	if b.has(LeaksDescriptors) {
		_, _ = unix.Dup(0)
	}
	if b.has(LeaksGoroutines) {
		go func() { select {} }()
	}
	if b.has(LeaksElsewhere) {
		_ = leaveFile(dir)
	}
}

func (b bugs) cloneFlags() uintptr {
	flags := uintptr(cloneFlags)
	for bug, flag := range map[Bug]uintptr{NetworkLeaks: unix.CLONE_NEWNET, HostNameLeaks: unix.CLONE_NEWUTS, IPCLeaks: unix.CLONE_NEWIPC} {
		if b.has(bug) {
			flags &^= flag
		}
	}
	return flags
}

// way is what the agent is told of the way out. In the host's network it must not make one.
func (b bugs) way(spec *cove.Spec) string {
	final := spec.Network.Final && spec.Network.Mode == cove.NetworkNone
	switch {
	case final, b.has(NetworkLeaks), b.has(WayMissing):
		return ""
	case b.has(WayKept):
		return "NONE"
	}
	return "NET_ADMIN,NET_RAW"
}

func (b bugs) environment() []string {
	if b.has(EnvLeaks) {
		return os.Environ()
	}
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
}

// hostEnvironment is what init gets of it.
func (b bugs) hostEnvironment() []string {
	if b.has(EnvLeaks) {
		return os.Environ()
	}
	return []string{}
}

func (b bugs) quota(options string) string {
	if b.has(NoQuota) {
		options, _, _ = strings.Cut(options, ",size=")
	}
	return options
}

func (b bugs) uid() int {
	if b.has(WrongUser) {
		return 1001
	}
	return 1000
}

func (b bugs) passwd() string {
	return fmt.Sprintf("user:x:%d:1000:user:/home/user:/bin/sh\n", b.uid())
}

// keepCapabilities leaves a capability in the inheritable set, as container engines did for
// years (CVE-2022-24769).
func (b bugs) keepCapabilities() error {
	if !b.has(CapabilitiesKept) {
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
func (b bugs) varMode() os.FileMode {
	if b.has(OpenVar) {
		return 0o777
	}
	return 0o755
}

// devices names what is bound below /dev.
func (b bugs) devices() []string {
	devices := []string{"null", "zero", "full", "random", "urandom", "tty"}
	if b.has(HostDevices) {
		devices = append(devices, "kmsg")
	}
	return devices
}

// share mounts what the sandboxes of one driver, or they and the host, should not share.
func (b bugs) share(root, dir string) error {
	if b.has(FilesLeak) {
		if err := bind("/root", filepath.Join(root, "root")); err != nil {
			return err
		}
	}
	if !b.has(SharedTmp) {
		return nil
	}
	shared := filepath.Join(dir, ".tmp")
	return errors.Join(os.MkdirAll(shared, 0o777), os.Chmod(shared, 0o777|os.ModeSticky), mount(shared, filepath.Join(root, "tmp"), "", unix.MS_BIND, ""))
}

// shareMemory does the same for /dev/shm.
func (b bugs) shareMemory(root, dir string) error {
	if !b.has(SharedMemory) {
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

func (f *faults) handle(bugs bugs, h handle) handle {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.handles++
	if bugs.has(HandleChanges) {
		h.Padding = strings.Repeat("x", f.handles)
	}
	if bugs.has(HandleTooLarge) {
		h.Padding += strings.Repeat("x", 1<<16)
	}
	return h
}

// wrap gives a connection to the agent the bug that it may have. The proxy of a tampering
// dials for itself.
func (f *faults) wrap(bugs bugs, conn net.Conn, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	if with := bugs.tamperings(); len(with) > 0 {
		conn.Close()
		conn = tamper(dial, with)
	}
	if bugs.has(DialCutsStreams) {
		conn = &shortConn{Conn: conn, left: 12 << 20}
	}
	if !bugs.has(DialLimited) {
		return conn, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open >= 24 {
		conn.Close()
		return nil, errors.New("too many connections")
	}
	f.open++
	return &countedConn{Conn: conn, faults: f}, nil
}

func (f *faults) waited(bugs bugs) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waits++
	if bugs.has(WaitOnce) && f.waits > 1 {
		return errors.New("wait was called")
	}
	return nil
}

func (f *faults) enterDestroy(bugs bugs) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !bugs.has(DestroyRaces) {
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
