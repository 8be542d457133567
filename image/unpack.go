package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
)

// UnpackLimits bounds what an archive may become. A zero field means the default.
type UnpackLimits struct {
	Bytes   int64 // of all files together; default 32 GiB
	Entries int   // default 2,000,000
}

// Unpack writes a tar stream below dir, as the root of a file system that it can't leave:
// a path is resolved with dir as its root, whatever symlinks the archive itself has made.
// Devices, FIFOs and sockets are left out, since a sandbox has its own. Owners are kept
// where the caller may set them. A hostile or broken archive is cove.Invalid, one above
// the limits cove.TooLarge; dir then holds a part of it.
func Unpack(r io.Reader, dir string, limits UnpackLimits) error {
	if limits.Bytes == 0 {
		limits.Bytes = 32 << 30
	}
	if limits.Entries == 0 {
		limits.Entries = 2_000_000
	}
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	u := unpacker{root: root, owner: os.Geteuid() == 0}
	archive := tar.NewReader(r)
	for entries := 0; ; entries++ {
		header, err := archive.Next()
		if err == io.EOF {
			return u.setTimes()
		}
		if err != nil {
			return invalid("not a tar archive: %v", err)
		}
		u.bytes += header.Size
		if entries >= limits.Entries || u.bytes > limits.Bytes || header.Size < 0 {
			return cove.Errorf(cove.TooLarge, "", "", fmt.Sprintf("the archive has more than %d entries or %s", limits.Entries, cove.Bytes(limits.Bytes)), "make a smaller image")
		}
		if err := u.entry(header, archive); err != nil {
			return err
		}
	}
}

func invalid(format string, args ...any) error {
	return cove.Errorf(cove.Invalid, "", "", fmt.Sprintf(format, args...), "the image must be a tar archive of a root filesystem")
}

// unpacker writes entries relative to descriptors, never by a path that the kernel would
// resolve from the host's root.
type unpacker struct {
	root  int
	owner bool
	bytes int64
	dirs  []dirTime
}

// dirTime is set at the end: files written into a directory change its time.
type dirTime struct {
	name string
	at   time.Time
}

// maxDepth bounds how deep directories nest.
const maxDepth = 256

func (u *unpacker) entry(header *tar.Header, content io.Reader) error {
	name := path.Clean("/" + header.Name)[1:]
	if strings.ContainsRune(header.Name, 0) || strings.Count(name, "/") > maxDepth {
		return invalid("entry %.100q has an impossible name", header.Name)
	}
	if name == "" {
		return nil
	}
	parent, err := u.parent(path.Dir(name))
	if err != nil {
		return invalid("entry %.100q: %v", header.Name, err)
	}
	defer unix.Close(parent)
	base := path.Base(name)
	if err := u.make(parent, base, name, header, content); err != nil {
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			return &cove.Error{Code: cove.NoSpace, Err: err, Hint: "free space in the data directory"}
		}
		return invalid("entry %.100q: %v", header.Name, err)
	}
	return nil
}

func (u *unpacker) make(parent int, base, name string, header *tar.Header, content io.Reader) error {
	mode := uint32(header.Mode) & 0o7777
	switch header.Typeflag {
	case tar.TypeDir:
		if err := u.directory(parent, base); err != nil {
			return err
		}
		u.dirs = append(u.dirs, dirTime{name, header.ModTime})
		return u.attributes(parent, base, header, mode)
	case tar.TypeReg:
		return u.file(parent, base, header, mode, content)
	case tar.TypeSymlink:
		if err := u.replace(parent, base); err != nil {
			return err
		}
		if err := unix.Symlinkat(header.Linkname, parent, base); err != nil {
			return err
		}
		return u.chown(parent, base, header)
	case tar.TypeLink:
		return u.link(parent, base, header.Linkname)
	}
	return nil // a device, FIFO or extension: the sandbox has its own
}

// directory makes a directory, or keeps the one that is there. Anything else of that name
// goes: a symlink would be followed by what comes next.
func (u *unpacker) directory(parent int, base string) error {
	var stat unix.Stat_t
	err := unix.Fstatat(parent, base, &stat, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil
	}
	if err := u.replace(parent, base); err != nil {
		return err
	}
	return unix.Mkdirat(parent, base, 0o755)
}

func (u *unpacker) file(parent int, base string, header *tar.Header, mode uint32, content io.Reader) error {
	if err := u.replace(parent, base); err != nil {
		return err
	}
	fd, err := unix.Openat(parent, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), base)
	defer file.Close()
	if _, err := io.Copy(file, content); err != nil {
		return err
	}
	if err := u.attributes(parent, base, header, mode); err != nil {
		return err
	}
	at := unix.NsecToTimespec(header.ModTime.UnixNano())
	return unix.UtimesNanoAt(parent, base, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW)
}

func (u *unpacker) link(parent int, base, target string) error {
	target = path.Clean("/" + target)[1:]
	from, err := u.parent(path.Dir(target))
	if err != nil {
		return err
	}
	defer unix.Close(from)
	if err := u.replace(parent, base); err != nil {
		return err
	}
	return unix.Linkat(from, path.Base(target), parent, base, 0)
}

// parent opens a directory of the tree, making what is missing of it. Symlinks on the way
// are followed as the sandbox would follow them.
func (u *unpacker) parent(dir string) (int, error) {
	if fd, err := u.open(dir); !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	above, err := u.parent(path.Dir(dir))
	if err != nil {
		return -1, err
	}
	defer unix.Close(above)
	if err := unix.Mkdirat(above, path.Base(dir), 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, err
	}
	return u.open(dir)
}

func (u *unpacker) open(dir string) (int, error) {
	return unix.Openat2(u.root, dir, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
}

// replace makes room for an entry: a later one of the same name wins, as in tar.
func (u *unpacker) replace(parent int, base string) error {
	err := unix.Unlinkat(parent, base, 0)
	if errors.Is(err, unix.EISDIR) {
		err = unix.Unlinkat(parent, base, unix.AT_REMOVEDIR)
	}
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func (u *unpacker) attributes(parent int, base string, header *tar.Header, mode uint32) error {
	if err := u.chown(parent, base, header); err != nil { // first: it clears setuid
		return err
	}
	return unix.Fchmodat(parent, base, mode, 0)
}

func (u *unpacker) chown(parent int, base string, header *tar.Header) error {
	if !u.owner {
		return nil
	}
	return unix.Fchownat(parent, base, header.Uid, header.Gid, unix.AT_SYMLINK_NOFOLLOW)
}

func (u *unpacker) setTimes() error {
	for _, dir := range u.dirs {
		fd, err := u.open(dir.name)
		if err != nil { // replaced by a later entry
			continue
		}
		at := unix.NsecToTimespec(dir.at.UnixNano())
		err = unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), []unix.Timespec{at, at}, 0)
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	return nil
}
