package client

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/covehq/cove"
)

// CopyOut copies a file or directory out of the sandbox, as cp -r does: into hostPath
// where that is a directory, else to that name, whose parents are made. A guestPath that
// ends in "/." means what the directory holds.
//
// What is inside is hostile. Nothing is written outside of the copy, also not through
// symlinks that are there; devices, pipes, and links that lead out of the copy are left
// out and listed in the error, after everything else was copied; owners and setuid bits
// are not kept. The size is not limited.
func (f *Files) CopyOut(ctx context.Context, guestPath, hostPath string) error {
	const op = "copy out"
	isDir, err := f.isDir(ctx, guestPath)
	if err != nil {
		return err
	}
	target := hostPath
	if info, err := os.Stat(hostPath); err == nil && info.IsDir() && !(isDir && endsInDot(guestPath)) {
		target = filepath.Join(hostPath, path.Base(path.Clean("/"+guestPath)))
	}
	archive, err := f.Archive(ctx, guestPath)
	if err != nil {
		return err
	}
	defer archive.Close()
	into, name := target, ""
	if !isDir {
		into, name = filepath.Split(filepath.Clean(target))
	}
	return unpack(op, archive, into, name)
}

// maxName is the longest path that is unpacked, Linux's PATH_MAX.
const maxName = 4096

// unpacker writes a tar below a directory of this machine.
type unpacker struct {
	op   string
	root *os.Root
	buf  []byte
	left leftOut
	// real holds the directories that were seen not to be symlinks. They stay so: nothing
	// that unpacker does replaces a directory.
	real map[string]bool
	// dirs are given their modes and times last, since a directory may be read-only.
	dirs []*tar.Header
}

// unpack extracts r below dir, which is made. With a name, r holds one file, which gets
// that name.
func unpack(op string, r io.Reader, dir, name string) error {
	if dir == "" {
		dir = "."
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return hostError(op, dir, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return hostError(op, dir, err)
	}
	defer root.Close()
	u := &unpacker{op: op, root: root, buf: make([]byte, 256<<10), real: map[string]bool{".": true}}
	archive := tar.NewReader(r)
	for {
		header, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return u.fail(dir, err)
		}
		if name != "" {
			header.Name = name
		}
		if err := u.entry(header, archive); err != nil {
			return err
		}
		if name != "" {
			break
		}
	}
	// To the end, where the stream says whether it is whole.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return u.fail(dir, err)
	}
	if err := u.finish(); err != nil {
		return err
	}
	return u.left.err(op, dir)
}

func (u *unpacker) fail(at string, err error) error {
	var ours *cove.Error
	if errors.As(err, &ours) {
		return err
	}
	if errors.Is(err, tar.ErrHeader) {
		return cove.Errorf(cove.Unavailable, u.op, at, "the sandbox sent an archive that is broken", "try again")
	}
	return hostError(u.op, at, err)
}

// entry writes one entry of the archive, or notes why not.
func (u *unpacker) entry(header *tar.Header, content io.Reader) error {
	name := path.Clean(header.Name)
	if name == "." || header.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if !filepath.IsLocal(name) || len(name) > maxName {
		u.left.add(printableName(header.Name), "is not a name inside of the copy")
		return nil
	}
	header.Name = name
	if header.Typeflag == tar.TypeDir {
		u.dirs = append(u.dirs, header)
		return u.makeDir(name)
	}
	if err := u.makeDir(path.Dir(name)); err != nil || !u.real[path.Dir(name)] {
		return err
	}
	switch header.Typeflag {
	case tar.TypeReg, tar.TypeLink, tar.TypeSymlink:
	default:
		u.left.add(name, "is neither file, directory nor symlink")
		return nil
	}
	if ok, err := u.clear(name); !ok || err != nil {
		return err
	}
	switch header.Typeflag {
	case tar.TypeSymlink:
		return u.symlink(header)
	case tar.TypeLink:
		return u.hardlink(header)
	}
	return u.file(header, content)
}

