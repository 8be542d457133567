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

func (l UnpackLimits) withDefaults() UnpackLimits {
	if l.Bytes == 0 {
		l.Bytes = 32 << 30
	}
	if l.Entries == 0 {
		l.Entries = 2_000_000
	}
	return l
}

// Unpack writes a tar stream below dir, as the root of a file system that it can't leave:
// a path is resolved with dir as its root, whatever symlinks the archive itself has made.
// Devices, FIFOs and sockets are left out, since a sandbox has its own. Owners are kept
// where the caller may set them. A hostile or broken archive is cove.Invalid, one above
// the limits cove.TooLarge; dir then holds a part of it.
func Unpack(r io.Reader, dir string, limits UnpackLimits) error {
	u, err := newUnpacker(dir, limits)
	if err != nil {
		return err
	}
	defer u.close()
	if err := u.archive(r); err != nil {
		return err
	}
	return u.finish()
}

func invalid(format string, args ...any) error {
	return cove.Errorf(cove.Invalid, "", "", fmt.Sprintf(format, args...), "the image must be a tar archive of a root filesystem")
}

// unpacker writes entries relative to descriptors, never by a path that the kernel would
// resolve from the host's root.
type unpacker struct {
	root    int
	owner   bool // it may set owners, and permissions do not hold it up
	limits  UnpackLimits
	bytes   int64
	entries int
	dirs    []dirEntry
	layer   *layer // of an image, that lies over what is there; nil: an archive of its own
	buffer  []byte
}

// dirEntry is set at the end: files written into a directory change its time, and only
// root writes into one that is not writable.
type dirEntry struct {
	name string
	mode uint32
	at   time.Time
}

// maxDepth bounds how deep directories nest.
const maxDepth = 256

// newUnpacker returns one that writes below dir; the caller closes it.
func newUnpacker(dir string, limits UnpackLimits) (*unpacker, error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return &unpacker{root: root, owner: os.Geteuid() == 0, limits: limits.withDefaults(), buffer: make([]byte, 256<<10)}, nil
}

func (u *unpacker) close() { unix.Close(u.root) }

// archive writes the entries of a tar stream.
func (u *unpacker) archive(r io.Reader) error {
	archive := tar.NewReader(r)
	for {
		header, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return streamError(err)
		}
		u.entries++
		if header.Size < 0 || header.Size > u.limits.Bytes-u.bytes || u.entries > u.limits.Entries {
			return u.tooLarge()
		}
		u.bytes += header.Size
		if err := u.entry(header, archive); err != nil {
			return err
		}
	}
}

func (u *unpacker) tooLarge() error {
	return cove.Errorf(cove.TooLarge, "", "", fmt.Sprintf("the archive has more than %d entries or %s", u.limits.Entries, cove.Bytes(u.limits.Bytes)), "make a smaller image")
}

// streamError is that of a tar stream: one that says more itself, or a broken archive.
func streamError(err error) error {
	if cove.CodeOf(err) != cove.Internal || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return invalid("not a tar archive: %v", err)
}

func (u *unpacker) entry(header *tar.Header, content io.Reader) error {
	name := path.Clean("/" + header.Name)[1:]
	if strings.ContainsRune(header.Name, 0) || strings.Count(name, "/") >= maxDepth {
		return invalid("entry %.100q has an impossible name", header.Name)
	}
	if header.Uid < 0 || header.Gid < 0 || header.Uid >= 1<<32-1 || header.Gid >= 1<<32-1 {
		return invalid("entry %.100q has an impossible owner", header.Name)
	}
	err := u.place(name, header, content)
	var ours *cove.Error
	switch {
	case err == nil || errors.As(err, &ours):
		return err
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT):
		return noSpace(err)
	case cove.CodeOf(err) != cove.Internal: // the stream's own
		return err
	}
	return invalid("entry %.100q: %v", header.Name, err)
}

func noSpace(err error) error {
	return &cove.Error{Code: cove.NoSpace, Err: err, Hint: "free space in the data directory, as with cove image prune"}
}

// place writes one entry, or does what it says where it is a whiteout.
func (u *unpacker) place(name string, header *tar.Header, content io.Reader) error {
	if name == "" {
		return nil
	}
	base := path.Base(name)
	if u.layer != nil && strings.HasPrefix(base, whiteout) {
		return u.whiteout(path.Dir(name), base)
	}
	parent, err := u.parent(path.Dir(name))
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	if err := u.mark(parent, base); err != nil {
		return err
	}
	return u.make(parent, base, name, header, content)
}

