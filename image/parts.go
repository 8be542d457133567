package image

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

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
)

// parts are the files that an image on this machine is made of: those of a directory or of
// an archive.
type parts interface {
	// open opens a file; the error is fs.ErrNotExist where there is none.
	open(name string) (part, error)
	io.Closer
}

// part is an open file.
type part interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// readPart reads a file of up to most bytes.
func readPart(from parts, name string, most int64) ([]byte, error) {
	file, err := from.open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readAll(io.NewSectionReader(file, 0, file.Size()), most, name)
}

// directory are the files below a directory, which no symlink in it leaves.
type directory struct{ root *os.Root }

func openDirectory(path string) (*directory, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, pathError(err)
	}
	return &directory{root}, nil
}

func (d *directory) open(name string) (part, error) {
	file, err := d.root.OpenFile(filepath.FromSlash(name), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return regular(file)
}

// Close closes the directory.
func (d *directory) Close() error { return d.root.Close() }

// regular is an open file that is one.
func regular(file *os.File) (part, error) {
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = cove.Errorf(cove.Invalid, "", "", "not a regular file", "use "+References)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return wholeFile{file, info.Size()}, nil
}

type wholeFile struct {
	*os.File
	size int64
}

// Size returns the size that the file had when it was opened.
func (f wholeFile) Size() int64 { return f.size }

// pathError is the error of a path that a caller gave.
func pathError(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return cove.Errorf(cove.NotFound, "", "", "no such file or directory", "the path is one of the daemon's machine")
	case errors.Is(err, fs.ErrPermission):
		return cove.Errorf(cove.Forbidden, "", "", "the daemon may not read it", "choose a path that the daemon's user may read")
	}
	return &cove.Error{Code: cove.Invalid, Err: err, Hint: "use " + References}
}

// tarball are the files in a tar, found by one pass over it. Their content stays in it.
type tarball struct {
	file  *os.File
	at    map[string]section
	links map[string]string
}

type section struct{ offset, size int64 }

// maxTarballEntries bounds the entries of an archive of images: five for each layer.
const maxTarballEntries = 100_000

// indexTar finds the files in a tar, which it takes over, also on error.
func indexTar(ctx context.Context, file *os.File) (*tarball, error) {
	t := &tarball{file: file, at: map[string]section{}, links: map[string]string{}}
	if err := t.index(ctx); err != nil {
		file.Close()
		return nil, err
	}
	return t, nil
}

func (t *tarball) index(ctx context.Context) error {
	if _, err := t.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	// A tar.Reader reads headers alone of what can seek, and nothing ahead of them.
	archive := tar.NewReader(t.file)
	for entries := 0; ; entries++ {
		header, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return invalid("not a tar archive: %v", err)
		}
		if entries >= maxTarballEntries {
			return cove.Errorf(cove.TooLarge, "", "", fmt.Sprintf("the archive has more than %d entries", maxTarballEntries), "use an archive of one image")
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		name := path.Clean("/" + header.Name)[1:]
		switch header.Typeflag {
		case tar.TypeReg:
			offset, err := t.file.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			t.at[name] = section{offset, header.Size}
			delete(t.links, name)
		case tar.TypeSymlink: // docker save has written them for layers that it has twice
			t.links[name] = path.Join("/", path.Dir(name), header.Linkname)[1:]
		case tar.TypeLink:
			t.links[name] = path.Clean("/" + header.Linkname)[1:]
		}
	}
}

func (t *tarball) open(name string) (part, error) {
	name = path.Clean("/" + name)[1:]
	if target, ok := t.links[name]; ok {
		name = target
	}
	found, ok := t.at[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return inTarball{io.NewSectionReader(t.file, found.offset, found.size)}, nil
}

// Close closes the archive.
func (t *tarball) Close() error { return t.file.Close() }

// inTarball is a file in a tarball, whose own descriptor it uses.
type inTarball struct{ *io.SectionReader }

// Close does nothing.
func (inTarball) Close() error { return nil }

// openArchive opens an archive of images, decompressed into a file without a name where it
// is compressed.
func (s *Store) openArchive(ctx context.Context, path string) (*tarball, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, pathError(err)
	}
	if _, err := regular(file); err != nil {
		return nil, err
	}
	plain, err := s.plain(ctx, file)
	if err != nil {
		return nil, err
	}
	return indexTar(ctx, plain)
}

// plain returns a file, which it takes over, in decompressed form.
func (s *Store) plain(ctx context.Context, file *os.File) (*os.File, error) {
	start := make([]byte, 6)
	n, err := file.ReadAt(start, 0)
	if err != nil && err != io.EOF {
		file.Close()
		return nil, err
	}
	if isTarStart(start[:n]) {
		return file, nil
	}
	defer file.Close()
	stream, err := decompress(contextReader{ctx, io.NewSectionReader(file, 0, 1<<62)})
	if err != nil {
		return nil, streamError(err)
	}
	defer stream.Close()
	return s.spool(stream, int64(s.options.Limits.Bytes))
}

// isTarStart reports whether the first bytes are none of a compression that we know.
func isTarStart(start []byte) bool {
	for _, magic := range []string{"\x1f\x8b", "BZh", "\x28\xb5\x2f\xfd", "\xfd7zXZ\x00"} {
		if strings.HasPrefix(string(start), magic) {
			return false
		}
	}
	return true
}

// spool copies a stream of up to most bytes into a file without a name, which is gone when
// it is closed, and with the process.
func (s *Store) spool(r io.Reader, most int64) (*os.File, error) {
	fd, err := unix.Open(s.dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, diskError(&os.PathError{Op: "open", Path: s.dir, Err: err})
	}
	file := os.NewFile(uintptr(fd), "archive")
	n, err := io.CopyBuffer(struct{ io.Writer }{file}, struct{ io.Reader }{io.LimitReader(r, most+1)}, make([]byte, 256<<10))
	if err == nil && n > most {
		err = cove.Errorf(cove.TooLarge, "", "", fmt.Sprintf("the archive has more than %v", cove.Bytes(most)), "use a smaller image")
	}
	if err != nil {
		file.Close()
		return nil, diskError(err)
	}
	return file, nil
}
