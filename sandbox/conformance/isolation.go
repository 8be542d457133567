package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/covehq/cove"
)

func isolationChecks() []check {
	network := Needs{Control: cove.ControlNetwork}
	return []check{
		{"only-loopback", "The only network is loopback.", network, isolationLoopback},
		{"no-names", "No name is resolved.", network, isolationNames},
		{"host-ports", "What listens on the host's loopback is out of reach.", network, isolationPorts},
		{"host-sockets", "The host's abstract unix sockets are out of reach.", network, isolationSockets},
		{"host-processes", "No process of the host is visible.", Needs{}, isolationProcesses},
		{"host-files", "No file of the host's homes, temporary directories or of the driver's state is visible, to root neither.", Needs{}, isolationFiles},
		{"host-environment", "Nothing of the daemon's environment is in a command's.", Needs{}, isolationEnvironment},
		{"host-name", "The host's name is not known inside.", Needs{}, isolationHostName},
		{"host-ipc", "The host's System V shared memory is not visible.", Needs{}, isolationIPC},
		{"host-devices", "No disk, kernel memory or kernel log of the host is a device inside.", Needs{}, isolationDevices},
		{"host-kernel", "Nobody inside can set a parameter of the host's kernel.", Needs{}, isolationKernel},
		{"system-files", "The user can't write to the system's directories.", Needs{Control: cove.ControlUser}, isolationSystem},
		{"system-files-stay-inside", "What root inside writes to the system's directories does not reach the host.", Needs{}, isolationRootWrites},
		{"read-only-root", "A read-only root is: only /tmp and /workspace take files, from root neither.", Needs{Control: cove.ControlReadOnly}, isolationReadOnly},
		{"writable-places", "Home, /workspace, /tmp and /var/tmp take files when the root is not read-only.", Needs{}, isolationWritable},
		{"no-capabilities", "A command has no capabilities.", Needs{Control: cove.ControlCapabilities}, isolationCapabilities},
		{"no-privileged-acts", "What takes a capability fails: to change owners, make devices, mount, set the clock or the host name.", Needs{Control: cove.ControlCapabilities}, isolationActs},
		{"no-new-privileges", "A set-user-id program gives nothing.", Needs{Control: cove.ControlNoNewPrivilege}, isolationSetuid},
		{"seccomp", "Every process that meets the host's kernel does so through a system call filter.", Needs{Control: cove.ControlSeccomp}, isolationSeccomp},
		{"descriptors", "A command has the descriptors 0, 1 and 2, and no other.", Needs{}, isolationDescriptors},
		{"descriptor-directories", "No working directory leads out by a descriptor.", Needs{}, isolationDescriptorCwd},
		{"agent", "The agent can't be killed, read or replaced by the user.", Needs{Control: cove.ControlUser}, isolationAgent},
		{"neighbour-files", "Two sandboxes share no temporary files and no shared memory.", Needs{}, isolationNeighbourFiles},
		{"neighbour-processes", "Two sandboxes see none of each other's processes and sockets.", Needs{}, isolationNeighbourProcesses},
	}
}

// tunnels are interfaces that Linux makes in every network namespace when some module is
// loaded. They are down, and lead nowhere.
var tunnels = []string{"tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0"}

func isolationLoopback(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	devices, err := x.print(ctx, "cat /proc/net/dev")
	if err != nil {
		return err
	}
	for line := range strings.Lines(devices) {
		name, _, ok := strings.Cut(strings.TrimSpace(line), ":")
		if ok && name != "lo" && !slices.Contains(tunnels, name) {
			return fmt.Errorf("interfaces: got %s, want lo alone", name)
		}
	}
	routes, err := x.print(ctx, "cat /proc/net/route")
	if err != nil {
		return err
	}
	for line := range strings.Lines(routes) {
		if fields := strings.Fields(line); len(fields) > 0 && fields[0] != "Iface" && fields[0] != "lo" {
			return fmt.Errorf("routes: got %q, want none but by lo", line)
		}
	}
	return nil
}

func isolationNames(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	start := shell("getent hosts one.one.one.one")
	start.Timeout, start.KillOnDisconnect = 20*time.Second, true
	r, err := x.run(ctx, start)
	if err != nil {
		return err
	}
	if r.exit.Code == 0 {
		return fmt.Errorf("a public name: got %q, want no address", r.stdout)
	}
	return nil
}

func isolationPorts(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	listener, err := listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer listener.close()
	conn, dialErr := x.guest.DialPort(ctx, listener.port())
	if dialErr == nil {
		conn.Close()
		return errors.New("a port that the host listens on: got a connection, want none")
	}
	return errors.Join(isCode("a port that the host listens on", dialErr, cove.Unavailable), equal("connections to the host", listener.accepted(), 0))
}

func isolationSockets(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	name := "@cove-canary-" + newID()
	listener, err := listen(ctx, "unix", name)
	if err != nil {
		return err
	}
	defer listener.close()
	sockets, err := x.print(ctx, "cat /proc/net/unix 2>/dev/null || true")
	if err != nil {
		return err
	}
	if strings.Contains(sockets, name) {
		return fmt.Errorf("unix sockets inside: got %s of the host among them, want none of its", name)
	}
	if conn, err := x.guest.DialSocket(ctx, name); err == nil {
		conn.Close()
	}
	return equal("connections to the host", listener.accepted(), 0)
}

// canaryProcess runs on the host until the context ends, with an argument that no other
// process has.
func canaryProcess(ctx context.Context) (mark string, stop func(), err error) {
	mark = "4" + strings.Map(func(r rune) rune { return '0' + r%10 }, newID())[:9]
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, "sleep", mark)
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		cancel()
		return "", nil, err
	}
	return mark, func() {
		cancel()
		_ = cmd.Wait() // it was killed
	}, nil
}

