package client

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"time"

	"github.com/covehq/cove"
)

// maxLinks is how many symlinks in a row are followed, as many as Linux does.
const maxLinks = 40

// FS returns the sandbox's files as a file system whose root is "/" inside; fs.Sub goes
// below. It reads, follows symlinks, and implements fs.StatFS, fs.ReadDirFS,
// fs.ReadFileFS and fs.ReadLinkFS. Everything ends when ctx does.
func (f *Files) FS(ctx context.Context) fs.FS { return &fileSystem{ctx: ctx, files: f} }

// FS is short for Files().FS.
func (s *Sandbox) FS(ctx context.Context) fs.FS { return s.Files().FS(ctx) }

type fileSystem struct {
	ctx   context.Context
	files *Files
}

// Open opens a file or directory. The content is asked for at the first Read.
func (f *fileSystem) Open(name string) (fs.File, error) {
	info, at, err := f.follow("open", name)
	if err != nil {
		return nil, err
	}
	file := &file{fs: f, name: name, at: at, info: info}
	if info.IsDir() {
		return &dir{file: file}, nil
	}
	return file, nil
}

// Stat describes what a name leads to.
func (f *fileSystem) Stat(name string) (fs.FileInfo, error) {
	info, _, err := f.follow("stat", name)
	return info, err
}

// Lstat describes a name, which may be a symlink.
func (f *fileSystem) Lstat(name string) (fs.FileInfo, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "lstat", Path: name, Err: fs.ErrInvalid}
	}
	info, err := f.files.Stat(f.ctx, "/"+name)
	if err != nil {
		return nil, pathError("lstat", name, err)
	}
	return fileInfo{info, path.Base(name)}, nil
}

// ReadLink returns where a symlink points.
func (f *fileSystem) ReadLink(name string) (string, error) {
	info, err := f.Lstat(name)
	if err != nil {
		return "", err
	}
	if info.Mode()&fs.ModeSymlink == 0 {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	return info.(fileInfo).info.Target, nil
}

// ReadFile returns the content of a file.
func (f *fileSystem) ReadFile(name string) ([]byte, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	data, err := f.files.ReadFile(f.ctx, "/"+name)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return data, nil
}

// ReadDir returns what a directory holds, sorted by name.
func (f *fileSystem) ReadDir(name string) ([]fs.DirEntry, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrInvalid}
	}
	entries, err := f.files.List(f.ctx, "/"+name, 1)
	if err != nil {
		return nil, pathError("readdir", name, err)
	}
	list := make([]fs.DirEntry, 0, len(entries))
	for _, entry := range entries {
		list = append(list, fs.FileInfoToDirEntry(fileInfo{entry, entry.Name}))
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	return list, nil
}

// follow describes what a name leads to, and where that is inside.
func (f *fileSystem) follow(op, name string) (info fileInfo, at string, err error) {
	if !fs.ValidPath(name) {
		return fileInfo{}, "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	at = path.Join("/", name)
	for range maxLinks {
		found, err := f.files.Stat(f.ctx, at)
		if err != nil {
			return fileInfo{}, "", pathError(op, name, err)
		}
		if found.Type != cove.TypeSymlink {
			return fileInfo{found, path.Base(name)}, at, nil
		}
		if path.IsAbs(found.Target) {
			at = path.Clean(found.Target)
		} else {
			at = path.Join(path.Dir(at), found.Target)
		}
	}
	return fileInfo{}, "", &fs.PathError{Op: op, Path: name, Err: errors.New("too many levels of symbolic links")}
}

// pathError gives err the form that users of io/fs test for.
func pathError(op, name string, err error) error {
	switch {
	case errors.Is(err, cove.NotFound):
		err = fs.ErrNotExist
	case errors.Is(err, cove.Forbidden):
		err = fs.ErrPermission
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// fileInfo is a cove.FileInfo as an fs.FileInfo. Sys returns the former.
type fileInfo struct {
	info cove.FileInfo
	name string
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return i.info.Size }
func (i fileInfo) ModTime() time.Time { return i.info.ModifiedAt }
func (i fileInfo) IsDir() bool        { return i.Mode().IsDir() }
func (i fileInfo) Sys() any           { return i.info }

func (i fileInfo) Mode() fs.FileMode {
	mode := fs.FileMode(i.info.Mode) & fs.ModePerm
	switch i.info.Type {
	case cove.TypeDirectory:
		mode |= fs.ModeDir
	case cove.TypeSymlink:
		mode |= fs.ModeSymlink
	case cove.TypeOther:
		mode |= fs.ModeIrregular
	}
	return mode
}

// file is an open file.
type file struct {
	fs     *fileSystem
	name   string
	at     string
	info   fileInfo
	body   io.ReadCloser
	closed bool
}

func (f *file) Stat() (fs.FileInfo, error) {
	if f.closed {
		return nil, &fs.PathError{Op: "stat", Path: f.name, Err: fs.ErrClosed}
	}
	return f.info, nil
}

func (f *file) Read(p []byte) (int, error) {
	if f.closed {
		return 0, &fs.PathError{Op: "read", Path: f.name, Err: fs.ErrClosed}
	}
	if f.body == nil {
		body, err := f.fs.files.OpenFile(f.fs.ctx, f.at)
		if err != nil {
			return 0, pathError("read", f.name, err)
		}
		f.body = body
	}
	return f.body.Read(p)
}

func (f *file) Close() error {
	if f.closed {
		return &fs.PathError{Op: "close", Path: f.name, Err: fs.ErrClosed}
	}
	f.closed = true
	if f.body != nil {
		return f.body.Close()
	}
	return nil
}

// dir is an open directory.
type dir struct {
	*file
	entries []fs.DirEntry
	listed  bool
}

func (d *dir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.name, Err: errors.New("is a directory")}
}

func (d *dir) ReadDir(n int) ([]fs.DirEntry, error) {
	if d.closed {
		return nil, &fs.PathError{Op: "readdir", Path: d.name, Err: fs.ErrClosed}
	}
	if !d.listed {
		entries, err := d.fs.ReadDir(d.name)
		if err != nil {
			return nil, err
		}
		d.entries, d.listed = entries, true
	}
	if n <= 0 {
		n = len(d.entries)
	} else if len(d.entries) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.entries))
	entries := d.entries[:n]
	d.entries = d.entries[n:]
	return entries, nil
}
