// Package bind provides what a host's files and directories are given to sandboxes by:
// descriptors. A source is resolved by name once, beneath a directory that the operator
// allows, and everything after that goes by the descriptor, so that nobody who can write
// there can put something else in its place in between.
package bind

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
)

// Rules says which sources may be given to sandboxes. The zero value allows none.
type Rules struct {
	// Prefixes are the directories at or beneath which a source has to lie: absolute
	// and clean. Where one lies in another, the outer one counts. They are the operator's,
	// so that symlinks in them are followed; beneath them none is.
	Prefixes []string
	// Never are directories of the daemon: neither they, nor what lies in them, nor what
	// they lie in is ever a source.
	Never []string
	// Sockets allows a directory in which a Unix socket of this machine listens. A
	// read-only mount does not keep anybody from connecting to it.
	Sockets bool
}

// never are directories of which nothing may be a source, for what is found there is the
// machine itself and its services.
var never = []string{"/proc", "/sys", "/dev", "/run", "/var/run"}

// Resolve opens a source as an O_PATH descriptor, for the caller to close. The error is
// cove.Forbidden for one that is not beneath a prefix or is never given away, cove.NotFound
// for one that is not there and cove.Invalid for one that is no file or directory.
func (r Rules) Resolve(source string) (*os.File, error) {
	if !filepath.IsAbs(source) || filepath.Clean(source) != source || strings.ContainsRune(source, 0) {
		return nil, refuse(cove.Invalid, source, "the path is not absolute and clean", "write it without .., . and doubled slashes")
	}
	prefix := r.prefix(source)
	if prefix == "" {
		return nil, refuse(cove.Forbidden, source, "the directory is not among those that the operator allows", "")
	}
	file, err := open(prefix, source)
	if err != nil {
		return nil, err
	}
	if err := r.check(file, source); err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

// prefix returns the shortest prefix that the source lies beneath, or "". What lies in it
// may have been given to a sandbox, which could have put a symlink in the place of a longer
// one.
func (r Rules) prefix(source string) string {
	shortest := ""
	for _, prefix := range r.Prefixes {
		if Beneath(prefix, source) && (shortest == "" || len(prefix) < len(shortest)) {
			shortest = prefix
		}
	}
	return shortest
}

// Beneath reports whether path is directory or lies in it, both absolute and clean.
func Beneath(directory, path string) bool {
	return directory == path || strings.HasPrefix(path, strings.TrimSuffix(directory, "/")+"/")
}

// open walks from the prefix to the source in one system call, which leaves the prefix by
// no way: not by .., not by a symlink, not by one of /proc.
func open(prefix, source string) (*os.File, error) {
	root, err := unix.Openat2(unix.AT_FDCWD, prefix, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, openError(source, err)
	}
	if prefix == source {
		return os.NewFile(uintptr(root), source), nil
	}
	defer unix.Close(root)
	below := strings.TrimPrefix(strings.TrimPrefix(source, strings.TrimSuffix(prefix, "/")), "/")
	how := &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		// EAGAIN: something was renamed during the walk, so that it could not be judged.
		fd, err := unix.Openat2(root, below, how)
		if err == nil {
			return os.NewFile(uintptr(fd), source), nil
		}
		if err != unix.EINTR && err != unix.EAGAIN {
			return nil, openError(source, err)
		}
	}
}

func openError(source string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return refuse(cove.NotFound, source, "there is no such file or directory on the daemon's machine", "make it first: cove makes no directories of the host")
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV):
		return refuse(cove.Forbidden, source, "a symlink is part of the path", "give the path that it leads to, if the operator allows that one")
	case errors.Is(err, unix.ENOSYS):
		return refuse(cove.NotSupported, source, "this kernel has no openat2(2)", "use Linux 5.6 or newer")
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return refuse(cove.Forbidden, source, "the daemon may not open it", "give the daemon's user access to it")
	}
	return fmt.Errorf("open %s: %w", source, err)
}

