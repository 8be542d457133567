package image

import (
	"errors"
	"hash/maphash"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// What an OCI layer says of the layers below it, by the names of entries.
const (
	whiteout = ".wh."         // and a name: that is not there any more
	opaque   = ".wh..wh..opq" // nothing of the layers below is in this directory any more
	metadata = ".wh..wh."     // what a storage driver of old wrote for itself
)

// layer is one layer while it is laid over those below.
type layer struct {
	seed maphash.Seed
	// made has every name that the layer itself has made, as a hash of its directory's
	// inode and the name: whiteouts are about the layers below, wherever in the archive
	// they stand. The seed is random, so that nobody finds names that collide.
	made map[uint64]struct{}
}

// lay unpacks the archive of a layer over what is there.
func (u *unpacker) lay(r io.Reader) error {
	u.layer = &layer{seed: maphash.MakeSeed(), made: map[uint64]struct{}{}}
	return u.archive(r)
}

func (l *layer) key(dir uint64, name string) uint64 {
	var hash maphash.Hash
	hash.SetSeed(l.seed)
	maphash.WriteComparable(&hash, dir)
	_, _ = hash.WriteString(name) // never fails
	return hash.Sum64()
}

// mark notes that the layer makes a name in a directory.
func (u *unpacker) mark(dir int, name string) error {
	if u.layer == nil {
		return nil
	}
	inode, err := inodeOf(dir)
	if err != nil {
		return err
	}
	u.layer.made[u.layer.key(inode, name)] = struct{}{}
	return nil
}

func inodeOf(fd int) (uint64, error) {
	var stat unix.Stat_t
	err := unix.Fstat(fd, &stat)
	return stat.Ino, err
}

// whiteout does what an entry named so says.
func (u *unpacker) whiteout(dir, base string) error {
	name := strings.TrimPrefix(base, whiteout)
	switch {
	case base != opaque && strings.HasPrefix(base, metadata):
		return nil
	case name == "" || name == "." || name == "..":
		return invalid("entry %.100q is an impossible whiteout", path.Join(dir, base))
	}
	parent, err := u.open(dir, 0)
	if errors.Is(err, unix.ENOENT) { // nothing to hide
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	if base == opaque {
		return u.hideBelow(parent)
	}
	return u.hide(parent, name)
}

// hide removes what layers below have under a name. A directory stays where the layer
// itself has something in it, whether or not that has an entry for the directory too.
func (u *unpacker) hide(parent int, name string) error {
	inode, err := inodeOf(parent)
	if err != nil {
		return err
	}
	_, made := u.layer.made[u.layer.key(inode, name)]
	dir, err := unix.Openat(parent, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.ENOTDIR) && made:
		return nil
	case errors.Is(err, unix.ENOTDIR):
		return unix.Unlinkat(parent, name, 0)
	case err != nil:
		return err
	}
	defer unix.Close(dir)
	if err := u.hideBelow(dir); err != nil || made {
		return err
	}
	if err := unix.Unlinkat(parent, name, unix.AT_REMOVEDIR); !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	return nil
}

// hideBelow removes what layers below have in a directory.
func (u *unpacker) hideBelow(dir int) error {
	names, err := namesIn(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := u.hide(dir, name); err != nil {
			return err
		}
	}
	return nil
}

// namesIn lists a directory that is open as a path.
func namesIn(dir int) ([]string, error) {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "directory")
	defer file.Close()
	return file.Readdirnames(-1)
}

// removeAt removes what has a name in a directory, with everything in it. It follows no
// symlink, and succeeds when there is nothing.
func removeAt(parent int, name string) error {
	err := unix.Unlinkat(parent, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) {
		return err
	}
	dir, err := unix.Openat(parent, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if os.Geteuid() != 0 { // an image may have directories in which its owner may not write
		if err := unix.Fchmodat(parent, name, 0o700, 0); err != nil {
			return err
		}
	}
	names, err := namesIn(dir)
	if err != nil {
		return err
	}
	for _, inside := range names {
		if err := removeAt(dir, inside); err != nil {
			return err
		}
	}
	return unix.Unlinkat(parent, name, unix.AT_REMOVEDIR)
}

// removeTree removes a tree of the store.
func removeTree(dir string) error {
	parent, err := unix.Open(path.Dir(dir), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path.Dir(dir), Err: err}
	}
	defer unix.Close(parent)
	if err := removeAt(parent, path.Base(dir)); err != nil {
		return &os.PathError{Op: "remove", Path: dir, Err: err}
	}
	return nil
}
