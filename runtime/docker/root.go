package docker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/process"
)

// Engines bound what a container writes on few file systems, and in ways of their own. So a
// container on this machine's kernel is made with a read-only root, and before anything but
// our agent runs in it, its mount namespace gets another one: an overlay of that root and a
// disk of the size that was asked for. What the engine mounted moves along. The disk belongs
// to the namespace alone and goes with it, whoever ends the sandbox.

// The places below the agent's own directory while the root changes.
const (
	agentDir  = "/.cove"
	diskPlace = agentDir + "/disk"
	overPlace = agentDir + "/over"
	rootPlace = agentDir + "/root"
)

// giveDisk gives the sandbox whose first process this is a writable root of the given size,
// with the tree over, if there is one, over the image.
func (d *Driver) giveDisk(ctx context.Context, first *process.Process, dir, over string, size cove.Bytes) error {
	// On its way to its sockets the agent would see half of either root.
	if err := first.Stop(); err != nil {
		return err
	}
	mounted, err := childMounts(first.PID)
	if err != nil {
		return err
	}
	if !slices.Contains(mounted, agentDir) {
		return cove.Errorf(cove.Invalid, "create", "", "the image has something else in place of "+agentDir, "use another image")
	}
	place := filepath.Join(dir, "disk")
	if err := os.Mkdir(place, 0o700); err != nil {
		return err
	}
	if err := d.disks.Mount(ctx, place, size); err != nil {
		return err
	}
	disk, err := unix.OpenTree(unix.AT_FDCWD, place, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err := errors.Join(os.NewSyscallError("open_tree", err), os.NewSyscallError("unmount", unix.Unmount(place, unix.MNT_DETACH))); err != nil {
		return err
	}
	defer unix.Close(disk)
	extra := -1
	if over != "" {
		if extra, err = unix.OpenTree(unix.AT_FDCWD, over, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC); err != nil {
			return os.NewSyscallError("open_tree", err)
		}
		defer unix.Close(extra)
	}
	if err := inNamespaceOf(first, func() error { return changeRoot(disk, extra, mounted) }); err != nil {
		return err
	}
	return first.Continue()
}

// inNamespaceOf runs fn as inNamespace does, in the mount namespace of a process.
func inNamespaceOf(first *process.Process, fn func() error) error {
	namespace, err := unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", first.PID), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open the sandbox's namespace", err)
	}
	defer unix.Close(namespace)
	if !first.Alive() { // and so it was when the namespace was opened, or the pid is another's
		return errors.New("the sandbox ended at its start")
	}
	return inNamespace(namespace, fn)
}

// childMounts returns where the file systems are mounted that lie on the root of a process.
func childMounts(pid int) ([]string, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	type mount struct{ id, parent, target string }
	var all []mount
	root := ""
	for lines := bufio.NewScanner(file); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		m := mount{fields[0], fields[1], unescape(fields[4])}
		if m.target == "/" {
			root = m.id
		}
		all = append(all, m)
	}
	var targets []string
	for _, m := range all {
		if m.parent == root && m.target != "/" {
			targets = append(targets, m.target)
		}
	}
	return targets, nil
}

// unescape reads a path as mountinfo has it: with \040 for a space, proc(5).
func unescape(path string) string {
	var out strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] == '\\' && i+3 < len(path) {
			if code, err := strconv.ParseUint(path[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(code))
				i += 3
				continue
			}
		}
		out.WriteByte(path[i])
	}
	return out.String()
}

// inNamespace runs fn on a thread of its own in a mount namespace, with the root directory of
// that. The thread ends with it.
func inNamespace(namespace int, fn func() error) error {
	done := make(chan error, 1)
	go func() { onFreshThread(func() { done <- enter(namespace, fn) }) }()
	return <-done
}

// onFreshThread locks the goroutine to its thread, for ever. The process's first thread is
// left alone: it does not end, and what /proc/self shows is its.
func onFreshThread(fn func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		fn()
		return
	}
	defer runtime.UnlockOSThread()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // the first thread is taken
		fn()
	}()
	<-done
}