// check looks at what was opened, whatever its name is.
func (r Rules) check(file *os.File, source string) error {
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return fmt.Errorf("look at %s: %w", source, err)
	}
	if kind := stat.Mode & unix.S_IFMT; kind != unix.S_IFDIR && kind != unix.S_IFREG {
		return refuse(cove.Invalid, source, "it is neither a file nor a directory", "sockets, devices and pipes of the host are never given to a sandbox")
	}
	var system unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &system); err != nil {
		return fmt.Errorf("look at %s: %w", source, err)
	}
	if name, ok := kernelFiles[int64(system.Type)]; ok {
		return refuse(cove.Forbidden, source, "it is part of "+name+", which shows the machine itself", "choose a directory of files")
	}
	path, err := Name(Path(file))
	if err != nil {
		return err
	}
	if path == "/" {
		return refuse(cove.Forbidden, source, "it is the root directory", "choose a directory in it")
	}
	for _, directory := range append(resolved(r.Never), never...) {
		if Beneath(directory, path) || Beneath(path, directory) {
			return refuse(cove.Forbidden, source, "it has to do with "+directory+", which is never given to a sandbox", "choose another directory")
		}
	}
	if r.Sockets || stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	return noSocket(source, path)
}

// kernelFiles are the file systems that are not made of files, by statfs(2)'s type.
var kernelFiles = map[int64]string{
	unix.PROC_SUPER_MAGIC: "proc", unix.SYSFS_MAGIC: "sysfs", unix.DEVPTS_SUPER_MAGIC: "devpts",
	unix.CGROUP_SUPER_MAGIC: "cgroup", unix.CGROUP2_SUPER_MAGIC: "cgroup2", unix.DEBUGFS_MAGIC: "debugfs",
	unix.TRACEFS_MAGIC: "tracefs", unix.SECURITYFS_MAGIC: "securityfs", unix.BPF_FS_MAGIC: "bpf",
	unix.NSFS_MAGIC: "nsfs", unix.EFIVARFS_MAGIC: "efivarfs", unix.SELINUX_MAGIC: "selinuxfs",
}

// resolved adds to directories what their symlinks lead to.
func resolved(directories []string) []string {
	var all []string
	for _, directory := range directories {
		all = append(all, filepath.Clean(directory))
		if real, err := filepath.EvalSymlinks(directory); err == nil && real != directory {
			all = append(all, real)
		}
	}
	return all
}

func refuse(code cove.Code, source, message, hint string) error {
	return &cove.Error{Code: code, Op: "bind", ID: source, Err: errors.New(message), Hint: hint}
}

// Path returns the name by which a spec that a driver gets has a resolved source: valid
// for as long as file is open, and leading to it whatever happens to its real name.
func Path(file *os.File) string {
	return "/proc/" + strconv.Itoa(os.Getpid()) + "/fd/" + strconv.FormatUint(uint64(file.Fd()), 10)
}

// Name returns the real name of the file behind a Path, for an engine that takes names
// alone. Who uses it has to look afterwards, with Same, whether the engine took the file
// that was meant.
func Name(path string) (string, error) {
	name, err := os.Readlink(path)
	if err != nil {
		return "", err
	}
	if !filepath.IsAbs(name) || strings.HasSuffix(name, " (deleted)") {
		return "", refuse(cove.NotFound, name, "it was removed", "make it again")
	}
	return name, nil
}

// Same reports whether a name, of which no part is followed as a symlink, leads to the
// file behind a Path.
func Same(path, name string) (bool, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, name, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open %s: %w", name, err)
	}
	defer unix.Close(fd)
	var there, here unix.Stat_t
	if err := errors.Join(unix.Fstat(fd, &there), unix.Stat(path, &here)); err != nil {
		return false, fmt.Errorf("compare %s: %w", name, err)
	}
	return there.Dev == here.Dev && there.Ino == here.Ino, nil
}
