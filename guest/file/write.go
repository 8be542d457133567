package file

import (
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/disk"
	wire "github.com/covehq/cove/guest/wire/gen/filesystem"
)

// A file is written under another name and then renamed, so that a reader sees the old one
// or the new one and never a mixture. The name tells watchers what the rename will mean.
const (
	createPrefix  = ".cove-create-"
	replacePrefix = ".cove-replace-"
)

// Pending reports whether a name is that of a file that is being written by an upload, and
// whether it will replace one.
func Pending(name string) (pending, replaces bool) {
	replaces = strings.HasPrefix(name, replacePrefix)
	return replaces || strings.HasPrefix(name, createPrefix), replaces
}

// newMode is the mode of a new file.
const newMode = 0o644

// draft is a file to be written.
type draft struct {
	place    Place
	mode     *uint32 // nil keeps that of an existing file
	metadata map[string]string
}

// target is where a draft goes.
type target struct {
	path     string // with no symlink at its end
	mode     uint32
	uid, gid int      // of the existing file, or -1
	file     *os.File // what is written to
	inPlace  bool     // file is the target itself
}

// write writes a file from r, and returns its entry. On error there is no new file, and an
// old one is what it was; only one in a directory that the user may not write to is
// written in place, and may be cut.
func (s *Service) write(d draft, r io.Reader) (*wire.EntryInfo, error) {
	var t *target
	path := d.place.Path
	err := s.book.As(d.place.Account, func() (err error) {
		t, err = d.create()
		return err
	})
	if err != nil {
		return nil, Failure(path, err)
	}
	source := &sourceReader{Reader: r}
	_, err = s.disk.Copy(s.disk.Writer(t.file), source)
	if source.err != nil {
		err = cutOff(source.err)
	}
	if err == nil {
		err = s.finish(d, t)
	}
	err = errors.Join(err, t.file.Close())
	if err == nil {
		err = s.book.As(d.place.Account, func() error { return t.replace(s.disk) })
	}
	if err != nil {
		if !t.inPlace {
			_ = s.book.As(d.place.Account, func() error { return os.Remove(t.file.Name()) })
		}
		return nil, Failure(path, err)
	}
	return s.describe(d.place)
}

// sourceReader keeps the error of the side that is read apart from those of the disk.
type sourceReader struct {
	io.Reader
	err error
}

// Read reads the next piece.
func (r *sourceReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// create opens what the draft is written to. It runs as the user.
func (d draft) create() (*target, error) {
	path, err := follow(d.place.Path)
	if err != nil {
		return nil, err
	}
	t := &target{path: path, mode: newMode, uid: -1, gid: -1}
	prefix := createPrefix
	info, err := os.Lstat(path)
	switch {
	case err == nil:
		prefix = replacePrefix
		if err := t.accept(info); err != nil {
			return nil, err
		}
	case errors.Is(err, os.ErrNotExist):
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
	default:
		return nil, err
	}
	if d.mode != nil {
		t.mode = *d.mode
	}
	temporary := filepath.Join(filepath.Dir(path), prefix+rand.Text())
	t.file, err = os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, os.ErrPermission) && prefix == replacePrefix {
		t.inPlace = true
		t.file, err = os.OpenFile(path, os.O_WRONLY|os.O_TRUNC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	}
	return t, err
}

// accept checks that an existing file may be replaced, and keeps what stays of it. It
// takes the right to write to the file, not only to its directory.
func (t *target) accept(info os.FileInfo) error {
	if !info.Mode().IsRegular() {
		return irregular(t.path, info.Mode())
	}
	existing, err := os.OpenFile(t.path, os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil && !errors.Is(err, syscall.ETXTBSY) { // a running program can be replaced
		return err
	}
	if err == nil {
		defer existing.Close()
	}
	t.mode = uint32(info.Mode().Perm())
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		t.uid, t.gid = int(st.Uid), int(st.Gid)
	}
	return nil
}

// finish gives the written file its attributes: the owner and mode of the one that it
// replaces, and the metadata.
func (s *Service) finish(d draft, t *target) error {
	fd := int(t.file.Fd())
	if !t.inPlace {
		if t.uid >= 0 && os.Geteuid() == 0 {
			if err := unix.Fchown(fd, t.uid, t.gid); err != nil {
				return err
			}
		}
		if err := unix.Fchmod(fd, t.mode); err != nil {
			return err
		}
	} else if d.mode != nil {
		if err := s.book.As(d.place.Account, func() error { return unix.Fchmod(fd, t.mode) }); err != nil {
			return err
		}
	}
	for key, value := range d.metadata {
		err := unix.Fsetxattr(fd, metadataPrefix+key, []byte(value), 0)
		if errors.Is(err, syscall.ENOTSUP) {
			return cove.Errorf(cove.NotSupported, "", t.path, "the filesystem keeps no metadata", "leave it out")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// replace puts the written file in its place. It runs as the user.
func (t *target) replace(disk *disk.Disk) error {
	if t.inPlace {
		return nil
	}
	err := os.Rename(t.file.Name(), t.path)
	if errors.Is(err, syscall.EBUSY) { // the target is a mount, as /etc/hosts may be
		return t.copyOver(disk)
	}
	return err
}

// copyOver copies the written file over its target.
func (t *target) copyOver(disk *disk.Disk) error {
	from, err := os.Open(t.file.Name())
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(t.path, os.O_WRONLY|os.O_TRUNC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	_, err = disk.Copy(to, from)
	return errors.Join(err, to.Close(), os.Remove(from.Name()))
}

// follow resolves symlinks at the end of a path, also one that leads to nothing: writing
// goes through symlinks.
func follow(path string) (string, error) {
	for range 40 { // as many as the kernel follows
		text, err := os.Readlink(path)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.EINVAL) { // nothing there, or no symlink
			return path, nil
		}
		if err != nil {
			return "", err
		}
		if !filepath.IsAbs(text) {
			// Where the link's directory is reached through symlinks, ".." in its text
			// starts from the real one.
			dir, err := filepath.EvalSymlinks(filepath.Dir(path))
			if err != nil {
				return "", err
			}
			text = dir + "/" + text
		}
		path = text // as the kernel reads it: ".." after a symlink is not lexical
	}
	return "", syscall.ELOOP
}
