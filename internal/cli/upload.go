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

	"github.com/covehq/cove"
)

// upload copies into the sandbox and returns the path that it wrote there.
func (t transfer) upload(ctx context.Context, from, to place, workdir string) (string, error) {
	if from.stream() {
		return t.uploadStream(ctx, to, workdir)
	}
	info, err := os.Stat(from.path)
	if err != nil {
		return "", &cove.Error{Code: cove.Invalid, Op: "copy", Err: err, Hint: "name a file or directory of this machine"}
	}
	if from.dir && !info.IsDir() {
		return "", problem("copy", from.path, "it is not a directory", "leave the final / out")
	}
	at := to.in(workdir)
	kind, err := t.kindInside(ctx, at)
	if err != nil {
		return "", err
	}
	absolute, err := filepath.Abs(from.path)
	if err != nil {
		return "", err
	}
	if at, err = target(at, kind, info.IsDir(), from, to, filepath.Base(absolute)); err != nil {
		return "", err
	}
	if info.IsDir() {
		return at, t.uploadDirectory(ctx, from.path, at)
	}
	return at, t.uploadFile(ctx, from.path, at, info)
}

func (t transfer) uploadStream(ctx context.Context, to place, workdir string) (string, error) {
	at := to.in(workdir)
	kind, err := t.kindInside(ctx, at)
	if err != nil {
		return "", err
	}
	if to.dir || kind == cove.TypeDirectory {
		return "", problem("copy", at, "standard input has no name to be copied into a directory", "name the file that it becomes")
	}
	_, err = t.files.WriteFile(ctx, at, io.TeeReader(t.Stdin, t.progress), 0)
	return at, err
}

// uploadFile sends a regular file as an archive of one, which keeps its time; anything
// else that can be read, a pipe or a device, as a stream.
func (t transfer) uploadFile(ctx context.Context, name, at string, info fs.FileInfo) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	if !info.Mode().IsRegular() {
		_, err = t.files.WriteFile(ctx, at, io.TeeReader(file, t.progress), 0)
		return err
	}
	return t.extract(ctx, path.Dir(at), func(archive *tar.Writer) error {
		return addFile(archive, file, info, path.Base(at))
	})
}

func (t transfer) uploadDirectory(ctx context.Context, dir, at string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return t.extract(ctx, at, func(archive *tar.Writer) error {
		return fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return t.addEntry(archive, root, name)
		})
	})
}

// extract unpacks in the sandbox what add writes.
func (t transfer) extract(ctx context.Context, dir string, add func(*tar.Writer) error) error {
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		archive := tar.NewWriter(io.MultiWriter(w, t.progress))
		err := add(archive)
		if err == nil {
			err = archive.Close()
		}
		// An archive that breaks off is an error to who unpacks it, too.
		w.CloseWithError(err)
		written <- err
	}()
	err := t.files.Extract(ctx, dir, r)
	r.CloseWithError(errAborted)
	// Where reading here was what failed, that is the reason, and not the archive that
	// ended early because of it.
	if cause := <-written; cause != nil && !errors.Is(cause, errAborted) {
		return cause
	}
	return err
}

// errAborted ends an archive that the sandbox does not want any more.
var errAborted = errors.New("the sandbox stopped reading the archive")

// addEntry adds what is called name below root. Only files that are read while they are
// being shortened or lengthened fail.
func (t transfer) addEntry(archive *tar.Writer, root *os.Root, name string) error {
	info, err := root.Lstat(name)
	if err != nil {
		return err
	}
	switch mode := info.Mode(); {
	case mode.IsDir():
		return archive.WriteHeader(&tar.Header{
			Typeflag: tar.TypeDir, Name: name + "/", Mode: int64(mode.Perm()), ModTime: info.ModTime(),
		})
	case mode&fs.ModeSymlink != 0:
		link, err := root.Readlink(name)
		if err != nil {
			return err
		}
		return archive.WriteHeader(&tar.Header{
			Typeflag: tar.TypeSymlink, Name: name, Linkname: link, Mode: 0o777, ModTime: info.ModTime(),
		})
	case mode.IsRegular():
		file, err := root.Open(name)
		if err != nil {
			return err
		}
		defer file.Close()
		return addFile(archive, file, info, name)
	}
	fmt.Fprintf(t.Stderr, "cove: left out %s: neither a file, a directory nor a symbolic link\n", quote(clean(name, "")))
	return nil
}

func addFile(archive *tar.Writer, file fs.File, info fs.FileInfo, name string) error {
	header := &tar.Header{
		Typeflag: tar.TypeReg, Name: name, Size: info.Size(), Mode: int64(info.Mode().Perm()), ModTime: info.ModTime(),
	}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err := io.CopyBuffer(struct{ io.Writer }{archive}, io.LimitReader(file, info.Size()), make([]byte, 256<<10))
	return err
}