func (u *unpacker) make(parent int, base, name string, header *tar.Header, content io.Reader) error {
	mode := uint32(header.Mode) & 0o7777
	switch header.Typeflag {
	case tar.TypeDir:
		if err := u.directory(parent, base); err != nil {
			return err
		}
		u.dirs = append(u.dirs, dirEntry{name, mode, header.ModTime})
		return u.chown(parent, base, header)
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
	if u.layer != nil { // it would hide what is below
		return u.replace(parent, base)
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
	return u.mkdir(parent, base)
}

// mkdir makes a directory, unless that is deeper than whoever removes the tree can go.
// The name of an entry does not tell: a symlink may lead from one depth to another.
func (u *unpacker) mkdir(parent int, base string) error {
	where, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", parent))
	if err != nil {
		return err
	}
	top, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", u.root))
	if err != nil {
		return err
	}
	if strings.Count(where, "/")-strings.Count(top, "/") >= maxDepth {
		return invalid("directories nest deeper than %d", maxDepth)
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
	defer unix.Close(fd)
	// The structs hide methods with which io.CopyBuffer would go past the buffer.
	n, err := io.CopyBuffer(struct{ io.Writer }{fdWriter(fd)}, struct{ io.Reader }{content}, u.buffer)
	if err != nil {
		return err
	}
	if n != header.Size {
		return io.ErrUnexpectedEOF
	}
	if u.owner { // first: it clears setuid
		if err := unix.Fchown(fd, header.Uid, header.Gid); err != nil {
			return err
		}
	} else {
		mode |= 0o400 // who unpacked it has to show it to a sandbox
	}
	if u.layer != nil {
		mode &^= unix.S_ISUID | unix.S_ISGID
	}
	if err := unix.Fchmod(fd, mode); err != nil {
		return err
	}
	at := unix.NsecToTimespec(header.ModTime.UnixNano())
	return unix.UtimesNanoAt(parent, base, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW)
}

// fdWriter writes to a descriptor, at a tenth of what an os.File costs for a small file.
type fdWriter int

// Write writes all of p.
func (w fdWriter) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		n, err := unix.Write(int(w), p[written:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return written, os.NewSyscallError("write", err)
		}
		written += n
	}
	return written, nil
}

func (u *unpacker) link(parent int, base, target string) error {
	target = path.Clean("/" + target)[1:]
	if target == "" {
		return unix.EPERM
	}
	from, err := u.parent(path.Dir(target))
	if err != nil {
		return err
	}
	defer unix.Close(from)
	if same, err := sameFile(from, path.Base(target), parent, base); same || err != nil {
		return err // a link to itself: removing the one would lose the other
	}
	if err := u.replace(parent, base); err != nil {
		return err
	}
	return unix.Linkat(from, path.Base(target), parent, base, 0)
}

// sameFile reports whether two names are of one file already.
func sameFile(dir1 int, name1 string, dir2 int, name2 string) (bool, error) {
	var a, b unix.Stat_t
	if err := unix.Fstatat(dir1, name1, &a, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, err
	}
	if err := unix.Fstatat(dir2, name2, &b, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, nil
	}
	return a.Dev == b.Dev && a.Ino == b.Ino, nil
}

// parent opens a directory of the tree, making what is missing of it. Symlinks on the way
// are followed as the sandbox would follow them.
func (u *unpacker) parent(dir string) (int, error) {
	if fd, err := u.open(dir, 0); !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	above, err := u.parent(path.Dir(dir))
	if err != nil {
		return -1, err
	}
	defer unix.Close(above)
	if err := u.mkdir(above, path.Base(dir)); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, err
	}
	if err := u.mark(above, path.Base(dir)); err != nil {
		return -1, err
	}
	return u.open(dir, 0)
}

// open opens a directory of the tree, with more flags than those it needs.
func (u *unpacker) open(dir string, flags uint64) (int, error) {
	return unix.Openat2(u.root, dir, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC | flags,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
}

// replace makes room for an entry: a later one of the same name wins, as in tar. Of the
// layers of an image, the upper one also replaces a directory with what is in it.
func (u *unpacker) replace(parent int, base string) error {
	if u.layer != nil {
		return removeAt(parent, base)
	}
	err := unix.Unlinkat(parent, base, 0)
	if errors.Is(err, unix.EISDIR) {
		err = unix.Unlinkat(parent, base, unix.AT_REMOVEDIR)
	}
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func (u *unpacker) chown(parent int, base string, header *tar.Header) error {
	if !u.owner {
		return nil
	}
	return unix.Fchownat(parent, base, header.Uid, header.Gid, unix.AT_SYMLINK_NOFOLLOW)
}

// finish gives the directories their modes and times.
func (u *unpacker) finish() error {
	for _, dir := range u.dirs {
		fd, err := u.open(dir.name, unix.O_NOFOLLOW)
		if err != nil { // replaced by a later entry
			continue
		}
		err = u.finishDir(fd, dir)
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	u.dirs = nil
	return nil
}

func (u *unpacker) finishDir(fd int, dir dirEntry) error {
	mode := dir.mode
	if !u.owner {
		mode |= 0o500
	}
	self := fmt.Sprintf("/proc/self/fd/%d", fd)
	if err := unix.Fchmodat(unix.AT_FDCWD, self, mode, 0); err != nil {
		return err
	}
	at := unix.NsecToTimespec(dir.at.UnixNano())
	return unix.UtimesNanoAt(unix.AT_FDCWD, self, []unix.Timespec{at, at}, 0)
}
