package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// traceDepth bounds how deep below a state directory traces are looked for.
const traceDepth = 6

// traces returns what on this host carries a sandbox's id: processes by their command line
// or cgroup, mounts, sockets, network namespaces, cgroups below some groups, and files
// below dirs. Zombies hold nothing and are not counted.
func traces(id string, groups, dirs []string) ([]string, error) {
	pids, err := processes(id)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, pid := range pids {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		found = append(found, fmt.Sprintf("process %d (%s)", pid, bytes.TrimSpace(bytes.ReplaceAll(line[:min(len(line), 80)], []byte{0}, []byte{' '}))))
	}
	for kind, path := range map[string]string{"mount": "/proc/self/mountinfo", "socket": "/proc/self/net/unix"} {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(content)) {
			if strings.Contains(line, id) {
				found = append(found, kind+" "+strings.TrimSpace(line))
			}
		}
	}
	for _, dir := range append([]string{"/run/netns"}, dirs...) {
		found = append(found, named(dir, id)...)
	}
	for _, group := range groups {
		found = append(found, groupsNamed(group, id)...)
	}
	return found, nil
}

// groupsNamed returns the cgroups below dir whose name contains id. A group has a link for
// each group below it, so that the many files of those without any are not listed.
func groupsNamed(dir, id string) []string {
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() {
		return nil
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Nlink == 2 {
		return nil
	}
	entries, _ := os.ReadDir(dir)
	var groups []string
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		switch {
		case !entry.IsDir():
		case strings.Contains(entry.Name(), id):
			groups = append(groups, path)
		default:
			groups = append(groups, groupsNamed(path, id)...)
		}
	}
	return groups
}

// named returns the files below dir whose name contains id.
func named(dir, id string) []string {
	var paths []string
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil // it is gone meanwhile, or was never there
		}
		if path != dir && strings.Contains(entry.Name(), id) {
			paths = append(paths, path)
			if entry.IsDir() {
				return fs.SkipDir
			}
		}
		if entry.IsDir() && (strings.Count(path[len(dir):], "/") >= traceDepth || foreignMount(path)) {
			return fs.SkipDir
		}
		return nil
	})
	return paths
}

// foreignMount reports whether path is where a sandbox's own filesystem is mounted: an
// overlay, which shows a whole system below it.
func foreignMount(path string) bool {
	var stat unix.Statfs_t
	return unix.Statfs(path, &stat) == nil && stat.Type == unix.OVERLAYFS_SUPER_MAGIC
}

// KillProcesses ends a sandbox as a crash does: it kills every process on this host that
// carries its id, and returns when they are dead. It returns an error when there is none.
func KillProcesses(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for killed := 0; ; {
		pids, err := processes(id)
		switch {
		case err != nil:
			return err
		case len(pids) == 0 && killed == 0:
			return errors.New("no process on this host carries the id " + id)
		case len(pids) == 0:
			return nil
		}
		for _, pid := range pids {
			if err := killProcess(ctx, pid); err != nil {
				return fmt.Errorf("kill process %d: %w", pid, err)
			}
			killed++
		}
	}
}

// killProcess kills a process and returns when it is dead: a while after it has lost its
// command line.
func killProcess(ctx context.Context, pid int) error {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(pidfd)
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	for ctx.Err() == nil {
		polled := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		if n, err := unix.Poll(polled, 100); n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return ctx.Err()
}

// processes returns the living processes whose command line or cgroup names id, but never
// this one.
func processes(id string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		for _, name := range []string{"cmdline", "cgroup"} {
			content, err := os.ReadFile(filepath.Join("/proc", entry.Name(), name))
			if err == nil && bytes.Contains(content, []byte(id)) && !zombie(pid) {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids, nil
}

// inGroup reports whether a process is in a cgroup that names id.
func inGroup(pid int, id string) bool {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	return err == nil && bytes.Contains(content, []byte(id))
}

// zombie reports whether a process has ended and waits for its parent.
func zombie(pid int) bool {
	state, _ := stateOf(pid)
	return state == 'Z' || state == 'X' || state == 0
}

// stateOf returns the state and the parent of a process, the fields of its stat that come
// after the name, which may contain anything.
func stateOf(pid int) (state byte, parent int) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 2 {
		return 0, 0
	}
	parent, _ = strconv.Atoi(fields[1])
	return fields[0][0], parent
}

// zombies counts this process's children that ended and were not waited for.
func zombies() int {
	entries, _ := os.ReadDir("/proc")
	count := 0
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if state, parent := stateOf(pid); state == 'Z' && parent == os.Getpid() {
			count++
		}
	}
	return count
}

// openFiles counts this process's open files.
func openFiles() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

// files returns every path below dirs, for a comparison.
func files(dirs []string) map[string]fs.FileMode {
	paths := map[string]fs.FileMode{}
	for _, dir := range dirs {
		_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			paths[path] = entry.Type()
			if entry.IsDir() && (strings.Count(path[len(dir):], "/") >= traceDepth || foreignMount(path)) {
				return fs.SkipDir
			}
			return nil
		})
	}
	return paths
}

// canary is a file on the host with a secret that no sandbox may see.
type canary struct {
	path, secret string
}

// newCanary writes a secret into a directory of the host.
func newCanary(dir string) (canary, error) {
	file, err := os.CreateTemp(dir, "cove-canary-")
	if err != nil {
		return canary{}, err
	}
	defer file.Close()
	c := canary{path: file.Name(), secret: newID()}
	if _, err := file.WriteString(c.secret); err != nil {
		return canary{}, errors.Join(err, c.remove())
	}
	return c, file.Chmod(0o644)
}

func (c canary) remove() error { return os.Remove(c.path) }

// listener accepts what reaches the host, and counts it.
type listener struct {
	net.Listener
	count atomic.Int64
	done  sync.WaitGroup
}

// listen opens a listener on the host, which close ends.
func listen(ctx context.Context, network, address string) (*listener, error) {
	var config net.ListenConfig
	inner, err := config.Listen(ctx, network, address)
	if err != nil {
		return nil, err
	}
	l := &listener{Listener: inner}
	l.done.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			l.count.Add(1)
			conn.Close()
		}
	})
	return l, nil
}

func (l *listener) port() int { return l.Addr().(*net.TCPAddr).Port }

func (l *listener) accepted() int { return int(l.count.Load()) }

func (l *listener) close() {
	l.Close()
	l.done.Wait()
}

// canarySize is the size of the shared memory that a sandbox must not see; no other
// segment is likely to have it.
const canarySize = 40961

// sharedMemory makes a System V segment on the host.
func sharedMemory() (id int, remove func(), err error) {
	id, err = unix.SysvShmGet(unix.IPC_PRIVATE, canarySize, unix.IPC_CREAT|0o600)
	if err != nil {
		return 0, nil, fmt.Errorf("make shared memory: %w", err)
	}
	return id, func() { _, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil) }, nil
}