func isolationProcesses(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	mark, stop, err := canaryProcess(ctx)
	if err != nil {
		return err
	}
	defer stop()
	return x.unseen(ctx, mark)
}

// unseen is the error of a process that is visible inside.
func (x *box) unseen(ctx context.Context, mark string) error {
	lines, err := x.print(ctx, "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' || true")
	if err != nil {
		return err
	}
	if strings.Contains(lines, mark) {
		return fmt.Errorf("processes inside: got one with the argument %s, want none from outside", mark)
	}
	if !strings.Contains(lines, "cat") {
		return fmt.Errorf("processes inside: got %q, want at least the one that looks", lines)
	}
	return nil
}

func isolationFiles(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	dirs := append([]string{os.TempDir(), "/var/tmp"}, b.options.StateDirs...)
	if home, err := os.UserHomeDir(); err == nil {
		dirs = append(dirs, home)
	}
	for _, dir := range dirs {
		if err := x.hides(ctx, dir); err != nil {
			return err
		}
	}
	return nil
}

// hides is the error of a file that is made on the host and is to be read inside, by its
// own path or that of a link to it.
func (x *box) hides(ctx context.Context, dir string) error {
	canary, err := newCanary(dir)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return nil // nothing there to be seen
	}
	if err != nil {
		return err
	}
	defer canary.remove()
	link := "/tmp/link-" + newID()
	if _, err := x.print(ctx, fmt.Sprintf("ln -s %s %s", canary.path, link)); err != nil {
		return err
	}
	for _, user := range []string{"", "root"} {
		for _, path := range []string{canary.path, link} {
			data, _, err := x.readAs(ctx, path, user, nil)
			if err == nil && bytes.Contains(data, []byte(canary.secret)) {
				return fmt.Errorf("the host's %s, read by %s as user %q: got its secret, want no such file", canary.path, path, user)
			}
		}
	}
	return nil
}

// canaryVariable is a variable of this process's environment while checks run.
const canaryVariable = "COVE_CANARY"

func isolationEnvironment(ctx context.Context, b *bench) error {
	secret := newID()
	if err := os.Setenv(canaryVariable, secret); err != nil {
		return err
	}
	defer os.Unsetenv(canaryVariable)
	x, err := b.create(ctx)
	if err != nil {
		return err
	}
	for _, user := range []string{"", "root"} {
		r, err := x.shAs(ctx, user, "env; cat /proc/[0-9]*/environ 2>/dev/null")
		if err != nil && user != "" {
			continue // no root inside
		}
		if err != nil {
			return err
		}
		if bytes.Contains(r.stdout, []byte(secret)) {
			return fmt.Errorf("environments inside, as user %q: got %s of the host among them, want nothing of its", user, canaryVariable)
		}
	}
	return nil
}

func isolationHostName(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	inside, err := x.print(ctx, "uname -n")
	if err != nil {
		return err
	}
	if inside == host {
		return fmt.Errorf("host name inside: got %q, the host's, want another", inside)
	}
	return nil
}

func isolationIPC(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	id, remove, err := sharedMemory()
	if err != nil {
		return err
	}
	defer remove()
	segments, err := x.print(ctx, "cat /proc/sysvipc/shm 2>/dev/null || true")
	if err != nil {
		return err
	}
	for line := range strings.Lines(segments) {
		if fields := strings.Fields(line); len(fields) > 3 && fields[1] == fmt.Sprint(id) && fields[3] == fmt.Sprint(canarySize) {
			return fmt.Errorf("shared memory inside: got segment %d of the host, want none of its", id)
		}
	}
	return nil
}

// isolationDevices looks at types of files as ls shows them: b is a disk, and of the
// character devices 1:1, 1:2 and 1:4 are memory and ports, and 1:11 is the kernel's log.
func isolationDevices(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	devices, err := x.print(ctx, "ls -lLR /dev 2>/dev/null || true")
	if err != nil {
		return err
	}
	for line := range strings.Lines(devices) {
		fields := strings.Fields(line)
		if len(fields) < 7 {
			continue
		}
		numbers := fields[4] + fields[5]
		if line[0] == 'b' || line[0] == 'c' && slices.Contains([]string{"1,1", "1,2", "1,4", "1,11"}, numbers) {
			return fmt.Errorf("devices inside: got %q, want none such", strings.TrimSpace(line))
		}
	}
	return nil
}

// isolationKernel has root open parameters for writing, and writes one only where the
// kernel inside is not the host's.
func isolationKernel(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	const pattern = "/proc/sys/kernel/core_pattern"
	if ownKernel(b.info.Isolation) {
		before, err := os.ReadFile(pattern)
		if err != nil {
			return err
		}
		_, _ = x.shAs(ctx, "root", "echo cove > "+pattern) // whether it works inside is the kernel's to say
		after, err := os.ReadFile(pattern)
		if err != nil {
			return err
		}
		return equal("the host's "+pattern, string(after), string(before))
	}
	script := "for f in " + pattern + " /proc/sys/kernel/modprobe /proc/sys/vm/drop_caches /proc/sysrq-trigger /sys/power/state; do (: >> $f) 2>/dev/null && echo $f; done; true"
	for _, user := range []string{"", "root"} {
		r, err := x.shAs(ctx, user, script)
		if err != nil && user != "" {
			continue // no root inside
		}
		if err := errors.Join(err, equal("writable as user "+user, string(r.stdout), "")); err != nil {
			return err
		}
	}
	return nil
}
