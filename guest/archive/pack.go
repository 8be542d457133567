package archive

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Pack writes a tar of the file at path, or of what is in the directory at path with names
// relative to it. Pipes, sockets and devices are left out. begin is called once, when it
// is known that there is something to pack and before anything is written.
func Pack(ctx context.Context, w io.Writer, path string, access Access, begin func()) error {
	p := &packer{ctx: ctx, tar: tar.NewWriter(w), access: access}
	var file *os.File
	var info os.FileInfo
	err := access.As(func() (err error) {
		file, err = os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		return err
	})
	if err != nil {
		return err
	}
	defer file.Close()
	if info, err = file.Stat(); err != nil {
		return err
	}
	switch {
	case info.IsDir():
		names, err := p.names(path)
		if err != nil {
			return err
		}
		begin()
		err = p.all(path, "", names)
		if err != nil {
			return err
		}
	case info.Mode().IsRegular():
		begin()
		if err := p.content(file, info, filepath.Base(path)); err != nil {
			return err
		}
	default:
		return invalid("there is neither a file nor a directory to pack")
	}
	return p.tar.Close()
}

// packer writes one archive.
type packer struct {
	ctx    context.Context
	tar    *tar.Writer
	access Access
}

// all packs what is in a directory. name is the directory's, relative to the root.
func (p *packer) all(dir, name string, names []string) error {
	for _, child := range names {
		if err := p.ctx.Err(); err != nil {
			return err
		}
		path := filepath.Join(dir, child)
		err := p.one(path, filepath.Join(name, child))
		if errors.Is(err, os.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// one packs what is at path. Nothing has been written when it returns os.ErrNotExist.
func (p *packer) one(path, name string) error {
	var info os.FileInfo
	var link string
	var file *os.File
	err := p.access.As(func() (err error) {
		if info, err = os.Lstat(path); err != nil {
			return err
		}
		switch {
		case info.Mode()&os.ModeSymlink != 0:
			link, err = os.Readlink(path)
		case info.Mode().IsRegular():
			file, err = os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		}
		return err
	})
	if err != nil {
		return err
	}
	switch {
	case info.IsDir():
		names, err := p.names(path)
		if err != nil {
			return err
		}
		if err := p.header(info, tar.TypeDir, name+"/", "", 0); err != nil {
			return err
		}
		return p.all(path, name, names)
	case link != "":
		return p.header(info, tar.TypeSymlink, name, link, 0)
	case file != nil:
		defer file.Close()
		opened, err := file.Stat()
		if err != nil || !opened.Mode().IsRegular() { // another took its place
			return err
		}
		return p.content(file, opened, name)
	}
	return nil
}

// names returns the names in a directory, sorted.
func (p *packer) names(dir string) (names []string, err error) {
	err = p.access.As(func() error {
		opened, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer opened.Close()
		for {
			some, err := opened.Readdirnames(1024)
			names = append(names, some...)
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			if len(names) > maxEntries {
				return invalid("the directory " + dir + " has too many entries to pack")
			}
		}
	})
	slices.Sort(names)
	return names, err
}

// content packs an opened file with the size that it has now: a file that grows is cut
// there, one that shrinks is filled up with zeros, as other tar programs do.
func (p *packer) content(file *os.File, info os.FileInfo, name string) error {
	size := info.Size()
	if err := p.header(info, tar.TypeReg, name, "", size); err != nil {
		return err
	}
	written, err := p.access.Disk.Copy(p.tar, io.LimitReader(p.access.Disk.Reader(file), size))
	if err != nil {
		return err
	}
	_, err = io.CopyN(p.tar, zeros{}, size-written)
	return err
}

// zeros is an endless reader of zeros.
type zeros struct{}

// Read fills p.
func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// header writes an entry's header. It has the numbers of the owner and no names: they mean
// something else where the archive is unpacked.
func (p *packer) header(info os.FileInfo, kind byte, name, link string, size int64) error {
	if strings.ContainsRune(link, 0) {
		return nil
	}
	h := &tar.Header{
		Typeflag: kind, Name: name, Linkname: link, Size: size,
		Mode: int64(info.Mode().Perm()), ModTime: info.ModTime(),
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		h.Uid, h.Gid = int(st.Uid), int(st.Gid)
	}
	return p.tar.WriteHeader(h)
}
