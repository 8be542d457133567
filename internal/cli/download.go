package cli

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
	"time"

	"github.com/covehq/cove"
)

// download copies the path inside to a place of this machine.
func (t transfer) download(ctx context.Context, inside string, from, to place) error {
	if to.stream() {
		return t.downloadStream(ctx, inside)
	}
	kind, err := t.kindInside(ctx, inside)
	if err != nil {
		return err
	}
	directory := kind == cove.TypeDirectory
	switch {
	case kind == "":
		return cove.Errorf(cove.NotFound, "copy", inside, "there is nothing of that name in the sandbox", "look around with cove exec ID -- ls -la")
	case from.dir && !directory:
		return problem("copy", inside, "it is not a directory", "leave the final / out")
	}
	there, err := kindHere(to.path)
	if err != nil {
		return err
	}
	name := path.Base(inside)
	if name == "/" {
		name = "root"
	}
	at, err := target(to.path, there, directory, from, to, name)
	if err != nil {
		return err
	}
	if real, err := filepath.EvalSymlinks(at); err == nil {
		at = real // what a link of the caller's leads to is replaced, and not the link
	}
	if there == cove.TypeOther {
		// A device or pipe takes the bytes, and nothing else.
		return t.downloadInto(ctx, inside, at)
	}
	archive, err := t.files.Archive(ctx, inside)
	if err != nil {
		return err
	}
	defer archive.Close()
	return t.unpack(archive, directory, at)
}

func (t transfer) downloadStream(ctx context.Context, inside string) error {
	file, err := t.files.OpenFile(ctx, inside)
	if err != nil {
		return err
	}
	defer file.Close()
	return t.drain(t.Stdout, file)
}

func (t transfer) downloadInto(ctx context.Context, inside, at string) error {
	file, err := os.OpenFile(at, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	content, err := t.files.OpenFile(ctx, inside)
	if err != nil {
		return err
	}
	defer content.Close()
	return t.drain(file, content)
}

// drain copies up to the limit. More than that is an error.
func (t transfer) drain(to io.Writer, from io.Reader) error {
	n, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(to, t.progress)}, io.LimitReader(from, t.most), make([]byte, 256<<10))
	if err == nil && n == t.most {
		if extra, _ := from.Read(make([]byte, 1)); extra > 0 {
			return t.tooMuch()
		}
	}
	return err
}

func (t transfer) tooMuch() error {
	return cove.Errorf(cove.TooLarge, "copy", "", "the sandbox sends more than "+cove.Bytes(t.most).String(), "allow more with --max-size")
}

// kindHere is what a path of this machine leads to, "" where there is nothing.
func kindHere(name string) (cove.FileType, error) {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	case info.IsDir():
		return cove.TypeDirectory, nil
	case info.Mode().IsRegular():
		return cove.TypeFile, nil
	}
	return cove.TypeOther, nil
}

// unpack writes an archive whose names begin with one element, the name of what it was
// made of; that becomes at. Nothing in it is trusted: no name, link or type leads out
// of the directory that it is unpacked in.
func (t transfer) unpack(stream io.Reader, directory bool, at string) error {
	below := at
	if !directory {
		below = filepath.Dir(at)
	}
	if err := os.MkdirAll(below, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(below)
	if err != nil {
		return err
	}
	defer root.Close()
	u := unpacker{transfer: t, root: root, left: t.most}
	archive := tar.NewReader(stream)
	for {
		header, err := archive.Next()
		if err == io.EOF {
			return u.settle()
		}
		if err != nil {
			return err
		}
		_, name, _ := strings.Cut(path.Clean(header.Name), "/")
		switch {
		case !directory && name == "" && header.Typeflag == tar.TypeReg:
			name = filepath.Base(at)
		case !directory:
			return problem("copy", "", "the sandbox sent a directory where it had a file", "copy it again")
		case name == "":
			name = "."
		}
		if err := u.add(archive, header, filepath.FromSlash(name)); err != nil {
			return err
		}
	}
}

// unpacker writes the entries of one archive below root.
type unpacker struct {
	transfer
	root *os.Root
	left int64
	dirs []directory // whose permissions and times are set at the end
}

type directory struct {
	name     string
	perm     fs.FileMode
	modified time.Time
}

// entryCost is what an entry counts for beyond its content: names and directories take
// room as well, here and on the disk.
const entryCost = 4 << 10

func (u *unpacker) add(content io.Reader, header *tar.Header, name string) error {
	if parent := filepath.Dir(name); parent != "." {
		if err := u.root.MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	perm := header.FileInfo().Mode().Perm()
	if u.left -= entryCost + int64(len(name)) + header.Size; u.left < 0 {
		return u.tooMuch()
	}
	switch header.Typeflag {
	case tar.TypeDir:
		if err := u.root.MkdirAll(name, 0o755); err != nil {
			return err
		}
		u.dirs = append(u.dirs, directory{name, perm, header.ModTime})
		return nil
	case tar.TypeReg:
		return u.addFile(content, header, name, perm)
	case tar.TypeSymlink:
		if err := u.clear(name); err != nil {
			return err
		}
		return u.root.Symlink(header.Linkname, name)
	case tar.TypeLink:
		_, target, _ := strings.Cut(path.Clean(header.Linkname), "/")
		if err := u.clear(name); err != nil {
			return err
		}
		return u.root.Link(filepath.FromSlash(target), name)
	}
	fmt.Fprintf(u.Stderr, "cove: left out %s: neither a file, a directory nor a link\n", quote(clean(name, "")))
	return nil
}

// clear removes what an entry replaces, so that nothing is written through a link.
func (u *unpacker) clear(name string) error {
	info, err := u.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		return problem("copy", name, "a directory is in the way", "move it away")
	}
	return u.root.Remove(name)
}

func (u *unpacker) addFile(content io.Reader, header *tar.Header, name string, perm fs.FileMode) error {
	if err := u.clear(name); err != nil {
		return err
	}
	file, err := u.root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(file, u.progress)}, content, make([]byte, 256<<10))
	err = errors.Join(err, file.Chmod(perm), file.Close())
	if err != nil {
		return err
	}
	return u.root.Chtimes(name, header.ModTime, header.ModTime)
}

// settle gives directories their permissions and times, the deepest first: before that
// they had to be written to.
func (u *unpacker) settle() error {
	for i := len(u.dirs) - 1; i >= 0; i-- {
		dir := u.dirs[i]
		// A directory that its owner could not enter could not be removed either.
		const owner = 0o700
		if err := u.root.Chmod(dir.name, dir.perm|owner); err != nil {
			return err
		}
		if err := u.root.Chtimes(dir.name, dir.modified, dir.modified); err != nil {
			return err
		}
	}
	return nil
}
