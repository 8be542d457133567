package sandbox

import (
	"context"
	"io"
	"net/http"
	"strings"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
)

// Files are the files of a sandbox. A relative path is below the sandbox's workdir. The
// user "" is the sandbox's own; any other is taken as far as the guest knows it, root
// included: who reads and writes here is the owner of the sandbox, not what runs in it.
type Files struct{ sandbox *Sandbox }

// Files returns the sandbox's files.
func (s *Sandbox) Files() *Files { return &Files{s} }

// resolve makes a path absolute, and leaves "" and an absolute path as they are. It does
// not clean the path: that would change where it leads when there are symlinks.
func (s *Sandbox) resolve(path string) string {
	if path == "" || strings.HasPrefix(path, "/") {
		return path
	}
	return strings.TrimSuffix(s.snapshot().Spec.Workdir, "/") + "/" + path
}

// checkPath notes a path that no file can have.
func checkPath(p *problems, name, path string) {
	switch {
	case path == "":
		p.invalid("give a path", "%s is empty", name)
	case strings.ContainsRune(path, 0):
		p.invalid("remove the NUL from the path", "%s %s has NUL", name, quote(path))
	case len(path) > maxPath:
		p.invalid("use a shorter path", "%s is longer than %d bytes", name, maxPath)
	}
}

// open checks the path and the user of a request and begins a use for it.
func (f *Files) open(ctx context.Context, op, path, user string) (*use, string, error) {
	var p problems
	checkPath(&p, "path", path)
	if user != "" {
		checkUser(&p, user)
		f.sandbox.host.forbidUser(&p, user)
	}
	if err := p.err(op); err != nil {
		return nil, "", err
	}
	u, err := f.sandbox.use(ctx, op, path)
	return u, f.sandbox.resolve(path), err
}

// do runs one exchange about a path.
func (f *Files) do(ctx context.Context, op, path, user string, exchange func(u *use, path string) error) error {
	u, path, err := f.open(ctx, op, path, user)
	if err != nil {
		return err
	}
	defer u.close()
	return u.fail(exchange(u, path))
}

// Stat describes a file; a symlink is not followed.
func (f *Files) Stat(ctx context.Context, path, user string) (info cove.FileInfo, err error) {
	err = f.do(ctx, "stat", path, user, func(u *use, path string) error {
		info, err = u.client.Stat(u.ctx, path, user)
		return err
	})
	return info, err
}

// List returns what is below a directory, depth levels deep, in one flat list. A depth of
// 0 means 1.
func (f *Files) List(ctx context.Context, path string, depth int, user string) (list []cove.FileInfo, err error) {
	if depth < 0 {
		return nil, cove.Errorf(cove.Invalid, "list", path, "the depth is negative", "use 1 for the directory itself")
	}
	err = f.do(ctx, "list", path, user, func(u *use, path string) error {
		list, err = u.client.ListDir(u.ctx, path, depth, user)
		return err
	})
	return list, err
}

// MakeDir makes a directory and its parents. One that exists is cove.Conflict.
func (f *Files) MakeDir(ctx context.Context, path, user string) (info cove.FileInfo, err error) {
	err = f.do(ctx, "make directory", path, user, func(u *use, path string) error {
		info, err = u.client.MakeDir(u.ctx, path, user)
		return err
	})
	return info, err
}

// Move renames a file or directory and makes the parents of its new place.
func (f *Files) Move(ctx context.Context, from, to, user string) (info cove.FileInfo, err error) {
	var p problems
	checkPath(&p, "destination", to)
	if err := p.err("move"); err != nil {
		return info, err
	}
	err = f.do(ctx, "move", from, user, func(u *use, from string) error {
		info, err = u.client.Move(u.ctx, from, f.sandbox.resolve(to), user)
		return err
	})
	return info, err
}

// Remove removes a file, or a directory with everything in it. One that does not exist
// is no error.
func (f *Files) Remove(ctx context.Context, path, user string) error {
	return f.do(ctx, "remove", path, user, func(u *use, path string) error {
		return u.client.Remove(u.ctx, path, user)
	})
}

// Read reads a file, as GET does in HTTP: the range and condition headers in header are
// heeded, so that the reply is also a 206 or a 304. The caller closes its body.
func (f *Files) Read(ctx context.Context, path, user string, header http.Header) (*http.Response, error) {
	u, path, err := f.open(ctx, "read file", path, user)
	if err != nil {
		return nil, err
	}
	response, err := u.client.ReadFile(u.ctx, path, user, header)
	if err != nil {
		defer u.close()
		return nil, u.fail(err)
	}
	response.Body = &body{response.Body, u}
	return response, nil
}

// Write replaces a file by what r holds, all of it or, on error, none. A nil mode keeps
// that of an existing file and gives a new one 0644.
func (f *Files) Write(ctx context.Context, path, user string, r io.Reader, mode *uint32) (info cove.FileInfo, err error) {
	err = f.do(ctx, "write file", path, user, func(u *use, path string) error {
		info, err = u.client.WriteFile(u.ctx, path, user, r, mode)
		return err
	})
	return info, err
}

// Archive returns a tar of a file, or of what is in a directory with names relative to
// it. An archive that breaks off ends in an error and never in io.EOF.
func (f *Files) Archive(ctx context.Context, path, user string) (io.ReadCloser, error) {
	u, path, err := f.open(ctx, "archive", path, user)
	if err != nil {
		return nil, err
	}
	archive, err := u.client.Archive(u.ctx, path, user)
	if err != nil {
		defer u.close()
		return nil, u.fail(err)
	}
	return &body{archive, u}, nil
}

// Extract unpacks a tar into a directory, which is made where it is missing.
func (f *Files) Extract(ctx context.Context, path, user string, r io.Reader) error {
	return f.do(ctx, "extract", path, user, func(u *use, path string) error {
		return u.client.Extract(u.ctx, path, user, r)
	})
}

// body is a stream of a use, which ends with it.
type body struct {
	io.ReadCloser
	use *use
}

// Read reads the next piece.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = b.use.fail(err)
	}
	return n, err
}

// Close ends the stream and the use.
func (b *body) Close() error {
	defer b.use.close()
	return b.ReadCloser.Close()
}

// Watch is a stream of what happens to files. It is used by one goroutine, but Close may
// be called by any.
type Watch struct {
	watch *dial.Watch
	use   *use
}

// Watch reports what happens in a directory, and with recursive in everything below it,
// from before it returns. It ends with ctx.
func (f *Files) Watch(ctx context.Context, path string, recursive bool, user string) (*Watch, error) {
	u, path, err := f.open(ctx, "watch", path, user)
	if err != nil {
		return nil, err
	}
	watch, err := u.client.Watch(u.ctx, path, recursive, user)
	if err != nil {
		defer u.close()
		return nil, u.fail(err)
	}
	return &Watch{watch, u}, nil
}

// Next returns the next event. An error that is cove.Exhausted means that events came
// faster than they were read and some are lost.
func (w *Watch) Next() (cove.FileEvent, error) {
	event, err := w.watch.Next()
	if err != nil && err != io.EOF {
		err = w.use.fail(err)
	}
	return event, err
}

// Close ends the watch. A second call does nothing.
func (w *Watch) Close() error {
	defer w.use.close()
	return w.watch.Close()
}
