package client

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

	"github.com/covehq/cove"
)

// CopyIn copies a file or directory of this machine into the sandbox, as cp -r does:
// into guestPath where that is a directory, else to that name, whose parents are made. A
// hostPath that ends in "/." means what the directory holds. Modes, times and symlinks
// are kept; owner is the sandbox's user. What can't be copied (sockets, devices, pipes)
// is left out and listed in the error, after everything else was copied.
func (f *Files) CopyIn(ctx context.Context, hostPath, guestPath string) error {
	const op = "copy in"
	info, err := os.Stat(hostPath)
	if err != nil {
		return hostError(op, hostPath, err)
	}
	target, err := f.destination(ctx, info.IsDir(), hostPath, guestPath)
	if err != nil {
		return err
	}
	into, name := target, "."
	if !info.IsDir() {
		into, name = path.Split(target)
		if into == "" {
			into = "."
		}
	}
	pr, pw := io.Pipe()
	packed := make(chan error, 1)
	packing := &packer{op: op, tar: tar.NewWriter(pw), buf: make([]byte, 256<<10)}
	go func() {
		err := packing.pack(ctx, hostPath, name, info)
		pw.CloseWithError(err)
		packed <- err
	}()
	err = f.Extract(ctx, into, pr)
	pr.Close()
	if packErr := <-packed; packErr != nil && !errors.Is(packErr, io.ErrClosedPipe) {
		return packErr // the cause of whatever Extract says
	}
	if err != nil {
		return err
	}
	return packing.left.err(op, hostPath)
}

// destination returns the name inside that a copy of hostPath gets.
func (f *Files) destination(ctx context.Context, isDir bool, hostPath, guestPath string) (string, error) {
	if isDir && endsInDot(filepath.ToSlash(hostPath)) {
		return guestPath, nil
	}
	base := filepath.Base(hostPath)
	if absolute, err := filepath.Abs(hostPath); err == nil {
		base = filepath.Base(absolute)
	}
	there, err := f.isDir(ctx, guestPath)
	if err != nil {
		return "", err
	}
	if there || (!isDir && strings.HasSuffix(guestPath, "/")) {
		return path.Join(guestPath, base), nil
	}
	return strings.TrimRight(guestPath, "/"), nil
}

// isDir reports whether a path leads to a directory, through a symlink or not.
func (f *Files) isDir(ctx context.Context, guestPath string) (bool, error) {
	info, err := f.Stat(ctx, strings.TrimRight(guestPath, "/")+"/.")
	switch code := cove.CodeOf(err); {
	case err == nil:
		return info.Type == cove.TypeDirectory, nil
	case code == cove.NotFound, code == cove.Invalid, code == cove.Conflict:
		// Nothing is there, or something that is not a directory; whatever stands in the
		// way is found by the copy itself.
		return false, nil
	}
	return false, err
}

func endsInDot(p string) bool { return p == "." || strings.HasSuffix(p, "/.") }

// packer writes a tree as a tar.
type packer struct {
	op   string
	tar  *tar.Writer
	buf  []byte
	left leftOut
}

// pack writes the file or directory at root. A file is named name; what a directory holds
// is named relative to it.
func (p *packer) pack(ctx context.Context, root, name string, info fs.FileInfo) error {
	if !info.IsDir() {
		if err := p.add(root, name, info); err != nil {
			return err
		}
		return p.close()
	}
	// Through "/." also a symlink to a directory is walked.
	err := filepath.WalkDir(root+string(filepath.Separator)+".", func(at string, entry fs.DirEntry, err error) error {
		if err != nil {
			return hostError(p.op, at, err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		relative, err := filepath.Rel(root, at)
		if err != nil {
			return hostError(p.op, at, err)
		}
		info, err := entry.Info()
		if err != nil {
			return hostError(p.op, at, err)
		}
		return p.add(at, filepath.ToSlash(relative), info)
	})
	if err != nil {
		return err
	}
	return p.close()
}

func (p *packer) close() error {
	if err := p.tar.Close(); err != nil {
		return hostError(p.op, "", err)
	}
	return nil
}

// add writes one file.
func (p *packer) add(at, name string, info fs.FileInfo) error {
	link := ""
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		var err error
		if link, err = os.Readlink(at); err != nil {
			return hostError(p.op, at, err)
		}
	case !info.Mode().IsRegular() && !info.IsDir():
		p.left.add(name, "is neither file, directory nor symlink")
		return nil
	}
	header, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return hostError(p.op, at, err)
	}
	header.Name = name
	if info.IsDir() {
		header.Name += "/"
	}
	// Who owns it here means nothing inside.
	header.Uid, header.Gid, header.Uname, header.Gname = 0, 0, "", ""
	if err := p.tar.WriteHeader(header); err != nil {
		return hostError(p.op, at, err)
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	file, err := os.Open(at)
	if err != nil {
		return hostError(p.op, at, err)
	}
	defer file.Close()
	// A file that grows while it is read is copied as it was when its size was taken.
	n, err := io.CopyBuffer(struct{ io.Writer }{p.tar}, io.LimitReader(file, header.Size), p.buf)
	if err == nil && n < header.Size {
		err = errors.New("the file became shorter while it was read")
	}
	if err != nil {
		return hostError(p.op, at, err)
	}
	return nil
}

// leftOut lists what a copy could not carry.
type leftOut []string

func (l *leftOut) add(name, why string) { *l = append(*l, fmt.Sprintf("%q %s", name, why)) }

func (l leftOut) err(op, id string) error {
	if len(l) == 0 {
		return nil
	}
	const shown = 10
	text := strings.Join(l[:min(len(l), shown)], "; ")
	if len(l) > shown {
		text += fmt.Sprintf("; and %d more", len(l)-shown)
	}
	return cove.Errorf(cove.NotSupported, op, id, "left out: "+text, "everything else was copied")
}

// hostError is an error of a file on this machine.
func hostError(op, at string, err error) error {
	code := cove.CodeOf(err)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		code = cove.NotFound
	case errors.Is(err, fs.ErrPermission):
		code = cove.Forbidden
	case errors.Is(err, fs.ErrExist):
		code = cove.Conflict
	}
	var atPath *fs.PathError
	if errors.As(err, &atPath) {
		err = atPath.Err
	}
	return &cove.Error{Code: code, Op: op, ID: at, Err: err, Hint: "check the path on this machine"}
}
