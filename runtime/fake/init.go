package fake

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/covehq/cove"
	"golang.org/x/sys/unix"
)

// plan is what init makes of the namespaces it wakes up in.
type plan struct {
	ID       string
	Root     string // where the new root is mounted
	Agent    string // cove-agent on the host
	Disk     cove.Bytes
	ReadOnly bool
	Shared   string // the driver's directory, for bugs that share something
	Bugs     bugs
	Mounts   []cove.Mount
	Hosts    map[string]string
	Shm      cove.Bytes
	Way      string // what the agent is told of the way out; "" is that there is none
}

// planName is the file in a sandbox's directory that says what is to become of it.
const planName = "plan.json"

// write leaves the plan where init finds it, and makes the directory for the root.
func (p plan) write(dir string) error {
	encoded, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, planName), encoded, 0o600); err != nil {
		return err
	}
	return os.Mkdir(p.Root, 0o700)
}

// Main is a sandbox's first step inside its namespaces: in a process that a driver of this
// package started, it builds the root filesystem, becomes the agent, and never returns. In
// every other process it does nothing.
func Main() {
	id, isInit := strings.CutPrefix(os.Args[0], initName)
	if !isInit || len(os.Args) != 2 {
		return
	}
	runtime.LockOSThread() // capabilities are a thread's, and this one becomes the agent
	err := becomeAgent(os.Args[1])
	fmt.Fprintf(os.Stderr, "init of %s: %v\n", id, err)
	os.Exit(1)
}

func becomeAgent(dir string) error {
	encoded, err := os.ReadFile(filepath.Join(dir, planName))
	if err != nil {
		return err
	}
	var p plan
	if err := json.Unmarshal(encoded, &p); err != nil {
		return err
	}
	steps := []func() error{p.mountRoot, p.mountSystem, p.writeEtc, p.makeHomes, p.mountDevices, p.mountProc, p.mountGiven, p.enter, p.network, p.dropPrivileges}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return fmt.Errorf("become the agent: %w", unix.Exec("/.cove/agent", []string{agentName + p.ID}, p.environment()))
}

// environment is the agent's.
func (p plan) environment() []string {
	env := p.Bugs.environment()
	if p.Way != "" {
		env = append(env, "COVE_NETWORK="+p.Way)
	}
	return env
}

// mountRoot makes the new root: a tmpfs, whose size is the disk limit.
func (p plan) mountRoot() error {
	return errors.Join(
		mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		mount("root", p.Root, "tmpfs", unix.MS_NODEV, p.Bugs.quota(fmt.Sprintf("mode=755,size=%d", p.Disk))),
	)
}