func enter(namespace int, fn func() error) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := unix.Setns(namespace, unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("setns", err)
	}
	return fn()
}

// changeRoot makes the overlay and puts it in place of the root, with all that is mounted on
// that. It runs in the sandbox's mount namespace, where every name is the sandbox's.
func changeRoot(disk, over int, mounted []string) error {
	for _, dir := range []string{diskPlace, overPlace, rootPlace} {
		if err := unix.Mkdir(dir, 0o700); err != nil {
			return &os.PathError{Op: "mkdir", Path: dir, Err: err}
		}
	}
	lower, placed := "/", map[string]int{diskPlace: disk}
	if over >= 0 {
		lower, placed[overPlace] = overPlace+":/", over
	}
	for place, tree := range placed {
		if err := unix.MoveMount(tree, "", unix.AT_FDCWD, place, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return os.NewSyscallError("move_mount", err)
		}
	}
	for _, dir := range []string{diskPlace + "/upper", diskPlace + "/work"} {
		if err := unix.Mkdir(dir, 0o755); err != nil {
			return &os.PathError{Op: "mkdir", Path: dir, Err: err}
		}
	}
	if err := copyMode("/", diskPlace+"/upper"); err != nil {
		return err
	}
	options := "lowerdir=" + lower + ",upperdir=" + diskPlace + "/upper,workdir=" + diskPlace + "/work"
	if err := unix.Mount("cove", rootPlace, "overlay", unix.MS_NODEV|unix.MS_NOSUID, options); err != nil {
		return os.NewSyscallError("mount overlay", err)
	}
	if err := pivot(mounted); err != nil {
		return err
	}
	// The overlay keeps what it is made of; nobody is to see its parts.
	for place := range placed {
		if err := unix.Unmount(place, unix.MNT_DETACH); err != nil {
			return &os.PathError{Op: "unmount", Path: place, Err: err}
		}
	}
	return errors.Join(unix.Rmdir(diskPlace), unix.Rmdir(overPlace), unix.Rmdir(rootPlace))
}

// copyMode gives a directory the mode and the owner of another.
func copyMode(from, to string) error {
	var st unix.Stat_t
	if err := unix.Stat(from, &st); err != nil {
		return &os.PathError{Op: "stat", Path: from, Err: err}
	}
	return errors.Join(unix.Chown(to, int(st.Uid), int(st.Gid)), unix.Chmod(to, st.Mode&0o7777))
}

// pivot makes rootPlace the root of every process here, moves what is mounted on the old root
// to the new one, and lets go of the old one.
func pivot(mounted []string) error {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	before, err := unix.Open("/", flags, 0)
	if err != nil {
		return os.NewSyscallError("open the old root", err)
	}
	defer unix.Close(before)
	after, err := unix.Open(rootPlace, flags, 0)
	if err != nil {
		return os.NewSyscallError("open the new root", err)
	}
	defer unix.Close(after)
	if err := unix.Fchdir(after); err != nil {
		return os.NewSyscallError("fchdir", err)
	}
	// The old root lies on the new one then, where only its descriptor leads.
	if err := unix.PivotRoot(".", "."); err != nil {
		return os.NewSyscallError("pivot_root", err)
	}
	for _, target := range mounted {
		if err := move(before, after, strings.TrimPrefix(target, "/")); err != nil {
			return fmt.Errorf("move %s: %w", target, err)
		}
	}
	if err := unix.Fchdir(before); err != nil {
		return os.NewSyscallError("fchdir", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return os.NewSyscallError("unmount the old root", err)
	}
	return os.NewSyscallError("chdir", unix.Chdir("/"))
}

// move moves a mount from one root to the same place of another. No link is followed on the
// way: the tree is whoever made the image's.
func move(from, to int, path string) error {
	how := &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	source, err := unix.Openat2(from, path, how)
	if err != nil {
		return err
	}
	defer unix.Close(source)
	target, err := unix.Openat2(to, path, how)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	return unix.MoveMount(source, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}