// makeDir makes a directory and its parents, none of which may be a symlink.
func (u *unpacker) makeDir(name string) error {
	if u.real[name] {
		return nil
	}
	parent := path.Dir(name)
	if err := u.makeDir(parent); err != nil || !u.real[parent] {
		return err
	}
	info, err := u.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := u.root.Mkdir(name, 0o755); err != nil {
			return u.fail(name, err)
		}
	case err != nil:
		return u.fail(name, err)
	case !info.IsDir():
		u.left.add(name, "should be a directory, but something else is there")
		return nil
	case info.Mode().Perm()&0o700 != 0o700:
		if err := u.root.Chmod(name, info.Mode().Perm()|0o700); err != nil {
			return u.fail(name, err)
		}
	}
	u.real[name] = true
	return nil
}

// clear removes what has the name, unless that is a directory.
func (u *unpacker) clear(name string) (bool, error) {
	info, err := u.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true, nil
	case err != nil:
		return false, u.fail(name, err)
	case info.IsDir():
		u.left.add(name, "can't replace the directory that is there")
		return false, nil
	}
	if err := u.root.Remove(name); err != nil {
		return false, u.fail(name, err)
	}
	return true, nil
}

func (u *unpacker) file(header *tar.Header, content io.Reader) error {
	mode := header.FileInfo().Mode().Perm()
	file, err := u.root.OpenFile(header.Name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return u.fail(header.Name, err)
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{file}, struct{ io.Reader }{content}, u.buf)
	if err == nil {
		err = file.Chmod(mode)
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return u.fail(header.Name, err)
	}
	return u.times(header)
}

// symlink makes a symlink that can't lead out. Its parents are real directories and its
// target goes up only at its beginning, so that what the target says is where it leads,
// however many symlinks of the same kind lie on the way.
func (u *unpacker) symlink(header *tar.Header) error {
	target := header.Linkname
	if path.IsAbs(target) || target != path.Clean(target) || !filepath.IsLocal(path.Join(path.Dir(header.Name), target)) {
		u.left.add(header.Name, "is a link that leads out, to "+printableName(target))
		return nil
	}
	if err := u.root.Symlink(target, header.Name); err != nil {
		return u.fail(header.Name, err)
	}
	return nil
}

func (u *unpacker) hardlink(header *tar.Header) error {
	target := path.Clean(header.Linkname)
	if !filepath.IsLocal(target) || !u.real[path.Dir(target)] {
		u.left.add(header.Name, "is a link that leads out, to "+printableName(target))
		return nil
	}
	info, err := u.root.Lstat(target)
	if err != nil {
		return u.fail(header.Name, err)
	}
	if !info.Mode().IsRegular() {
		u.left.add(header.Name, "is a link to something that is not a file")
		return nil
	}
	if err := u.root.Link(target, header.Name); err != nil {
		return u.fail(header.Name, err)
	}
	return nil
}

// finish gives directories their modes and times, a directory after those in it.
func (u *unpacker) finish() error {
	slices.SortStableFunc(u.dirs, func(a, b *tar.Header) int { return cmp.Compare(b.Name, a.Name) })
	for _, header := range u.dirs {
		if !u.real[header.Name] {
			continue
		}
		if err := u.times(header); err != nil {
			return err
		}
		if err := u.root.Chmod(header.Name, header.FileInfo().Mode().Perm()); err != nil {
			return u.fail(header.Name, err)
		}
	}
	return nil
}

func (u *unpacker) times(header *tar.Header) error {
	if err := u.root.Chtimes(header.Name, time.Time{}, header.ModTime); err != nil {
		return u.fail(header.Name, err)
	}
	return nil
}

func printableName(name string) string {
	const longest = 200
	if len(name) > longest {
		name = name[:longest] + "…"
	}
	return strings.Trim(strings.ToValidUTF8(name, "?"), "\x00")
}