// mountSystem binds this machine's system directories read-only, and the agent.
func (p plan) mountSystem() error {
	for _, dir := range []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		source, target := "/"+dir, filepath.Join(p.Root, dir)
		info, err := os.Lstat(source)
		switch {
		case errors.Is(err, os.ErrNotExist):
			continue
		case err != nil:
			return err
		case info.Mode().Type() == os.ModeSymlink:
			link, err := os.Readlink(source)
			if err != nil {
				return err
			}
			if err := os.Symlink(link, target); err != nil {
				return err
			}
		default:
			if err := errors.Join(os.Mkdir(target, 0o755), bind(source, target)); err != nil {
				return err
			}
		}
	}
	agent := filepath.Join(p.Root, ".cove/agent")
	return errors.Join(
		os.MkdirAll(filepath.Join(p.Root, ".cove/run"), 0o755),
		os.WriteFile(agent, nil, 0o755),
		bind(p.Agent, agent),
		mount("run", filepath.Join(p.Root, ".cove/run"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=700,size=1m"),
	)
}

// writeEtc writes a configuration that knows nothing of this machine but its libraries.
func (p plan) writeEtc() error {
	etc := filepath.Join(p.Root, "etc")
	err := os.Mkdir(etc, 0o755)
	for name, text := range map[string]string{
		"passwd":        "root:x:0:0:root:/root:/bin/sh\n" + p.Bugs.passwd() + "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
		"group":         "root:x:0:\ntty:x:5:\nuser:x:1000:\nnogroup:x:65534:\n",
		"hosts":         "127.0.0.1 localhost\n::1 localhost\n" + p.hosts(),
		"hostname":      "sandbox\n",
		"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
		"resolv.conf":   "",
	} {
		err = errors.Join(err, os.WriteFile(filepath.Join(etc, name), []byte(text), 0o644))
	}
	for _, name := range []string{"ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives"} {
		source, target := "/etc/"+name, filepath.Join(etc, name)
		info, statErr := os.Stat(source)
		if statErr != nil {
			continue // a system without it needs none
		}
		if info.IsDir() {
			err = errors.Join(err, os.Mkdir(target, 0o755))
		} else {
			err = errors.Join(err, os.WriteFile(target, nil, 0o644))
		}
		err = errors.Join(err, bind(source, target))
	}
	return err
}

// makeHomes makes what commands write to. On a read-only root the two that stay writable
// are filesystems of their own.
func (p plan) makeHomes() error {
	uid, err := p.Bugs.uid(), error(nil)
	for _, dir := range []struct {
		path string
		mode os.FileMode
		uid  int
	}{
		{"root", 0o700, 0}, {"home", 0o755, 0}, {"home/user", 0o755, uid}, {"workspace", 0o755, uid},
		{"tmp", 0o777 | os.ModeSticky, 0}, {"var", p.Bugs.varMode(), 0}, {"var/tmp", 0o777 | os.ModeSticky, 0},
		{"run", 0o755, 0}, {"proc", 0o755, 0}, {"dev", 0o755, 0}, {"old", 0o700, 0},
	} {
		path := filepath.Join(p.Root, dir.path)
		if p.ReadOnly && (dir.path == "tmp" || dir.path == "workspace") {
			err = errors.Join(err, os.Mkdir(path, 0o755), mount(dir.path, path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("size=%d", p.Disk)))
		} else {
			err = errors.Join(err, os.Mkdir(path, 0o755))
		}
		err = errors.Join(err, os.Chmod(path, dir.mode), os.Chown(path, dir.uid, dir.uid))
	}
	return errors.Join(err, p.Bugs.share(p.Root, p.Shared))
}

// mountDevices binds the harmless devices, and makes terminals and shared memory.
func (p plan) mountDevices() error {
	dev := filepath.Join(p.Root, "dev")
	err := mount("dev", dev, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=755,size=64k")
	for _, name := range p.Bugs.devices() {
		target := filepath.Join(dev, name)
		err = errors.Join(err, os.WriteFile(target, nil, 0o666), mount("/dev/"+name, target, "", unix.MS_BIND, ""))
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
	} {
		err = errors.Join(err, os.Symlink(target, filepath.Join(dev, name)))
	}
	err = errors.Join(err, os.Mkdir(filepath.Join(dev, "shm"), 0o755), mount("shm", filepath.Join(dev, "shm"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("mode=1777,size=%d", p.Shm)), p.Bugs.shareMemory(p.Root, p.Shared))
	if p.Bugs.has(NoTerminals) {
		return err
	}
	return errors.Join(err, os.Mkdir(filepath.Join(dev, "pts"), 0o755),
		mount("pts", filepath.Join(dev, "pts"), "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620,gid=5"))
}

// mountProc mounts the processes of the new namespace, and hides from them what would
// change or show the kernel that they share with the host.
func (p plan) mountProc() error {
	proc := filepath.Join(p.Root, "proc")
	err := mount("proc", proc, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if p.Bugs.has(KernelWritable) {
		return err
	}
	for _, name := range []string{"sys", "irq", "bus", "fs", "sysrq-trigger"} {
		path := filepath.Join(proc, name)
		if _, statErr := os.Stat(path); statErr == nil {
			err = errors.Join(err, bind(path, path))
		}
	}
	for _, name := range []string{"kcore", "keys", "kmsg", "timer_list"} {
		path := filepath.Join(proc, name)
		if _, statErr := os.Stat(path); statErr == nil {
			err = errors.Join(err, mount("/dev/null", path, "", unix.MS_BIND, ""))
		}
	}
	return err
}

// enter makes the new root the only one.
func (p plan) enter() error {
	err := errors.Join(
		unix.PivotRoot(p.Root, filepath.Join(p.Root, "old")),
		unix.Chdir("/"),
		unix.Unmount("/old", unix.MNT_DETACH),
		os.Remove("/old"),
	)
	if p.ReadOnly && !p.Bugs.has(ReadOnlyIgnored) {
		err = errors.Join(err, mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NODEV, ""))
	}
	unix.Umask(0o022)
	return err
}

// network brings loopback up and names the host.
func (p plan) network() error {
	if p.Bugs.cloneFlags()&unix.CLONE_NEWUTS != 0 {
		if err := unix.Sethostname([]byte("sandbox")); err != nil {
			return fmt.Errorf("set the host name: %w", err)
		}
	}
	if p.Bugs.cloneFlags()&unix.CLONE_NEWNET == 0 {
		return nil
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	return nil
}

// dropPrivileges leaves the agent, and root inside, what it takes to run commands as their
// users and to handle their files. No program that it starts can gain more.
func (p plan) dropPrivileges() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no new privileges: %w", err)
	}
	keep := map[uintptr]bool{
		unix.CAP_CHOWN: true, unix.CAP_DAC_OVERRIDE: true, unix.CAP_FOWNER: true, unix.CAP_FSETID: true,
		unix.CAP_KILL: true, unix.CAP_SETGID: true, unix.CAP_SETUID: true, unix.CAP_SETPCAP: true,
		unix.CAP_SYS_PTRACE: true, // to read the environment and root of a command
		// For the way out, which the agent makes before it gives these away.
		unix.CAP_NET_ADMIN: p.Way != "", unix.CAP_NET_RAW: p.Way != "",
	}
	for capability := uintptr(0); capability <= unix.CAP_LAST_CAP; capability++ {
		if keep[capability] {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("drop capability %d: %w", capability, err)
		}
	}
	return p.Bugs.keepCapabilities()
}

// mount is mount(2) with an error that says where.
func mount(source, target, kind string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
	return nil
}

// bind shows source at target, read-only and without set-user-id programs. The kernel
// takes the flags of a bind mount in a second step only.
func bind(source, target string) error {
	return errors.Join(
		mount(source, target, "", unix.MS_BIND, ""),
		mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""),
	)
}
