package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
	"github.com/covehq/cove/runtime/internal/bundle"
	"github.com/covehq/cove/runtime/internal/cgroup"
	"github.com/covehq/cove/sandbox/driver/bind"
)

// An ordinary user runs gVisor in a user namespace that maps one id: the user's own, which
// is the sandbox's user inside, so that files in mounts belong to both. No other id is
// needed, since gVisor's kernel keeps its own book of users, and so neither a setuid helper
// nor a range of subordinate ids.
//
// Between the namespace and the runtime program stands the stage: this very program under
// another name, which mounts what has to be mounted and becomes the runtime program.

// stageName is the stage's argv[0].
const stageName = "cove-stage"

// stage is what to do in the user namespace before the runtime program starts.
type stage struct {
	Cgroups []string     `json:"cgroups,omitempty"` // cgroup.procs files to enter
	CPUs    int          `json:"cpus,omitempty"`    // how many processors to keep to; 0: all
	Mounts  []stageMount `json:"mounts,omitempty"`
	Program string       `json:"program"`
}

// stageMount is a mount in the stage's own mount namespace.
type stageMount struct {
	Upper  string `json:"upper,omitempty"`  // where that keeps the places for other mounts
	Lower  string `json:"lower,omitempty"`  // of an overlay, in its notation
	Source string `json:"source,omitempty"` // or what to bind: a name, and what it has to lead to,
	Device uint64 `json:"device,omitempty"` // since a descriptor of the daemon's is of another
	Inode  uint64 `json:"inode,omitempty"`  // mount namespace, which the kernel binds nothing of
	Target string `json:"target"`
}

// Stage is the stage, where this process is one: then it does not return. A program's main
// calls it before anything else.
func Stage() {
	if len(os.Args) < 2 || os.Args[0] != stageName {
		return
	}
	err := runStage(os.Args[1], os.Args[2:])
	fmt.Fprintln(os.Stderr, "stage:", err)
	os.Exit(1)
}

// runStage returns only on error.
func runStage(encoded string, args []string) error {
	var s stage
	if err := json.Unmarshal([]byte(encoded), &s); err != nil {
		return err
	}
	for _, procs := range s.Cgroups {
		if err := os.WriteFile(procs, []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
			return fmt.Errorf("enter the cgroup: %w", err)
		}
	}
	if s.CPUs > 0 {
		if err := keepTo(s.CPUs); err != nil {
			return fmt.Errorf("keep to %d processors: %w", s.CPUs, err)
		}
	}
	for _, m := range s.Mounts {
		if err := m.mount(); err != nil {
			return err
		}
	}
	return &os.PathError{Op: "exec", Path: s.Program, Err: syscall.Exec(s.Program, append([]string{s.Program}, args...), os.Environ())}
}

func (m stageMount) mount() error {
	if m.Lower != "" {
		// gVisor makes places in a root for what is to be mounted there. Without userxattr an
		// ordinary user's overlay has nowhere to note what it did.
		options := fmt.Sprintf("lowerdir=%s,upperdir=%s/places,workdir=%s/work,userxattr", m.Lower, m.Upper, m.Upper)
		return os.NewSyscallError("mount overlay", unix.Mount("cove", m.Target, "overlay", unix.MS_NODEV|unix.MS_NOSUID, options))
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, m.Source, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return &os.PathError{Op: "open", Path: m.Source, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: m.Source, Err: err}
	}
	if st.Dev != m.Device || st.Ino != m.Inode {
		return fmt.Errorf("%s is not any more what was allowed", m.Source)
	}
	return os.NewSyscallError("bind", unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), m.Target, "", unix.MS_BIND, ""))
}

// stageBind returns the stage's mount for a bind.
func stageBind(b bundle.Bind) (stageMount, error) {
	name, err := bind.Name(b.Source)
	if err != nil {
		return stageMount{}, err
	}
	var st unix.Stat_t
	if err := unix.Stat(b.Source, &st); err != nil {
		return stageMount{}, &os.PathError{Op: "stat", Path: b.Source, Err: err}
	}
	return stageMount{Source: name, Device: st.Dev, Inode: st.Ino, Target: b.Place}, nil
}

// keepTo binds this thread, and with it what it executes, to the first n of the processors
// that it may use now.
func keepTo(n int) error {
	var all, some unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return err
	}
	for cpu := 0; cpu < len(all)*64 && some.Count() < n; cpu++ {
		if all.IsSet(cpu) {
			some.Set(cpu)
		}
	}
	return unix.SchedSetaffinity(0, &some)
}

// stageCapabilities are what the stage and the runtime program have in the user namespace,
// over what belongs to it and nothing else. These are the ones that runsc asks for, and
// those that its helpers drop their own from.
var stageCapabilities = []uintptr{
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_SETGID, unix.CAP_SETUID,
	unix.CAP_SETPCAP, unix.CAP_SYS_ADMIN, unix.CAP_SYS_CHROOT, unix.CAP_SYS_PTRACE, unix.CAP_KILL, unix.CAP_NET_ADMIN,
}

