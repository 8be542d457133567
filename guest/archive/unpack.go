package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
)

// Unpack reads a tar from r into the directory at dir, which it makes where it is missing.
// Everything belongs to the user of access. No name leads out of dir or through a symlink.
// Existing files are replaced, directories stay. Pipes and devices are left out, and are
// an error after all else is unpacked; any other error ends the unpacking where it is.
func Unpack(ctx context.Context, r io.Reader, dir string, access Access) error {
	u := &unpacker{ctx: ctx, access: access, safe: map[string]struct{}{".": {}}}
	err := access.As(func() (err error) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		u.root, err = os.OpenRoot(dir)
		return err
	})
	if err != nil {
		return err
	}
	defer u.root.Close()
	archive := tar.NewReader(r)
	for count := 0; ; count++ {
		header, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return damaged(err)
		}
		if count == maxEntries {
			return cove.Errorf(cove.TooLarge, "", dir, fmt.Sprintf("the archive has more than %d entries", maxEntries), "split it")
		}
		if err := u.entry(header, archive); err != nil {
			return err
		}
	}
	if err := access.As(u.finish); err != nil {
		return err
	}
	if u.skipped != "" {
		return cove.Errorf(cove.Invalid, "", dir, fmt.Sprintf("the archive has %q, which is a device or a pipe; all else is unpacked", u.skipped), "leave such files out")
	}
	return nil
}

// unpacker reads one archive.
type unpacker struct {
	ctx     context.Context
	access  Access
	root    *os.Root
	safe    map[string]struct{} // directories in which no symlink was on the way
	dirs    []directory         // whose modes are set at the end
	skipped string
}

// directory is a directory with the attributes that the archive gives it.
type directory struct {
	name     string
	mode     fs.FileMode
	modified time.Time
}

// entry unpacks one entry.
func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	name, err := local(h.Name)
	if err != nil || name == "." {
		return err
	}
	mode := fs.FileMode(h.Mode) & fs.ModePerm // set-user-id and its like are dropped
	switch h.Typeflag {
	case tar.TypeReg:
		return u.file(name, mode, h.ModTime, content)
	case tar.TypeDir:
		return u.access.As(func() error {
			u.dirs = append(u.dirs, directory{name, mode, h.ModTime})
			return u.parents(name)
		})
	case tar.TypeSymlink:
		return u.access.As(func() error {
			return u.place(name, func() error { return u.root.Symlink(h.Linkname, name) })
		})
	case tar.TypeLink:
		old, err := local(h.Linkname)
		if err != nil {
			return err
		}
		return u.access.As(func() error {
			if err := u.parents(path.Dir(old)); err != nil {
				return err
			}
			if old == name {
				return nil
			}
			return u.place(name, func() error { return u.root.Link(old, name) })
		})
	case tar.TypeXGlobalHeader:
		return nil
	}
	if u.skipped == "" {
		u.skipped = name
	}
	return nil
}

// local makes a name of the archive one below the root, or refuses it.
func local(name string) (string, error) {
	cleaned := path.Clean(name)
	if name == "" || strings.ContainsRune(name, 0) || path.IsAbs(name) || !filepath.IsLocal(cleaned) || hasParent(name) {
		return "", invalid(fmt.Sprintf("the archive has the name %q, which is not below its root", name))
	}
	return cleaned, nil
}

func hasParent(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}

// file unpacks a regular file.
func (u *unpacker) file(name string, mode fs.FileMode, modified time.Time, content io.Reader) error {
	var file *os.File
	err := u.access.As(func() error {
		return u.place(name, func() (err error) {
			file, err = u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
			return err
		})
	})
	if err != nil {
		return err
	}
	source := &source{Reader: content, ctx: u.ctx}
	_, err = u.access.Disk.Copy(u.access.Disk.Writer(file), source)
	if source.err != nil {
		err = damaged(source.err)
	}
	if err == nil {
		err = u.access.As(func() error {
			err := unix.Fchmod(int(file.Fd()), uint32(mode))
			if !modified.IsZero() {
				err = errors.Join(err, touch(file, modified))
			}
			return err
		})
	}
	return errors.Join(err, file.Close())
}

// touch sets an opened file's modification time.
func touch(file *os.File, modified time.Time) error {
	at := unix.NsecToTimeval(modified.UnixNano())
	return unix.Futimes(int(file.Fd()), []unix.Timeval{at, at})
}

// source keeps the archive's errors apart from the disk's.
type source struct {
	io.Reader
	ctx context.Context // a hole in a sparse file is long without anything being received
	err error
}

// Read reads the next piece.
func (s *source) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		s.err = err
		return 0, err
	}
	n, err := s.Reader.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// place makes a new file by create, in the place of an old one.
func (u *unpacker) place(name string, create func() error) error {
	if err := u.parents(path.Dir(name)); err != nil {
		return err
	}
	err := create()
	if !errors.Is(err, os.ErrExist) {
		return err
	}
	delete(u.safe, name)
	if err := u.root.Remove(name); err != nil {
		return err // a directory with something in it
	}
	return create()
}

// parents makes a directory and those above it, and refuses symlinks among them.
func (u *unpacker) parents(dir string) error {
	if _, ok := u.safe[dir]; ok {
		return nil
	}
	if err := u.parents(path.Dir(dir)); err != nil {
		return err
	}
	info, err := u.root.Lstat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		err = u.root.Mkdir(dir, 0o755)
	case err == nil && info.Mode()&os.ModeSymlink != 0:
		err = invalid(fmt.Sprintf("the archive leads through the symlink %q", dir))
	case err == nil && !info.IsDir():
		err = fmt.Errorf("%s: %w", dir, syscall.ENOTDIR)
	}
	if err == nil {
		u.safe[dir] = struct{}{}
	}
	return err
}

// finish sets the attributes of directories, the deepest first: a mode may forbid to enter
// it, and what is made in a directory changes its time.
func (u *unpacker) finish() error {
	for i := len(u.dirs) - 1; i >= 0; i-- {
		d := u.dirs[i]
		dir, err := u.root.OpenFile(d.name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) {
			continue // a later entry took its place
		}
		if err != nil {
			return err
		}
		err = unix.Fchmod(int(dir.Fd()), uint32(d.mode))
		if !d.modified.IsZero() {
			err = errors.Join(err, touch(dir, d.modified))
		}
		if err := errors.Join(err, dir.Close()); err != nil {
			return err
		}
	}
	return nil
}

// damaged is the error for an archive that can't be read.
func damaged(err error) error {
	return &cove.Error{Code: cove.Invalid, Err: fmt.Errorf("the archive is damaged or cut off: %w", err), Hint: "make it anew and send it whole"}
}