// enter makes cmd, which runs the runtime program, run it behind the stage.
func (s stage) enter(cmd *exec.Cmd) error {
	s.Program = cmd.Path
	encoded, err := json.Marshal(s)
	if err != nil {
		return err
	}
	cmd.Path, cmd.Args = "/proc/self/exe", append([]string{stageName, string(encoded)}, cmd.Args[1:]...)
	cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWUSER | unix.CLONE_NEWNS
	cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: image.UserID, HostID: os.Geteuid(), Size: 1}}
	cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: image.UserID, HostID: os.Getegid(), Size: 1}}
	cmd.SysProcAttr.AmbientCaps = stageCapabilities
	return nil
}

// stageOf returns what the stage has to do for a sandbox.
func (d *Driver) stageOf(id string, root rootfs, binds []bundle.Bind, spec *cove.Spec) (stage, error) {
	s := stage{Cgroups: d.cgroups.Procs(id)}
	if !d.cgroups.Has("cpu") {
		s.CPUs = int(math.Ceil(spec.Limits.CPUs))
	}
	if root.image.Over != "" && root.file == "" {
		s.Mounts = append(s.Mounts, stageMount{Lower: bundle.Lower(root.image), Upper: d.bundle(id), Target: root.path})
	}
	for _, b := range binds {
		m, err := stageBind(b)
		if err != nil {
			return stage{}, err
		}
		s.Mounts = append(s.Mounts, m)
	}
	return s, nil
}

// unprivileged fits a sandbox's configuration to a user namespace without root. gVisor's
// helpers run as the user of the first process, so that this is the one user that there is;
// the agent becomes root by its capabilities, within gVisor's kernel. Cgroups are the
// driver's own matter.
//
// A root filesystem in one file has owners of its own: of a tree, everything would belong to
// the one user.
func (d *Driver) unprivileged(config *specs.Spec, id, file string, spec *cove.Spec) {
	process := config.Process
	process.User = specs.User{UID: image.UserID, GID: image.UserID}
	process.Env = append(process.Env, guestRoot+"=1")
	// CAP_SYS_ADMIN is for one mount of the agent's, which gives it away for ever then.
	own := append(slices.Clone(process.Capabilities.Permitted), "CAP_SYS_ADMIN")
	*process.Capabilities = specs.LinuxCapabilities{Bounding: own, Effective: own, Permitted: own, Inheritable: own, Ambient: own}
	config.Linux.CgroupsPath, config.Linux.Resources = "", nil
	if file == "" {
		return
	}
	const rootfs = "dev.gvisor.spec.rootfs."
	config.Annotations = map[string]string{rootfs + "source": file, rootfs + "type": "erofs", rootfs + "overlay": "memory"}
	if !spec.ReadOnly {
		config.Annotations[rootfs+"overlay"] = "dir=" + d.disk(id)
		config.Annotations[rootfs+"options"] = fmt.Sprintf("size=%d", spec.Limits.Disk)
	}
}

// guestRoot tells the agent to become root.
const guestRoot = "COVE_BECOME_ROOT"

// refusal says why this user can't have a user namespace, and what mends it, by the
// settings of the kernel below sys (/proc/sys); nil if the cause is not known.
func refusal(sys, name string, err error) error {
	unavailable := func(message, hint string) error {
		return cove.Errorf(cove.Unavailable, "runtime", name, message, hint)
	}
	sysctl := func(path string) string {
		content, _ := os.ReadFile(filepath.Join(sys, path))
		return strings.TrimSpace(string(content))
	}
	switch {
	case sysctl("kernel/unprivileged_userns_clone") == "0":
		return unavailable("this machine forbids user namespaces to ordinary users",
			"as root: sysctl -w kernel.unprivileged_userns_clone=1, and write that line to /etc/sysctl.d/50-cove.conf; or run cove as root")
	case sysctl("user/max_user_namespaces") == "0":
		return unavailable("this machine allows no user namespaces",
			"as root: sysctl -w user.max_user_namespaces=15000, and write that line to /etc/sysctl.d/50-cove.conf; or run cove as root")
	case sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1":
		return unavailable("AppArmor on this machine forbids user namespaces to programs without a profile", appArmorHint())
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return unavailable("this process may not make a user namespace: "+err.Error(),
			"inside a container: allow it (--security-opt seccomp=unconfined, or a profile that allows clone and mount); or run cove as root")
	}
	return nil
}

// appArmorHint is how Ubuntu's restriction is lifted for Cove's programs and no others.
func appArmorHint() string {
	dir := "/usr/local/bin"
	if self, err := os.Executable(); err == nil {
		dir = filepath.Dir(self)
	}
	return fmt.Sprintf("as root: printf 'abi <abi/4.0>,\\ninclude <tunables/global>\\nprofile cove %s/{cove,cove-runsc} flags=(unconfined) { userns, }\\n' > /etc/apparmor.d/cove && apparmor_parser -r /etc/apparmor.d/cove; or run cove as root", dir)
}

// ClaimCgroup prepares the cgroup that was delegated to this process, if there is one, for
// the groups of sandboxes. It moves the process within that group; it is for a daemon,
// before it opens a driver.
func ClaimCgroup() error { return cgroup.Claim() }

// SweepCgroups removes the cgroups that daemons of any driver have left which were killed,
// and have not come back. It is for a daemon, after ClaimCgroup.
func SweepCgroups() error { return cgroup.Sweep() }
